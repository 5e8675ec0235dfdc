"""Fashion-MNIST (Xiao et al., 2017): a class-balanced subset of 12,000 + 2,000 grey images of 28 x 28 that
lies in the package.

The first 1,200 training and 200 test images of each of the ten classes, lossless, MIT licence;
`embedded/make_fashion_mnist.py` made it.
"""

import hashlib
import io
import lzma
from pathlib import Path

import numpy as np
from PIL import Image

from mimlab.errors import Refused, shown

CLASSES = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
]
PLACES = {"train": slice(0, 1200), "test": slice(1200, 1400)}  # of each class's 1,400 images
SHA256 = "cd685fb97626cacd37435ac13cfeb8bcb3e69905c0654cfde517c03dd212fc19"  # of all decoded bytes, class by class
FOLDER = Path(__file__).parent / "embedded"


def arrays():
    """All images by class, uint8 (10, 1400, 28, 28): 1,200 for training, then 200 for testing."""
    raw = b"".join(lzma.decompress((FOLDER / f"fashion_mnist_{label}.xz").read_bytes()) for label in range(10))
    pixels = np.frombuffer(raw, np.uint8).reshape(10, 1400, 28, 28).swapaxes(2, 3)  # stored column by column
    pixels = np.ascontiguousarray(pixels)
    if hashlib.sha256(pixels).hexdigest() != SHA256:
        raise Refused(f"{FOLDER}: the images differ from those that mimlab came with; install it again")
    return pixels


def fingerprint(split):
    """The checksum of the images; both splits come from the same files."""
    return SHA256


def load(split):
    """A `datasets.Dataset` with image and label; split "train" (12,000) or "test" (2,000)."""
    import datasets

    if split not in PLACES:
        raise Refused(f"fashion_mnist has no split {shown(split)}; there are: {', '.join(PLACES)}")
    pixels = arrays()[:, PLACES[split]]  # (10, n, 28, 28)
    n = pixels.shape[1]
    order = np.arange(10 * n).reshape(10, n).T.ravel()  # classes take turns: any prefix is nearly balanced
    images = [{"bytes": _png(image), "path": None} for image in pixels.reshape(-1, 28, 28)[order]]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=CLASSES))
    return datasets.Dataset.from_dict({"image": images, "label": order // n}, features=features)


def _png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png", compress_level=1)
    return file.getvalue()
