"""A data set against its number of images: opening it, a subset, the first batch of an epoch, neighbours."""

import contextlib
import os
import tempfile
import time

import numpy as np
import torch

from mimlab import data, strict
from mimlab.batches import Batches
from mimlab.config import Pretrain
from mimlab.data import cache
from mimlab.data.augment import Augment
from mimlab.evals.knn import votes

SOURCE = "mimlab.scale.blank"
CLASSES, WIDTH, QUERIES = 100, 16, 64


@contextlib.contextmanager
def elsewhere():
    """A cache folder of its own while inside, which is thrown away."""
    before = os.environ.get("MIMLAB_HOME")
    with tempfile.TemporaryDirectory() as home:
        os.environ["MIMLAB_HOME"] = home
        try:
            yield home
        finally:
            os.environ.pop("MIMLAB_HOME")
            if before is not None:
                os.environ["MIMLAB_HOME"] = before


def written(count, size, classes=CLASSES):
    """Write the cache of `count` blank images with labels, the pixels as a hole in the file; the options that open it."""
    given = {"count": count, "classes": classes}
    place = cache.folder(data.asked(SOURCE, "train", size, given)[0])
    place.mkdir(parents=True)
    with open(place / "images.npy", "wb") as file:
        head = {"descr": "|u1", "fortran_order": False, "shape": (count, 3, size, size)}
        np.lib.format.write_array_header_1_0(file, head)
        file.truncate(file.tell() + count * 3 * size * size)
    labels = np.random.default_rng(0).integers(0, classes, count)
    np.save(place / "labels.npy", labels)
    meta = {"format": cache.FORMAT, "rows": count, "labelled": True, "skipped": [], "about": {}}
    meta |= {"classes": [str(k) for k in range(classes)]}
    (place / "meta.json").write_text(strict.dumps(meta))
    return given


def costs(count, size=32, rounds=3):
    """{part: seconds of processor time} of a data set of `count` images of `size` pixels; the least of `rounds`.

    "open": from the cache; "open 1 %": a class-balanced share; "first batch": 64 images, with the epoch's order;
    "neighbours": the votes of the 20 nearest of all images, for 64 queries at 16 dimensions.
    """
    with elsewhere():
        given = written(count, size)
        images = data.open(SOURCE, size=size, **given)
        augment, cfg = Augment(size), Pretrain(batch_size=64)
        bank = torch.rand(count, WIDTH, generator=torch.Generator().manual_seed(0)) - 0.5
        labels = torch.from_numpy(images.labels)
        parts = {
            "open": lambda: data.open(SOURCE, size=size, **given),
            "open 1 %": lambda: data.open(SOURCE, size=size, fraction=0.01, **given),
            "first batch": lambda: Batches(images, augment, cfg, count // 64)[0],
            "neighbours": lambda: votes(bank, labels, bank[:QUERIES], k=20, classes=CLASSES),
        }
        return {name: min(_timed(work) for _ in range(rounds)) for name, work in parts.items()}


def _timed(work):
    began = time.process_time()
    work()
    return time.process_time() - began
