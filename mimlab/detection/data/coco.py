"""Any data in COCO's format: a folder or a zip with images and a JSON of instances. Nothing is unpacked.

The JSON has `images`, `annotations` and `categories` (Lin et al. 2014, arXiv 1405.0312); masks are polygons or run lengths.
The split of an image is the JSON's column `split` where there is one, else the file: `instances_train*.json` and
`instances_val*.json`, or two that are named. Categories without an instance in the training images are left out
of the classes, and their objects with them, from both splits.

What a JSON may leave out is taken from elsewhere, and what is there and makes no sense is refused when it is opened, never
while training: the size of an image comes from its file, a box from its mask, an area from its mask or else its box, the name
of a category from its number. Images are decoded as all others are (`mimlab.data._decode`), upright by their EXIF tag;
only where the JSON gives the size as stored, and not the upright one, is the image left as it is stored.
"""

import contextlib
import json
import os
import stat
import zipfile
import zlib
from typing import Annotated, Literal

import numpy as np
import torch

from mimlab import strict
from mimlab.data import _splits, cache, folder, home
from mimlab.data._contents import contents
from mimlab.data._decode import SAMPLES, Unreadable, Values, measured, picture
from mimlab.data._listed import Listed, some, text
from mimlab.detection.data import SPLITS, annotated
from mimlab.errors import Refused, shown

JSON = 2**30  # bytes of the annotations, unpacked
LARGEST = 2**31  # pixels

Value = Annotated[float, (-1e12, 1e12)]
RANGE = Literal["auto"] | Annotated[tuple[Value, Value], "rising"]


def location(given):
    """Options that say where the images are and not what they are."""
    return ("path",)


def open(
    split,
    *,
    path: str | None = None,
    train_json: str | None = None,
    test_json: str | None = None,
    images: str | None = None,
    most: Annotated[int, (1, 10_000_000)] | None = None,
    range: RANGE = "auto",
):
    """The `Coco` of a split.

    path: the folder or zip. train_json, test_json: names in it, where they cannot be guessed. images: a folder in it before
    `file_name`; None: looked for, as in COCO, where instances_train2017.json is of the images in train2017. most: so many
    images at most, the first ones. range: of images wider than 8 bits, "auto" or [low, high]. Images without objects are kept.
    """
    if split not in SPLITS:
        raise Refused(f"split = {shown(split)}; there are: train, test")
    if path is None:
        raise Refused("data_args: coco needs the option 'path', a folder or a .zip")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise Refused(f"most = {shown(most)} should be a number of images, 1 or more, or None for all")
    for option, given in (("train_json", train_json), ("test_json", test_json), ("images", images)):
        if given is not None and not isinstance(given, str):
            raise Refused(f"{option} = {shown(given)} should be a name inside of path, or None")
    store = Store(path)
    given = {"train": train_json, "test": test_json}
    table = {name: _table(store, name, given[name], images, most if name == split else 0) for name in SPLITS}
    both = set(table["train"]["names"]) & set(table["test"]["names"])
    if both:
        raise Refused(
            f"path = {shown(str(path))}: {len(both)} images are in both splits, such as {shown(min(both))}; test on others"
        )
    used = {one["category_id"] for one in table["train"]["annotations"]}
    categories = [one for one in table["train"]["categories"] if one["id"] in used]
    if not categories:
        raise Refused(f"path = {shown(str(path))}: the training images have no annotated object")
    train = table["train"]["names"][:most]
    return Coco(store, split, table[split], categories, most, Values(range, [Samples(store, train)]))


def fingerprint(split, *, path=None, train_json=None, test_json=None, images=None, most=None):
    """For `mimlab.data`: changes with the images, the annotations and their choice."""
    return open(split, path=path, train_json=train_json, test_json=test_json, images=images, most=most).fingerprint


def load(split, *, path=None, train_json=None, test_json=None, images=None, most=None):
    """For `mimlab.data`: the images without labels, a `Listed`."""
    found = open(split, path=path, train_json=train_json, test_json=test_json, images=images, most=most)
    return Listed([text(name) for name in found.names], lambda k: found.store.file(found.names[k]), about=found.about)


