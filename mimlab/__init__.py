"""mimlab: an interactive workbench for masked image modelling. Public names are imported when first used."""

from mimlab.cores import wait as _wait

__version__ = "0.1.0"
_wait()  # before torch is loaded, which asks once

_WHERE = {
    "Pretrain": "mimlab.config",
    "Detect": "mimlab.config",
    "Evaluate": "mimlab.config",
    "Attend": "mimlab.config",
    "Compare": "mimlab.config",
    "Explore": "mimlab.config",
    "Features": "mimlab.config",
    "Look": "mimlab.config",
    "Scale": "mimlab.config",
    "Study": "mimlab.config",
    "Scenes": "mimlab.config",
    "Tokens": "mimlab.config",
    "Refused": "mimlab.errors",
    "trust": "mimlab.trusted",
    "Run": "mimlab.run",
    "pretrain": "mimlab.train",
    "evaluate": "mimlab.evals",
    "execute": "mimlab.notebook",
}

__all__ = list(_WHERE)


def __getattr__(name):
    if name in _WHERE:
        import importlib

        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'mimlab' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_WHERE])
