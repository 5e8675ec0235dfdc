"""Decode and resize once: a data set becomes one memory-mapped uint8 file (N, 3, S, S).

`home()/images/<key>/` holds `images.npy`, `labels.npy` where there are labels, and `meta.json`. The folder is
written aside and renamed, so that what has its final name is complete.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
import warnings
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image, ImageColor

from mimlab import data, strict
from mimlab.data._decode import SAMPLES, Unreadable, Values, decode
from mimlab.data._listed import listed, some, text
from mimlab.errors import Refused, shown

__all__ = ["Stored", "Unreadable", "build", "colour", "decode", "digest", "folder", "stored"]

VERSION = 1  # raise it when the pixels of ordinary 8-bit images would come out differently: runs cannot go on then
FORMAT = 2  # of meta.json and of how other images are decoded: a cache of another one is built anew
CHUNK = 256  # images decoded between two writes

Stored = namedtuple("Stored", "pixels labels classes skipped about", defaults=({},))


class Damaged(Exception):
    """A cache that is not what was written: its message says what is wrong."""


def digest(*parts):
    """A 32-digit hex text of texts, numbers, bytes and dicts."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        raw = part if isinstance(part, bytes) else strict.dumps(part, sort_keys=True, default=str).encode()
        state.update(len(raw).to_bytes(8) + raw)
    return state.hexdigest()


def colour(background):
    """(r, g, b) of a colour name or "#rrggbb"; `Refused` for anything else."""
    try:
        return ImageColor.getrgb(background)[:3]
    except (ValueError, AttributeError, TypeError):
        raise Refused(f"background = {shown(background)} is no colour; try 'white', 'grey' or '#7f7f7f'") from None


def folder(key):
    return data.home() / "images" / key


def stored(key, size=None):
    """The finished cache called `key`, or None. Reads three headers and the labels; pixels stay on disk until used.

    size: pixels that it should have; None: any. Raises `Damaged` for files that are cut, missing or do not fit together.
    """
    place = folder(key)
    if not place.is_dir():
        return None
    try:
        meta = json.loads((place / "meta.json").read_text(encoding="utf-8"))  # our own file, in MIMLAB_HOME
        if meta.get("format") != FORMAT:
            raise Damaged(f"it has format {shown(meta.get('format', 1))}, not {FORMAT}")
        labels = np.load(place / "labels.npy", allow_pickle=False) if meta["labelled"] else None
        pixels = np.load(place / "images.npy", mmap_mode="r", allow_pickle=False)
        _check(place, meta, labels, pixels, size)
        return Stored(pixels, labels, meta["classes"], meta["skipped"], meta["about"])
    except (
        ValueError,
        EOFError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        FileNotFoundError,
        MemoryError,
    ) as error:
        raise Damaged(str(error) or type(error).__name__) from None


def _check(place, meta, labels, pixels, size):
    rows = meta["rows"]
    if pixels.ndim != 4 or pixels.dtype != np.uint8 or pixels.shape[:2] != (rows, 3) or not rows:
        raise Damaged(f"images.npy has {pixels.dtype} {pixels.shape} for {rows} images")
    if pixels.shape[2] != pixels.shape[3] or size not in (None, pixels.shape[2]):
        raise Damaged(f"images.npy has images of {pixels.shape[2]} x {pixels.shape[3]}, not {size} pixels")
    if pixels.offset + pixels.nbytes != (place / "images.npy").stat().st_size:
        raise Damaged("images.npy is not as long as its head says")
    if not isinstance(meta["skipped"], list) or not isinstance(meta["about"], dict):
        raise Damaged("meta.json lacks lists")
    if labels is not None:
        classes = meta["classes"]
        if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
            raise Damaged("meta.json has no names of classes")
        if labels.shape != (rows,) or labels.dtype != np.int64 or labels.min() < 0 or labels.max() >= len(classes):
            raise Damaged(f"labels.npy does not have {rows} labels of {len(classes)} classes")


def build(key, load, *, size, background, unreadable, range="auto", deciding=None):
    """Make the cache called `key` from the `Listed` or `datasets.Dataset` that `load()` returns.

    One process builds, others that want the same wait for it. range: of images wider than 8 bits, "auto" or [low, high];
    deciding: a function like `load`, whose images decide "auto"; None: those of `load`. `Refused` where the disk is too
    small or cannot be written to, for an unreadable image or one without its label (unless `unreadable` is "skip") and
    where no image is left. A damaged cache is built anew, with a line that says so.
    """
    place = folder(key)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _lock(place.with_name(f".{key}.lock")):
            try:
                done = stored(key, size)
            except Damaged as error:
                print(f"mimlab: the image cache {place} is damaged or old ({error}); it is built anew", file=sys.stderr)
                done = None
            if done is None:
                found = listed(load())
                samples = [lambda: listed(deciding()).files(SAMPLES)] if deciding is not None else []
                values = Values(range, [*samples, lambda: found.files(SAMPLES)])
                _build_aside(place, found, size, background, unreadable, values)
                done = stored(key, size)
            return done
    except OSError as error:
        raise Refused(
            f"the cache folder {place.parent}: {error.strerror or error}; set MIMLAB_HOME elsewhere"
        ) from error


