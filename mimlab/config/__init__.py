"""Frozen flat settings, one dataclass a command and a file; the same names in a notebook cell, on the command line and in json."""

from mimlab.config.evaluate import Evaluate
from mimlab.config.explore import Explore
from mimlab.config.look import Look
from mimlab.config.pretrain import Pretrain

__all__ = ["Evaluate", "Explore", "Look", "Pretrain"]
