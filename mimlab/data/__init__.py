"""Images by name: `open("fashion_mnist", size=32)` decodes a set once and reads it from a memory map ever
after.

A source is one file in this folder, or your own module by dotted name, with two functions whose options
are keyword-only: `load(split, **options)`, a `_listed.Listed`, or a Hugging Face `datasets.Dataset` with the columns
`image` and perhaps `label` (ClassLabel), and `fingerprint(split, **options)`, a text that changes when the images do
and is cheap to make: it is asked for at every opening, `load` only when the cache has to be built. A third one may be
there: `location(options)`, names of options that only say where the images lie; and `opened(split, **options)`, with
`fingerprint`, `load` (without arguments) and `seen`, what was left out, which need not be what a cache was built beside.
"""

import inspect
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from mimlab import find
from mimlab.errors import Refused, one_line, shown

TOOLS = ("augment", "cache", "multicrop")  # files of this folder that are no source
SETTINGS = {"background": "white", "unreadable": "error", "range": "auto"}  # options that every source takes


def home():
    """The cache folder: $MIMLAB_HOME, or ~/.cache/mimlab; read at every call."""
    return Path(os.environ.get("MIMLAB_HOME") or Path.home() / ".cache" / "mimlab").expanduser()


def sources():
    """Names of the sources that come with mimlab, sorted."""
    return [name for name in find.names("data") if name not in TOOLS]


def source(name):
    """The module of the source called `name`; `Refused` where there is none."""
    if isinstance(name, str) and "." not in name and name not in sources():
        raise Refused(f"no data called {shown(name)}{find.closest(name, sources())}; there are: {', '.join(sources())}")
    return find.find("data", name)


def options(name):
    """Options of a source, name -> default (`inspect.Parameter.empty` where one must be given)."""
    return {**find.options(source(name).load), **SETTINGS}


def check(name, given, field="data_args"):
    """Refuse an unknown, missing or impossible option before anything is read; `given` is a dict."""
    known = options(name)
    if not isinstance(given, dict):
        raise Refused(f"{field} = {shown(given)} is not a dict of options, such as {{}}")
    for option in {"size", "fraction", "seed"} & set(given):
        raise Refused(f"{field}: {option} is set by the run itself; leave it out")
    for option in given:
        if option not in known:
            raise Refused(
                f"{field}: {name} has no option {shown(option)}{find.closest(option, known)}; there are: {', '.join(known)}"
            )
    for option, default in known.items():
        if default is inspect.Parameter.empty and option not in given:
            raise Refused(f"{field}: {name} needs the option {shown(option)}")
    find.check_options(field, {one: value for one, value in given.items() if one not in SETTINGS}, source(name).load)
    if given.get("unreadable", "error") not in ("error", "skip"):
        raise Refused(f"{field}: unreadable = {shown(given['unreadable'])} should be 'error' or 'skip'")
    if "background" in given:
        from mimlab.data.cache import colour

        colour(given["background"])
    if "range" in given:
        from mimlab.data._decode import checked

        checked(given["range"])


def location(name, given):
    """Names of the options in `given` that only say where a source's images lie: a run may go on with others."""
    return tuple(getattr(source(name), "location", lambda options: ())(given))


def content(name, split, given):
    """A text that is the same for the same files of a split, wherever they lie and however they are decoded."""
    return asked(name, split, 1, given)[4].fingerprint


