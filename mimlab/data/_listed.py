"""What a source's `load` returns: the images of a split, each opened only when it is decoded."""

import io
import unicodedata

import numpy as np

from mimlab.data._decode import Unreadable

SHOWN = 20  # names of one kind that a summary keeps


class Listed:
    """The images of a split, by place.

    names: texts, one an image, as messages and the summary call them. open(k): what opens image k, a path or an open binary
    file; it may raise `Unreadable`. labels: ints (N,), -1 where there is none, or None. classes: names, or None. about:
    a dict of plain values, what the source took and left out.
    """

    def __init__(self, names, open, labels=None, classes=None, about=None):
        self.names, self.open, self.about = names, open, about or {}
        self.labels = None if labels is None else np.asarray(labels, np.int64)
        self.classes = None if labels is None else list(classes)

    def __len__(self):
        return len(self.names)

    def files(self, most):
        """Functions that open at most `most` images, evenly spread."""
        step = max(1, -(-len(self) // most))
        return [lambda k=k: self.open(k) for k in range(0, len(self), step)]

    def dataset(self):
        """The same as a `datasets.Dataset`, in memory."""
        import datasets

        files = [self.open(k) for k in range(len(self))]
        images = [{"bytes": f.read(), "path": None} if hasattr(f, "read") else {"bytes": None, "path": str(f)} for f in files]  # fmt: skip
        columns, features = {"image": images}, {"image": datasets.Image()}
        if self.labels is not None:
            columns["label"], features["label"] = self.labels, datasets.ClassLabel(names=self.classes)
        return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def listed(found):
    """`found` if it is `Listed`, or a `datasets.Dataset` with image and perhaps label (ClassLabel) as one."""
    if isinstance(found, Listed):
        return found
    import datasets

    rows = found.cast_column("image", datasets.Image(decode=False))
    labels = classes = None
    if "label" in found.column_names:
        classes = found.features["label"].names
        labels = np.array([-1 if label is None else label for label in rows["label"]], np.int64)

    def open(k):
        image = rows[k]["image"]
        if image is None or (image["bytes"] is None and image["path"] is None):
            raise Unreadable("there is no image")
        return io.BytesIO(image["bytes"]) if image["bytes"] is not None else image["path"]

    return Listed(_Rows(rows), open, labels, classes, getattr(found, "about", None))


class _Rows:
    """Names of a dataset's rows, read when they are asked for."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, k):
        image = self.rows[k]["image"]
        return (image or {}).get("path") or f"row {k}"


def text(name):
    """A name from a disk or an archive as text that can be printed, and is one however its accents were composed (NFC).

    Bytes that are no UTF-8 become "\\xe9" and the like.
    """
    try:
        plain = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # halves of pairs, which JSON can hold
        plain = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return unicodedata.normalize("NFC", plain)


def some(names):
    """A list of names as a summary keeps it."""
    names = list(names)
    return names if len(names) <= SHOWN else [*names[:SHOWN], f"and {len(names) - SHOWN:,} more"]


def line(about):
    """What was left out, in words, or "" where nothing was: `about` is a summary's dict."""
    parts = []
    for what, found in about.get("left_out", {}).items():
        if isinstance(found, dict):
            found = ", ".join(f"{name} {count:,}" for name, count in found.items())
        parts.append(f"{what}: {', '.join(found) if isinstance(found, list) else found}")
    return "; ".join(parts)
