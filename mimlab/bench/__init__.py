"""How fast pre-training is, and how far from what the machine can do: `mimlab bench`.

A *case* is something that makes training steps: a method of mimlab, the same model written plainly with timm
(`plain/`), a public implementation that is installed (`peers/`), or the bare matrix products of a step (`replay.py`).
Each case of a method lives in a process of its own (`child.py`) and they take turns, in shuffled order (`rounds.py`), so that
a busy machine slows all alike and none meets what another left in memory; their ratios are taken round by round. All begin
anew some times: two processes of the same case differ by up to a fifth for as long as they live.

`sizes.py` names configurations, `ready.py` makes inputs, `case.py` cases of mimlab, `others.py` the others, `products.py`
counts matrix products, `works.py` says what each process does, `memory.py` asks a fresh one, `measure.py` puts a method's
rows together, `table.py` prints them, `command.py` is the command.
"""
