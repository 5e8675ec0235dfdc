"""The embedded subset against its checksum, and against Debian's files where they are installed."""

import hashlib
import importlib.util
from pathlib import Path

import numpy as np

from mimlab import data
from mimlab.data import fashion_mnist

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def test_pixels():
    pixels = fashion_mnist.arrays()
    assert pixels.shape == (10, 1400, 28, 28) and pixels.dtype == np.uint8
    assert hashlib.sha256(pixels).hexdigest() == fashion_mnist.SHA256
    if DEBIAN.is_dir():
        script = fashion_mnist.FOLDER / "make_fashion_mnist.py"
        spec = importlib.util.spec_from_file_location("make_fashion_mnist", script)
        make = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(make)
        for split, place in (("train", slice(0, 1200)), ("t10k", slice(1200, 1400))):
            images, labels = make.images(DEBIAN, split)
            for label in range(10):
                first = images[labels == label][: place.stop - place.start]
                assert np.array_equal(pixels[label, place], first)


def test_open():
    test = data.open("fashion_mnist", "test", size=28)
    assert len(test) == 2000 and test.classes[0] == "T-shirt/top" and test.classes[9] == "Ankle boot"
    assert np.bincount(test.labels).tolist() == [200] * 10
    pixels = fashion_mnist.arrays()
    images = test.get([0, 1, 25])
    assert (images[:, 0] == images[:, 2]).all()  # grey
    for image, (label, place) in zip(images, [(0, 0), (1, 0), (5, 2)], strict=True):
        assert np.array_equal(image[0].numpy(), pixels[label, 1200 + place])


def test_size_on_disk():
    files = list(fashion_mnist.FOLDER.glob("fashion_mnist*"))
    assert sum(f.stat().st_size for f in files) <= 5_500_000
    assert max(f.stat().st_size for f in files) < 3_000_000
    assert "MIT License" in (fashion_mnist.FOLDER / "fashion_mnist.LICENSE").read_text()
