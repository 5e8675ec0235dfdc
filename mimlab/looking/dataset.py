"""`mimlab data`: what a data set is, before any run: what is taken and left out, images a class, crops, near-duplicates.

Near-duplicates: two images are the same where all their bytes at `size` pixels are; they are near where their thumbnails,
`THUMB` x `THUMB` RGB, less their mean and of length 1, have a product of at least `NEAR`. What is compared at a time is
bounded (`ROOM`), whatever the number of images.
"""

import argparse
import html
import os
from pathlib import Path

import numpy as np
import torch

from mimlab import data, yaml_text
from mimlab.data._listed import line, text
from mimlab.errors import Refused, one_line, shown

THUMB, NEAR = 16, 0.99
ROOM = 2**22  # products at a time
LISTED = 20  # pairs and classes that are told
SHOWN = 12  # pictures of a split


def command(what, rest):
    """`mimlab data WHAT [--size N] [--out FILE] [--OPTION VALUE ...]`: the text to print. Raises `Refused`."""
    name, given = _named(what)
    reader = argparse.ArgumentParser(prog=f"mimlab data {one_line(what)}", allow_abbrev=False, add_help=False)
    reader.add_argument("--size", default="64")
    reader.add_argument("--out")
    own = [option for option in data.options(name) if option not in ("size", "fraction", "seed")]  # a run sets these
    for option in own:
        reader.add_argument(f"--{option}", dest=f"option {option}")
    reader.exit_on_error = False
    try:
        found, strange = reader.parse_known_args(rest)
    except argparse.ArgumentError as error:
        raise Refused(f"data: {error}") from None
    if strange:
        raise Refused(
            f"data: {shown(strange[0])} is no option of {name}; there are: --size, --out, "
            f"{', '.join(f'--{option}' for option in own)}"
        )
    asked = {key.removeprefix("option "): value for key, value in vars(found).items() if value is not None}
    out, size = asked.pop("out", None), asked.pop("size")
    if not size.isdecimal() or not 8 <= int(size) <= 1024:
        raise Refused(f"size = {shown(size)} should be a number of pixels from 8 to 1024")
    given |= {key: value if key in ("path", "id") else yaml_text.load(value, key) for key, value in asked.items()}
    if out is not None:
        out = _free(out)
    seen = look(name, size=int(size), **given)
    said = seen.text()
    if out is not None:
        seen.write(out)
        said += f"\npictures: {out}"
    return said


def _named(what):
    """(name of a source, its options) of a path, an address, a hub's owner/name, or a source's name."""
    from mimlab import remote

    if what in data.sources():
        return what, {}
    path = Path(what).expanduser()
    if remote.away(what) or os.path.exists(path):
        return ("mimlab.detection.data.coco" if _coco(path) else "folder"), {"path": what}
    if what.count("/") == 1 and not what.startswith((".", "/", "~")) and not what.endswith("/"):
        return "hub", {"id": what}
    if "." in what and "/" not in what and not what.endswith(".zip"):
        data.source(what)  # refused where there is no such module
        return what, {}
    raise Refused(f"data: {shown(what)} is neither a folder or zip, nor owner/name of a hub, nor a source ({', '.join(data.sources())})")  # fmt: skip


def _coco(path):
    """Whether a folder or zip holds annotations as COCO names them."""
    import zipfile

    if path.is_dir():
        return any(path.glob("instances*.json")) or any(path.glob("annotations/instances*.json"))
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as pack:
            return any(n.split("/")[-1].startswith("instances") and n.endswith(".json") for n in pack.namelist())
    return False


def _free(out):
    out = Path(out)
    if out.suffix not in (".html", ".png") or not out.parent.is_dir():
        raise Refused(f"out = {shown(str(out))}: give a path that ends in .html or .png, in a folder that exists")
    if os.path.lexists(out):
        raise Refused(f"out = {shown(str(out))} is there; choose another name")
    return out