def open(name, split="train", *, size, fraction=1.0, seed=0, **given):
    """A split of a data set as square images of `size` pixels, from the cache, which is built where missing.

    name: a file of this folder, or a dotted module; split: "train", "test" or what else the source has.
    fraction, seed: keep a share of every class (see `subset`). given: the source's options, and for every
    source `background` (a colour behind transparent pixels), `unreadable` ("error", or "skip" and list, which is for
    images without their label too) and `range` ("auto", or [low, high] of images wider than 8 bits; see `_decode`).
    """
    from mimlab.data import cache

    _check_fraction(fraction)
    key, module, settings, kept, found = asked(name, split, size, given)
    try:
        stored = cache.stored(key, size)
    except cache.Damaged:
        stored = None
    if stored is None:
        stored = cache.build(
            key,
            found.load,
            size=size,
            deciding=None if split == "train" else lambda: _training(module, split, settings),
            **kept,
        )
    if stored.about.get("seen") != found.seen:  # the same images, with other things beside them
        stored = stored._replace(about=cache.joined(found.load().about, stored.about))
    _tell(key, name, split, stored)
    labels = stored.labels
    rows = np.arange(len(stored.pixels))
    if fraction < 1:
        rows = subset(len(rows) if labels is None else labels, fraction, seed)
        key = cache.digest(key, rows.tobytes())
    return Images(name, split, size, stored, rows, key)


def count(name, split="train", *, size, **given):
    """How many images `open` would have at most: of the cache where it is built, else those that are listed; none is decoded."""
    from mimlab.data import cache
    from mimlab.data._listed import listed

    key, _, _, _, found = asked(name, split, size, given)
    try:
        stored = cache.stored(key, size)
    except cache.Damaged:
        stored = None
    return len(listed(found.load())) if stored is None else len(stored.pixels)


def asked(name, split, size, given):
    """What `open` is asked for: the key of its cache, the source's module and options, a dict of `SETTINGS`, and what `opened` gives.

    The key holds what the images are and what is made of them, and not where they lie.
    """
    from mimlab.data import cache

    check(name, given)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise Refused(f"size = {shown(size)} should be a whole number of pixels, 1 or more")
    settings = {**SETTINGS, **given}
    kept = {key: settings.pop(key) for key in SETTINGS}
    kept["background"], module = cache.colour(kept["background"]), source(name)
    found = _opened(module, split, settings)
    where = location(name, settings)
    what = {option: value for option, value in settings.items() if option not in where}
    if kept["range"] != "auto":
        what["range"] = list(kept["range"])
    key = cache.digest(
        cache.VERSION, module.__name__, split, what, size, kept["background"], kept["unreadable"], found.fingerprint
    )
    return key, module, settings, kept, found


def _opened(module, split, settings):
    if hasattr(module, "opened"):
        return module.opened(split, **settings)
    name = module.fingerprint(split, **settings)
    return SimpleNamespace(fingerprint=name, seen=None, load=lambda: module.load(split, **settings))


def _training(module, split, settings):
    """The training images, whose values decide for all splits; those of `split` where there are none."""
    try:
        return module.load("train", **settings)
    except Refused:
        return module.load(split, **settings)


TOLD = set()


def _tell(key, name, split, stored):
    """Say once in this process what an opening left out, and what about it is likely not meant."""
    from mimlab.data._listed import line

    about = {what: n for what, n in stored.about.get("left_out", {}).items() if what != "names with a dot"}
    said = [f"left out: {line({'left_out': about})}"] if about else []
    said += stored.about.get("notes", [])
    said = one_line(f"data = {name} ({split}): {'; '.join(said)}") if said else None
    if said and (key, said) not in TOLD:
        TOLD.add((key, said))
        print(said, file=sys.stderr)


