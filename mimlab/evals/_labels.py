"""Labels and splits, looked at before anything is computed: missing, out of range, or images on both sides."""

import contextlib
import copy
import hashlib
import os

import numpy as np

from mimlab import data
from mimlab.data.cache import digest
from mimlab.errors import Refused, shown
from mimlab.find import checks

options_checked = checks("evaluation_args", reserved=("seed", "device", "cache"))


def check(train, test):
    """Number of classes of two labelled `Images`.

    Refuses missing labels, labels outside [0, classes), two different lists of classes, and no test images.
    """
    for images in (train, test):
        images.require_labels()
    if not len(test):
        raise Refused(f"{test.name} ({test.split}) has no images to test on")
    if train.classes is not None and test.classes is not None and list(train.classes) != list(test.classes):
        raise Refused(
            f"{train.name} and {test.name} have different classes ({len(train.classes)} and {len(test.classes)}); "
            "the labels of one mean nothing for the other"
        )
    known = train.classes if train.classes is not None else test.classes
    classes = int(train.labels.max()) + 1 if known is None else len(known)
    for images in (train, test):
        wrong = images.labels[(images.labels < 0) | (images.labels >= classes)]
        if len(wrong):
            raise Refused(
                f"data = {shown(images.name)} ({images.split}): {len(wrong)} labels are outside 0 to {classes - 1}, such as "
                f"{int(wrong[0])}; there are {classes} classes"
            )
    return classes


def take(images, rows):
    """The same `Images` with some of its rows only, int64 (M,), and a fingerprint of its own."""
    rows = np.asarray(rows, np.int64)
    part = copy.copy(images)
    part.rows, part.labels = images.rows[rows], images.labels[rows]
    part.fingerprint = digest(images.fingerprint, rows.tobytes())
    return part


def hold_out(images, share, seed):
    """Labelled `Images` in two: what is left to train on, and `share` of every class held out."""
    rows = split(images.labels, share, seed)
    if not len(rows[1]):
        raise Refused(f"validation = {share}: no class has images enough to hold one out; use a larger share")
    held = take(images, rows[1])
    held.split = "validation"
    return take(images, rows[0]), held


def split(labels, share, seed):
    """Rows to train on and rows held out, `share` of every class, at least one of each is left to train on."""
    kept = data.subset(labels, 1 - share, seed)
    return kept, np.setdiff1d(np.arange(len(labels)), kept)


def overlap(train, test):
    """How many test images are also training images, by the hash of their cached pixels: exact duplicates.

    Refused where that is all of them: nothing would be tested.
    """
    found = int(np.isin(hashes(test), hashes(train)).sum())
    if found == len(test):
        raise Refused(
            f"data = {shown(test.name)}: all {found} images of {test.split} are also training images, so nothing would be tested; "
            "use data with a split of its own"
        )
    return found


def hashes(images):
    """64 bits of each image's pixels, uint64 (N,); computed once for a fingerprint, then read from MIMLAB_HOME."""
    path = data.home() / "hashes" / f"{images.fingerprint}.npy"
    if path.is_file():
        with contextlib.suppress(ValueError, EOFError, OSError, MemoryError):  # damaged on the disk: computed anew
            found = np.load(path, allow_pickle=False)
            if found.dtype == np.uint64 and found.shape == (len(images),):
                return found
    found = [
        int.from_bytes(hashlib.blake2b(one.tobytes(), digest_size=8).digest(), "little")
        for pixels, _ in images.batches(1024)
        for one in pixels.numpy()
    ]
    found = np.array(found, np.uint64)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}.{os.getpid()}.npy")
    np.save(aside, found)
    aside.replace(path)
    return found