def look(name, *, size=64, **given):
    """A `Seen` of a data set, opened at `size` pixels; `given`: the source's options."""
    first = data.open(name, "train", size=size, **given)
    splits = {"train": first}
    named = [part for part in first.about.get("images", {}) if part not in ("train", "test")]
    for part in ("test", *named[:8]):
        try:
            splits[part] = data.open(name, part, size=size, **given)
        except Refused as error:
            splits.setdefault(part, str(error))
    if "test" in splits and name == "photographs":
        splits["test"] = "both splits are the same five photographs"
    return Seen(name, size, given, splits)


class Seen:
    """`splits`: name -> `mimlab.data.Images`, or why there is none. `pairs`: of test and training images that are alike."""

    def __init__(self, name, size, given, splits):
        self.name, self.size, self.given, self.splits = name, size, given, splits
        self.images = {part: one for part, one in splits.items() if isinstance(one, data.Images)}
        self.same, self.near, self.pairs = 0, 0, []
        if "test" in self.images:
            self.same, self.near, self.pairs = duplicates(self.images["train"], self.images["test"])

    def counts(self):
        """Rows of a table: a class each, with its images in each split."""
        known = {part: one for part, one in self.images.items() if one.labels is not None}
        classes = next((one.classes for one in known.values()), None) or []
        each = {part: np.bincount(one.labels, minlength=len(classes)).tolist() for part, one in known.items()}
        return [{"class": name} | {part: each[part][k] for part in each} for k, name in enumerate(classes)]

    def lines(self):
        said = [f"data = {self.name}  {'  '.join(f'{k} = {shown(v)}' for k, v in self.given.items())}".rstrip()]
        rows = self.counts()
        for part, one in self.splits.items():
            if not isinstance(one, data.Images):
                said.append(f"{part}: {one}")
                continue
            what = "no labels" if one.labels is None else f"{len(np.unique(one.labels))} of {len(one.classes)} classes"
            said.append(f"{part}: {len(one):,} images, {what}")
            if one.labels is not None:
                counts = sorted(((row[part], row["class"]) for row in rows), reverse=True)
                listed = ", ".join(f"{text(name)} {n:,}" for n, name in counts[:LISTED])
                rest = f", and {len(counts) - LISTED:,} more down to {counts[-1][0]:,}" if len(counts) > LISTED else ""
                said.append(f"  images a class: {listed}{rest}")
        about = [one.about for one in self.images.values()]
        out = list(dict.fromkeys(filter(None, (line(one) for one in about))))
        said += [f"left out: {one}" for one in out] or ["left out: nothing"]
        said += [f"note: {one}" for one in dict.fromkeys(note for one in about for note in one.get("notes", []))]
        if "test" in self.images:
            total = len(self.images["test"])
            said.append(
                f"of {total:,} test images {self.same:,} are also training images, pixel for pixel at {self.size} px, and "
                f"{self.near:,} more are near one (thumbnails of {THUMB} x {THUMB} that agree by {NEAR} or more)"
            )
            said += [f"  test {test} and train {train}: {value:.4f}" for value, test, train in self.pairs[:LISTED]]
        return said

    def text(self):
        """What is told on a terminal, a fact a line."""
        return "\n".join(one_line(said) for said in self.lines())

    def cells(self, part):
        """(caption, uint8 (3, S, S)) of some images of a split, each followed by a random crop as training takes them."""
        from mimlab.data.augment import Augment
        from mimlab.distributed import generator_for

        images, cells = self.images[part], []
        rows = np.unique(np.linspace(0, len(images) - 1, min(SHOWN, len(images))).astype(int))
        pixels = images.get(rows)
        crops = Augment(self.size)(pixels, generator=generator_for(0, 0, "data")) * 255
        for k, row in enumerate(rows):
            label = "" if images.labels is None else f" {text(images.classes[images.labels[row]])}"
            cells += [(f"{part} {row}{label}", pixels[k]), ("a crop of it", crops[k].round().to(torch.uint8))]
        return cells

    def alike(self):
        """(caption, image) of the pairs that are most alike, test image first."""
        cells = []
        for value, test, train in self.pairs[: SHOWN // 2]:
            pixels = (self.images["test"].get([test])[0], self.images["train"].get([train])[0])
            cells += [(f"test {test} ({value:.3f})", pixels[0]), (f"train {train}", pixels[1])]
        return cells

    def write(self, out):
        """A page, or with the suffix .png the pictures alone. Raises `Refused`."""
        import io

        from mimlab.viewers.pictures import data_uri, strip

        sheets = {f"{part}, each with a crop of it": self.cells(part) for part in self.images}
        if self.pairs:
            sheets["test and training images that are alike"] = self.alike()
        if out.suffix == ".png":
            file = io.BytesIO()
            strip([cell for cells in sheets.values() for cell in cells]).save(file, "PNG")
            return _write(out, file.getvalue())
        from mimlab import page

        body = "<h1>Data</h1>\n" + "".join(page.note(said) for said in self.lines())
        for title, cells in sheets.items():
            body += f"<h2>{html.escape(title)}</h2>\n"
            body += f'<img alt="{html.escape(title)}" src="{data_uri(strip(cells), "PNG")}">\n'
        rows = self.counts()
        body += page.table(rows[:1000], f"images a class ({len(rows):,} classes)") if rows else ""
        return _write(out, page.page(f"mimlab: {self.name}", body).encode("utf-8", "backslashreplace"))


def _write(out, content):
    """Write a file that must not be there yet, aside and renamed."""
    aside = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        aside.write_bytes(content)
        os.link(aside, out)  # fails where another has appeared meanwhile
    except FileExistsError:
        raise Refused(f"out = {shown(str(out))} is there; choose another name") from None
    except OSError as error:
        raise Refused(f"out = {shown(str(out))}: {error.strerror or error}") from None
    finally:
        aside.unlink(missing_ok=True)


def duplicates(train, test):
    """(how many test images are training images, how many more are near one, [(likeness, test row, train row)]).

    The pairs are each test image's nearest training image, most alike first; the module says by which rule.
    """
    from mimlab.evals._labels import hashes

    own, other = hashes(test), hashes(train)
    order = np.argsort(other, kind="stable")
    place = np.minimum(np.searchsorted(other[order], own), len(other) - 1)
    same = other[order][place] == own
    best, where = np.full(len(test), -1.0, np.float32), np.zeros(len(test), np.int64)
    queries = np.concatenate([thumbnails(pixels) for pixels, _ in test.batches(1024)])
    start = 0
    for pixels, _ in train.batches(1024):
        bank = thumbnails(pixels)
        for first in range(0, len(queries), max(1, ROOM // len(bank))):
            part = slice(first, first + max(1, ROOM // len(bank)))
            likeness = queries[part] @ bank.T
            nearest = likeness.argmax(axis=1)
            value = likeness[np.arange(len(nearest)), nearest]
            better = value > best[part]
            best[part] = np.where(better, value, best[part])
            where[part] = np.where(better, nearest + start, where[part])
        start += len(bank)
    best[same], where[same] = 1.0, order[place][same]
    near = (best >= NEAR) & ~same
    rows = np.flatnonzero(same | near)
    rows = rows[np.lexsort((rows, -best[rows], ~same[rows]))]
    return int(same.sum()), int(near.sum()), [(float(best[k]), int(k), int(where[k])) for k in rows[:1000]]


def thumbnails(pixels):
    """uint8 images (B, 3, S, S) as float32 (B, D), less their mean, of length 1; 0 for an even one, like to nothing."""
    small = torch.nn.functional.adaptive_avg_pool2d(pixels.float(), THUMB).flatten(1)
    small = small - small.mean(dim=1, keepdim=True)
    length = small.norm(dim=1, keepdim=True)
    return torch.where(length > 1, small / length.clamp(min=1), 0).numpy()
