"""Public implementations, where they are installed (`pip install 'mimlab[peers]'`): each file is one package.

A file defines `MODELS` (method -> a class as in `mimlab.bench.plain`, with a `name`) and `FUSED`, whether that package's own
training uses AdamW in one kernel. Nothing of them is changed; only sizes are set.
"""

from mimlab.find import names


def packages():
    """Names of the files of this folder, which are those of the packages."""
    return names("bench.peers")


def share(shape):
    """A mask ratio with which `int(N * (1 - ratio))` keeps the right number, whatever rounding does."""
    return (shape.hidden - 0.5) / shape.patches
