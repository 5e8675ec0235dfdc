"""What a split may be called: training, Test, VALID, dev-set, train2017 and so on."""

import re

WORDS = {
    "train": ("train", "training", "trn"),
    "test": ("test", "testing", "tst", "eval", "evaluation"),
    "val": ("val", "valid", "validation", "dev", "devel", "development"),
}
BESIDE = r"[ _.-]?(?:set|split|data|images?|imgs?|20\d\d)?"


def role(name):
    """ "train", "test", "val", or None where a name means none of them."""
    for part, words in WORDS.items():
        if re.fullmatch(rf"(?:{'|'.join(words)}){BESIDE}", str(name).casefold().strip()):
            return part
    return None


def named(wanted, there):
    """Those of the names `there` that `wanted` means: itself, else all of its role."""
    return [wanted] if wanted in there else sorted(name for name in there if role(name) and role(name) == role(wanted))