def _build_aside(place, found, size, background, unreadable, values):
    aside = place.with_name(f".{place.name}.partial")  # holding the lock: a left-over is from a process that died
    shutil.rmtree(aside, ignore_errors=True)
    _check_space(place.parent, len(found), size)
    aside.mkdir()
    try:
        _write(aside, found, size, background, unreadable, values)
        if place.is_symlink() or place.is_file():
            place.unlink()
        elif place.exists():  # a damaged one
            shutil.rmtree(place)
        os.rename(aside, place)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _check_space(parent, n, size):
    needed, free = n * 3 * size * size + 2**20, shutil.disk_usage(parent).free
    if needed > free:
        raise Refused(
            f"size = {size}: the cache of {n:,} images needs {needed / 1e6:,.0f} MB and {parent} has "
            f"{free / 1e6:,.0f} MB left; set MIMLAB_HOME to a larger disk, or use a smaller size"
        )


def _write(aside, found, size, background, unreadable, values):
    """`images.npy`, `labels.npy` and `meta.json` of `found`, a `Listed`, in the folder `aside`, synced to the disk."""
    labels = _labels(found, unreadable)
    rows = (
        np.arange(len(found)) if labels is None else np.flatnonzero(labels >= 0)
    ).tolist()  # datasets before 4.1 takes no numpy numbers
    seen, skipped, kept = set(), [], []

    def attempt(k):
        """uint8 (3, size, size), or the reason as a text: one bad file must not end the threads of the others."""
        pages = set()
        try:
            pixels = decode(lambda: found.open(k), size, background, values, seen=pages)
        except Unreadable as reason:
            return str(reason)
        if pages:
            seen.add(int(k))
        return pixels

    # plain writes, not a writable map: on a full disk a map kills the process, a write raises
    with (
        open(aside / "images.npy", "wb") as file,
        ThreadPoolExecutor(torch.get_num_threads()) as threads,
        _bar(len(rows)) as bar,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `decode` refuses these itself
        _header(file, len(rows), size)
        for start in range(0, len(rows), CHUNK):
            for k, result in zip(rows[start : start + CHUNK], threads.map(attempt, rows[start : start + CHUNK])):
                if isinstance(result, np.ndarray):
                    file.write(result)
                    kept.append(k)
                    continue
                name = text(str(found.names[k]))
                if unreadable == "error":
                    threads.shutdown(cancel_futures=True)
                    raise Refused(f"{name}: {result}; unreadable='skip' leaves such files out")
                skipped.append(name)
            bar.update(min(CHUNK, len(rows) - start))
        if not kept:
            raise Refused(f"none of the {len(found):,} images could be read; the first is {skipped[:1]}")
        file.seek(0)
        _header(file, len(kept), size)
        file.flush()
        os.fsync(file.fileno())
    if labels is not None:
        with open(aside / "labels.npy", "wb") as file:
            np.save(file, labels[kept])
            file.flush()
            os.fsync(file.fileno())
    meta = {"format": FORMAT, "rows": len(kept), "labelled": labels is not None, "skipped": skipped}
    meta |= {"classes": None if labels is None else found.classes}
    meta |= {"about": _about(found, len(rows), skipped, seen, values)}
    with open(aside / "meta.json", "w", encoding="utf-8") as file:
        file.write(strict.dumps(meta))
        file.flush()
        os.fsync(file.fileno())


def _labels(found, unreadable):
    """int64 (N,) with -1 for what is to be left out, or None where no image has a label. Raises `Refused`."""
    if found.labels is None or not len(found) or found.labels.max() < 0:
        return None  # hubs mark withheld test labels by -1
    missing = np.flatnonzero(found.labels < 0)
    if len(missing) and unreadable == "error":
        raise Refused(
            f"{len(missing):,} of {len(found):,} images have no label, such as {text(str(found.names[missing[0]]))}; "
            "unreadable='skip' leaves them out, label=None takes all images without labels"
        )
    if found.labels.max() >= len(found.classes):
        raise Refused(f"label {found.labels.max()} is none of the {len(found.classes)} classes")
    return found.labels


def _about(found, rows, skipped, pages, values):
    """The source's summary, and what decoding added to it."""
    out, notes = {}, []
    if rows < len(found):
        out["without a label"] = len(found) - rows
    if skipped:
        out["unreadable"] = some(skipped)
    if pages:
        first = text(str(found.names[min(pages)]))
        notes.append(
            f"{len(pages):,} files hold several pages or frames, of which the first was taken, such as {first}"
        )
    for kind, (low, high) in values.known.items():
        kind = "whole numbers wider than 8 bits" if kind == "whole" else "floats"
        notes.append(f"images of {kind}: {low:g} to {high:g} became 0 to 255, by the training images (range = 'auto')")
    if values.given != "auto":
        notes.append(f"images wider than 8 bits: {values.given[0]:g} to {values.given[1]:g} became 0 to 255 (range)")
    return joined(found.about, {"decoded": {"left_out": out, "notes": notes}})


def joined(source, built):
    """A source's summary with what decoding added to another one of the same images."""
    added = built.get("decoded", {"left_out": {}, "notes": []})
    out = source.get("left_out", {}) | added["left_out"]
    return source | {"left_out": out, "notes": [*source.get("notes", []), *added["notes"]], "decoded": added}


def _header(file, n, size):
    """The head of a .npy file; numpy pads it so that its length is the same for every n."""
    head = {"descr": "|u1", "fortran_order": False, "shape": (n, 3, size, size)}
    np.lib.format.write_array_header_1_0(file, head)


@contextlib.contextmanager
def _lock(path):
    """Only one process at a time inside; the kernel lets go of the lock when its holder dies."""
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _bar(total):
    from tqdm import tqdm

    return tqdm(total=total, unit="image", desc="decoding", file=sys.stderr, disable=not sys.stderr.isatty())
