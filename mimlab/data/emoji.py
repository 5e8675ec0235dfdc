"""Noto emoji (Google, OFL 1.1): 853 drawings of 64 x 64 with exact transparency, in five groups, in the
package.

There is no official test split: a fifth of each group is held out by hash of the name.
`embedded/make_emoji.py` made the file. `background` (any colour) is laid behind the drawings.
"""

from pathlib import Path

from mimlab.data import folder

FILE = Path(__file__).parent / "embedded" / "emoji.zip"
SHA256 = "26d56d7cd4ae3a060bf2810fee3714cabfb3d8cd1c2031e0e4402c0adbe19c3c"  # of the file


def fingerprint(split):
    return SHA256


def load(split):
    """A `datasets.Dataset` with image (RGBA) and label (the group); split "train" or "test"."""
    return folder.load(split, path=FILE, holdout=0.2).dataset()
