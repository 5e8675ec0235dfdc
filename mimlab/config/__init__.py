"""Frozen flat settings, one dataclass a command and a file; the same names in a notebook cell, on the command line and in json."""

from mimlab.config.attend import Attend
from mimlab.config.compare import Compare
from mimlab.config.detect import Detect
from mimlab.config.evaluate import Evaluate
from mimlab.config.explore import Explore
from mimlab.config.features import Features
from mimlab.config.look import Look
from mimlab.config.pretrain import Pretrain
from mimlab.config.scale import Scale
from mimlab.config.study import Scenes, Study
from mimlab.config.tokens import Tokens

__all__ = [
    "Attend",
    "Compare",
    "Detect",
    "Evaluate",
    "Explore",
    "Features",
    "Look",
    "Pretrain",
    "Scale",
    "Scenes",
    "Study",
    "Tokens",
]
