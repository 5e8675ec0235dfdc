"""How fast pre-training is, and how far from what the machine can do: `mimlab bench`.

A *case* is something that makes training steps: a method of mimlab, the same model written plainly with timm
(`plain/`), a public implementation that is installed (`peers/`), or the bare matrix products of a step (`replay.py`).
All cases of a method live in one process and take turns, in shuffled order (`rounds.py`), so that a busy machine slows
all alike; their ratios are taken round by round.

`sizes.py` names configurations, `ready.py` makes inputs, `case.py` cases of mimlab, `products.py` counts matrix
products, `memory.py` asks a fresh process, `loop.py` times `pretrain` itself, `measure.py` puts a method's rows together,
`table.py` prints them, `command.py` is the command.
"""