class Images:
    """A split in memory-mapped form: `get(rows)` copies the rows asked for, nothing else is read.

    name, split, size: as opened. classes: list of names, or None. labels: int64 (N,), or None.
    rows: int64 (N,), places of this subset in the cache. skipped: names of unreadable files left out. about: what the
    source took and left out, a dict of plain values with `images` a split, `left_out` and `notes`.
    fingerprint: hex text of content, size and subset.
    """

    def __init__(self, name, split, size, stored, rows, fingerprint):
        self.name, self.split, self.size = name, split, size
        self.classes, self.skipped = stored.classes, stored.skipped
        self.about = {what: one for what, one in stored.about.items() if what not in ("seen", "decoded")}
        self.labels = None if stored.labels is None else stored.labels[rows]
        self.rows, self.fingerprint = rows, fingerprint
        self._pixels = stored.pixels

    def __getstate__(self):
        """What a loader's worker is sent, where it is not forked: the path of the pixels, not the pixels."""
        state = dict(self.__dict__)
        path = getattr(self._pixels, "filename", None)
        return state if path is None else state | {"_pixels": str(path)}

    def __setstate__(self, state):
        self.__dict__.update(state)
        if isinstance(self._pixels, str):
            self._pixels = np.load(self._pixels, mmap_mode="r", allow_pickle=False)

    def __len__(self):
        return len(self.rows)

    def __repr__(self):
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"Images({self.name!r}, {self.split!r}, {len(self):,} of {self.size} px{classes})"

    def get(self, rows):
        """Images by place in this subset: uint8 (B, 3, size, size), contiguous; IndexError outside [0, N)."""
        rows = np.atleast_1d(np.asarray(rows, dtype=np.int64))  # (B,)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"rows {rows.min()}..{rows.max()} of {len(self)} images")
        return torch.from_numpy(self._pixels[self.rows[rows]])

    def batches(self, batch):
        """All images in order: uint8 (B, 3, size, size), and int64 labels (B,) or None."""
        for start in range(0, len(self), batch):
            rows = np.arange(start, min(start + batch, len(self)))
            labels = None if self.labels is None else torch.from_numpy(self.labels[rows])
            yield self.get(rows), labels

    def require_labels(self):
        """The labels, int64 (N,); `Refused` where the data has none."""
        if self.labels is None:
            raise Refused(
                f"data = {shown(self.name)} ({self.split}) has no labels, which this needs; use labelled data"
            )
        return self.labels


def subset(labels_or_n, fraction, seed):
    """Sorted rows of a share of the data: int64 (M,), the same share of every class and at least one image of
    each.

    labels_or_n: int labels (N,), or N where there are none. Nested: for one seed a smaller fraction is inside
    any larger one. The order comes from a hash of (seed, row), so that no library's random stream can change
    it.
    """
    _check_fraction(fraction)
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise Refused(f"seed = {shown(seed)} should be a whole number")
    n = int(labels_or_n) if np.ndim(labels_or_n) == 0 else len(labels_or_n)
    labels = np.zeros(n, np.int64) if np.ndim(labels_or_n) == 0 else np.asarray(labels_or_n)
    return _first(_scramble(np.arange(n), seed), labels, fraction, at_least=1)


def holdout(names, labels, share):
    """Which rows a set without a test split holds out: bool (N,), `share` of every class, chosen by hash of
    the name.

    names: texts, one a row, which must not depend on the machine. labels: ints (N,), or None.
    """
    from hashlib import blake2b

    from mimlab.data._listed import text

    # a name's accents may be composed in two ways, and its bytes be no UTF-8
    order = np.array([int.from_bytes(blake2b(text(n).encode(), digest_size=8).digest()) for n in names], np.uint64)
    labels = np.zeros(len(names), np.int64) if labels is None else np.asarray(labels)
    held = np.zeros(len(names), bool)
    held[_first(order, labels, share, at_least=0)] = True
    return held


def _first(order, labels, fraction, at_least):
    """Sorted rows with the smallest `order` in each class, round(fraction * class size) of them."""
    rows = np.lexsort((order, labels))  # class by class, each in its order: one sort, however many classes
    sizes = np.unique(labels, return_counts=True)[1]  # (C,)
    counts = np.maximum(at_least, (fraction * sizes + 0.5).astype(np.int64))
    place = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # of a row in its class
    return np.sort(rows[place < np.repeat(counts, sizes)])


def _scramble(rows, seed):
    """A 64-bit hash of (seed, row), uint64 (N,): the finaliser of splitmix64 (Steele et al., 2014), twice."""
    x = rows.astype(np.uint64)
    for salt in (int(seed), 0):
        x = x + np.uint64((salt + 1) * 0x9E3779B97F4A7C15 % 2**64)  # uint64 arrays wrap, as they should here
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = x ^ (x >> np.uint64(31))
    return x


def _check_fraction(fraction):
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction <= 1:
        raise Refused(f"fraction = {shown(fraction)} should be above 0 and at most 1 (0.1 keeps 10 %)")