class Samples:
    """Files that decide the range of wide images; an object, since loader processes are sent it."""

    def __init__(self, store, names):
        self.store, self.names = store, names[:: max(1, -(-len(names) // SAMPLES))]

    def __call__(self):
        return [lambda name=name: self.store.file(name) for name in self.names]


class Coco:
    """`classes`: names; `item(index)`: a `Picture`; `names`: the files, in order of the JSON; `about`: what was taken."""

    def __init__(self, store, split, table, categories, most, values):
        self.store, self.split, self.values = store, split, values
        self.classes = [one["name"] for one in categories]
        self.codes = {one["id"]: code for code, one in enumerate(categories, 1)}
        self.images, self.names = table["images"][:most], table["names"][:most]
        self.objects, other = {}, 0
        for one in table["annotations"]:
            if one["category_id"] in self.codes:
                self.objects.setdefault(one["image_id"], []).append(one)
            else:
                other += 1
        store.check(self.names)
        out = {
            "images of no split": table["others"],
            "objects of classes that training lacks": other,
        }
        self.about = {"images": {split: len(self.images)}, "classes": len(self.classes), "notes": []}
        self.about["left_out"] = {what: count for what, count in out.items() if count}
        objects = {str(k): v for k, v in self.objects.items()}
        self.fingerprint = cache.digest("coco", split, self.classes, self.names, objects, store.content(self.names))

    def __len__(self):
        return len(self.images)

    def shared(self, other):
        """How many of these images have the same bytes as one of the split `other`."""
        theirs = set(other.store.contents(other.names))
        return sum(content in theirs for content in self.store.contents(self.names, among=theirs))

    def item(self, index):
        name, told = self.names[index], self.images[index]
        try:
            found = picture(self.store.file(name), values=self.values, told=told["size"])
        except Unreadable as reason:
            raise Refused(f"image {shown(text(name))} cannot be decoded ({reason})") from None
        image = torch.from_numpy(np.array(found)).permute(2, 0, 1).contiguous()
        height, width = image.shape[1:]
        if (width, height) != told["size"]:
            raise Refused(f"image {shown(text(name))} has changed while it was used")
        boxes, labels, masks, areas, crowd = [], [], [], [], []
        for one in self.objects.get(told["id"], ()):
            box = one["bbox"]
            if box is not None:
                left, top, wide, high = box
                box = [min(max(0, x), end) for x, end in zip((left, top, left + wide, top + high), (width, height) * 2)]
            mask = decode(one["segmentation"], box, height, width)
            boxes.append(box if box is not None else around(mask))
            labels.append(self.codes[one["category_id"]])
            masks.append(mask)
            areas.append(float(mask.sum()) if one["area"] is None else one["area"])
            crowd.append(one["iscrowd"])
        return annotated(boxes, labels, np.array(masks), image, areas, crowd)


def around(mask):
    """Left, top, right, bottom of the pixels of a mask (H, W); nothing of an empty one."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1] if len(rows) else [0, 0, 0, 0]


def decode(segmentation, box, height, width):
    """uint8 (height, width) of polygons [[x, y, ...], ...], or run lengths {"counts", "size"} as a list or COCO's text; without
    either the whole box."""
    from faster_coco_eval import mask as runs

    if not segmentation:
        mask = np.zeros((height, width), np.uint8)
        left, top, right, bottom = (max(0, round(side)) for side in box)
        mask[top:bottom, left:right] = 1
        return mask
    if isinstance(segmentation, dict):
        if list(segmentation["size"]) != [height, width]:
            raise Refused(f"a mask of {segmentation['size']} pixels lies on an image of {height} x {width}")
        listed = isinstance(segmentation["counts"], list)
        return runs.decode(runs.frPyObjects(segmentation, height, width) if listed else segmentation)
    return runs.decode(runs.merge(runs.frPyObjects(segmentation, height, width)))


class Store:
    """Files of a folder or of a zip, by relative name."""

    def __init__(self, path):
        self.path = folder.existing(path)
        self.members, self.pack = None, (None, None)
        if not self.path.is_dir():
            with folder.opened_zip(self.path) as pack:
                self.members = set(pack.namelist())

    def jsons(self):
        """Names of all .json files."""
        if self.members is not None:
            return sorted(name for name in self.members if name.endswith(".json"))
        return sorted(file.relative_to(self.path).as_posix() for file in self.path.rglob("*.json") if file.is_file())

    def has(self, name):
        return name in self.members if self.members is not None else (self.path / name).is_file()

    def check(self, names):
        """Refuse a name that points outside, or to nothing."""
        for name in names:
            if folder.outside(name):
                raise Refused(f"path = {shown(str(self.path))}: the name {shown(name)} points outside")
            if not self.has(name):
                raise Refused(
                    f"path = {shown(str(self.path))} has no file {shown(name)}, which its JSON names; option images is a folder before it"
                )

    def contents(self, names, among=None):
        """A (size, checksum) an image. In a folder only files of the sizes in `among` are read, the others have None."""
        if self.members is not None:
            with zipfile.ZipFile(self.path) as pack:
                return [(pack.getinfo(name).file_size, pack.getinfo(name).CRC) for name in names]
        sizes = {size for size, _ in among} if among is not None else None
        found = []
        for name in names:
            size = (self.path / name).stat().st_size
            known = sizes is None or size in sizes
            found.append((size, zlib.crc32(self.read(name)) if known else None))
        return found

    def content(self, names):
        """One text of what these files hold, wherever they lie."""
        if self.members is not None:
            return cache.digest(self.contents(names))
        return contents(self.path, [(name, (self.path / name).stat()) for name in dict.fromkeys(names)])

    def file(self, name):
        """What opens an image: its path, or of a zip its bytes. Raises `Unreadable`."""
        if self.members is None:
            return os.fspath(self.path / name)
        return folder.unpacked(self._zip(), name)

    def _zip(self):
        """The open zip; each process has its own, as they cannot share one."""
        if self.pack[0] != os.getpid():
            self.pack = os.getpid(), folder.opened_zip(self.path)
        return self.pack[1]

    def __getstate__(self):
        return self.__dict__ | {"pack": (None, None)}

    def read(self, name, most=JSON):
        """All bytes of a file. Raises `Refused` above `most`, and for a damaged one."""
        try:
            if self.members is None:
                state = (self.path / name).stat()
                if not stat.S_ISREG(state.st_mode) or state.st_size > most:
                    raise Unreadable(f"{state.st_size:,} bytes, and {most:,} are the limit")
                return (self.path / name).read_bytes()
            return folder.unpacked(self._zip(), name, most).read()
        except (Unreadable, OSError) as reason:
            raise Refused(f"path = {shown(str(self.path))}: {text(name)} cannot be read ({reason})") from None


def _table(store, split, given, images_in, measured):
    """The JSON of a split, reduced to its images, the names of their files, and their annotations, each with all keys.

    measured: how many images are looked at in their files, None for all.
    """
    there = store.jsons()
    if given is not None and given not in there:
        raise Refused(
            f"data_args: {shown(str(store.path))} has no {shown(given)}; there are: {', '.join(some(map(text, there))) or 'no JSON'}"
        )
    own = [
        name
        for name in there
        if name.split("/")[-1].startswith("instances") and _of(name.split("/")[-1].removesuffix(".json"), split)
    ]
    chosen = given or (own[0] if len(own) == 1 else there[0] if len(there) == 1 else None)
    if chosen is None:
        raise Refused(
            f"path = {shown(str(store.path))}: which JSON has the {split} images? give {split}_json; there are: "
            f"{', '.join(some(map(text, there))) or 'none'}"
        )
    where = f"path = {shown(str(store.path))}: {text(chosen)}"
    try:
        raw = store.read(chosen)
        table, memo = json.loads(raw), Memo("coco masks", cache.digest(raw))
        images, others = table["images"], 0
        if not all(isinstance(table[key], list) for key in ("images", "annotations", "categories")):
            raise TypeError("images, annotations and categories should be lists")
        if any("split" in one for one in images):
            others = sum(_splits.role(one.get("split")) is None for one in images)
            roles = {_splits.role(one.get("split")) for one in images}
            parts = (split,) if split == "train" or "test" in roles else ("test", "val")
            images = [one for one in images if _splits.role(one.get("split")) in parts]
        elif chosen in there[:1] and len(there) == 1:
            raise Refused(
                f"path = {shown(str(store.path))}: its one JSON marks no image as train or test; give another as {split}_json"
            )
        images = [_image(one, where) for one in images]
        if len({one["id"] for one in images}) < len(images):
            raise Refused(f"{where} has two images of one id")
        names = _located(store, [one["file_name"] for one in images], images_in, chosen)
        _measure(store, images[:measured], names[:measured])
        sizes = {one["id"]: one["size"] for one in images}
        categories = [
            {"id": one["id"], "name": text(str(one["id"] if one.get("name") in (None, "") else one["name"]))}
            for one in table["categories"]
        ]
        known = {one["id"] for one in categories}
        annotations = [one for one in table["annotations"] if one["image_id"] in sizes]
        strange = {one["category_id"] for one in annotations} - known
        if strange:
            raise Refused(f"{where} has objects of the categories {shown(sorted(strange)[:5])}, which it does not name")
        checked = memo.read() is not None
        annotations = [_object(one, sizes[one["image_id"]], where, checked) for one in annotations]
        memo.write("whole")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, Refused):
            raise
        raise Refused(f"{where} is not COCO's format ({shown(error)})") from None
    return {
        "images": images,
        "names": names,
        "annotations": annotations,
        "categories": categories,
        "others": others,
    }


class Memo:
    """A text that is kept for what was looked at once (MIMLAB_HOME/contents)."""

    def __init__(self, *parts):
        self.path = home() / "contents" / cache.digest(*parts)

    def read(self):
        with contextlib.suppress(OSError, ValueError):
            return self.path.read_text(encoding="utf-8")

    def write(self, said):
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            aside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
            aside.write_text(said, encoding="utf-8")
            aside.replace(self.path)


def _measure(store, images, names):
    """Give each image the size that it will be decoded in; refuse one that its JSON gives another size."""
    store.check(names)
    memo = Memo("coco sizes", store.content(names), names)
    try:
        known = json.loads(memo.read() or "null")
        known = known if len(known) == len(names) and all(len(one) == 3 for one in known) else None
    except (ValueError, TypeError):
        known = None
    if known is None:
        known = []
        for name in names:
            try:
                known.append(measured(store.file(name)))
            except Unreadable as reason:
                raise Refused(f"image {shown(text(name))} cannot be decoded ({reason})") from None
        memo.write(strict.dumps(known))
    for one, name, (width, height, swapped) in zip(images, names, known):
        stored, upright = (width, height), (height, width) if swapped else (width, height)
        told = one["size"]
        if told not in (None, upright, stored):
            raise Refused(
                f"image {shown(text(name))} has {upright[1]} x {upright[0]} pixels, its JSON says {told[1]} x {told[0]}"
            )
        one["size"] = told or upright


def _of(name, split):
    """Whether a file's name, such as instances_val2017, is of a split; val where it is for testing."""
    roles = {_splits.role(word) for word in name.replace("-", "_").split("_")}
    return split in roles if split == "train" else bool(roles & {"test", "val"})


def _number(value, what, low=-LARGEST, high=LARGEST):
    if isinstance(value, str):  # "40"
        with contextlib.suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:  # nan, too
        raise Refused(f"{what} = {shown(value)} is no number from {low} to {high}")
    return value


def _image(one, where):
    """{"id", "file_name", "size": (width, height) or None, from the file} of an image of the JSON."""
    name, sides = one["file_name"], [one.get("width"), one.get("height")]
    if not isinstance(name, str) or not name:
        raise Refused(f"{where}: file_name = {shown(name)} is no name of a file")
    if None in sides:
        return {"id": one["id"], "file_name": name, "size": None}
    sides = [_number(side, f"{where}: the size of {shown(name)}", 1) for side in sides]
    if any(side != int(side) for side in sides):
        raise Refused(f"{where}: the size of {shown(name)} = {shown(sides)} is not in whole pixels")
    return {"id": one["id"], "file_name": name, "size": (int(sides[0]), int(sides[1]))}


def _object(one, size, where, checked):
    """An annotation with all keys, each of which makes sense: bbox [left, top, wide, high] or None, area or None."""
    what = f"{where}: object {shown(one.get('id'))}"
    box, mask, area = one.get("bbox"), one.get("segmentation"), one.get("area")
    if box is not None and box != []:
        if not isinstance(box, (list, tuple)) or len(box) != 4:
            raise Refused(f"{what}: bbox = {shown(box)} is not [left, top, width, height]")
        box = [_number(side, f"{what}: bbox") for side in box]
        if box[2] < 0 or box[3] < 0:
            raise Refused(f"{what}: bbox = {shown(box)} has a negative side; it is [left, top, width, height]")
    else:
        box = None
    mask = _mask(mask, size, what, checked)
    if box is None and not mask:
        raise Refused(f"{what} has neither bbox nor segmentation")
    area = None if area is None else float(_number(area, f"{what}: area", 0, LARGEST**2))
    crowd = one.get("iscrowd")
    if crowd not in (None, 0, 1):
        raise Refused(f"{what}: iscrowd = {shown(crowd)} should be 0 or 1")
    kept = {"image_id": one["image_id"], "category_id": one["category_id"], "bbox": box, "area": area}
    return kept | {"segmentation": mask, "iscrowd": bool(crowd)}


def _mask(mask, size, what, checked):
    """A segmentation that `decode` can draw on an image of `size`, (width, height) or None; None for an empty one.

    checked: whether run lengths as text have been looked at before.
    """
    if mask is None or mask == [] or mask == {} or mask == [[]]:
        return None
    if isinstance(mask, list):
        flat = all(not isinstance(one, (list, tuple)) for one in mask)
        polygons = [mask] if flat else mask  # a flat one is a single polygon
        for one in polygons:
            if not isinstance(one, (list, tuple)) or len(one) % 2 or len(one) < 6:
                raise Refused(f"{what}: segmentation has {shown(one)}, which is no polygon [x, y, x, y, x, y, ...]")
        return [[float(_number(x, f"{what}: segmentation")) for x in one] for one in polygons]
    if not isinstance(mask, dict) or not isinstance(mask.get("size"), list) or len(mask["size"]) != 2:
        raise Refused(f'{what}: segmentation = {shown(mask)} is neither polygons nor {{"counts", "size"}}')
    high, wide = (int(_number(side, f"{what}: the size of its mask", 1)) for side in mask["size"])
    if size is not None and (wide, high) != size:
        raise Refused(f"{what}: a mask of {shown([high, wide])} pixels lies on an image of {size[1]} x {size[0]}")
    counts = mask.get("counts")
    if isinstance(counts, str):
        runs = [high * wide] if checked else _runs(counts, what)
    elif isinstance(counts, list):
        runs = [_number(run, f"{what}: a run of its mask", 0) for run in counts]
        if any(run != int(run) for run in runs):
            raise Refused(f"{what}: runs of its mask are not whole numbers")
        runs = counts = [int(run) for run in runs]
    else:
        raise Refused(f"{what}: counts = {shown(counts)} of its mask are neither a list nor COCO's text")
    if sum(runs) != high * wide:
        raise Refused(f"{what}: the runs of its mask are of {sum(runs):,} pixels, and it has {high} x {wide}")
    return {"size": [high, wide], "counts": counts}


def _runs(text_, what):
    """Run lengths of COCO's text: little groups of five bits, each but the first two runs as a difference (maskApi.c)."""
    runs, place = [], 0
    while place < len(text_):
        x, k, more = 0, 0, True
        while more:
            if place >= len(text_) or k > 12:
                raise Refused(f"{what}: the run lengths of its mask are cut off, or damaged")
            c = ord(text_[place]) - 48
            if not 0 <= c < 64:
                raise Refused(f"{what}: the run lengths of its mask hold {shown(text_[place])}")
            x |= (c & 0x1F) << 5 * k
            more = bool(c & 0x20)
            place, k = place + 1, k + 1
            if not more and c & 0x10:
                x |= -1 << 5 * k
        runs.append(x + (runs[-2] if len(runs) > 2 else 0))
        if runs[-1] < 0:
            raise Refused(f"{what}: the run lengths of its mask are damaged (one of {runs[-1]})")
    return runs


def _located(store, names, images_in, chosen):
    """Files with their folder: `images_in`, or the first of the usual ones that has the first image; see `open`."""
    own = chosen.split("/")[-1].removesuffix(".json").removeprefix("instances_")
    places = ["", own, "images", f"images/{own}"] if images_in is None else [images_in, f"{images_in}/{own}"]
    found = next((place for place in places if names and store.has(f"{place}/{names[0]}".lstrip("/"))), places[0])
    return [f"{found}/{name}" if found else name for name in names]
