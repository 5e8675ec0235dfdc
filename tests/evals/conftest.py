"""Small labelled images for evaluations: `Images` without a cache on the disk."""

import numpy as np
import pytest

from mimlab.data import Images
from mimlab.data.cache import Stored, digest


def make(count, seed=0, *, side=16, classes=("a", "b", "c", "d"), labels=None, split="train"):
    """Images whose class is the colour of a bright square: red, green, blue or white."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 4 if labels is None else np.asarray(labels)
    pixels = random.integers(0, 60, (count, 3, side, side), dtype=np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        row, column = random.integers(0, side - 4, 2)
        image[label if label < 3 else slice(None), row : row + 4, column : column + 4] = 250
    stored = Stored(pixels, labels.astype(np.int64), list(classes), [])
    return Images("squares", split, side, stored, np.arange(count), digest(pixels.tobytes(), labels.tobytes()))


@pytest.fixture
def squares():
    return make


@pytest.fixture
def encoder():
    import torch

    from mimlab import encoders

    torch.manual_seed(0)
    return encoders.create("vit", 16, 4, dim=24, depth=3, heads=3).eval()
