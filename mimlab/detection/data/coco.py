"""Any data in COCO's format: a folder or a zip with images and a JSON of instances. Nothing is unpacked.

The JSON has `images`, `annotations` and `categories` (Lin et al. 2014, arXiv 1405.0312); masks are polygons or run lengths.
The split of an image is the JSON's column `split` where there is one, else the file: `instances_train*.json` and
`instances_val*.json`, or two that are named. Categories without an instance in the training images are left out
of the classes, and their objects with them, from both splits.
"""

import io
import json
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch

from mimlab import remote
from mimlab.data import cache
from mimlab.detection.data import SPLITS, annotated, rows
from mimlab.errors import Refused

NAMES = {"train": ("train",), "test": ("test", "val", "validation")}  # what a split may be called


def open(split, *, path=None, train_json=None, test_json=None, images=None, most=None):
    """The `Coco` of a split.

    path: the folder or zip. train_json, test_json: names in it, where they cannot be guessed. images: a folder in it before
    `file_name`; None: looked for, as in COCO, where instances_train2017.json is of the images in train2017. most: so many
    images at most, the first ones. Images without objects are kept.
    """
    if split not in SPLITS:
        raise Refused(f"split = {split!r}; there are: train, test")
    if path is None:
        raise Refused("data_args: coco needs the option 'path', a folder or a .zip")
    store = Store(path)
    given = {"train": train_json, "test": test_json}
    table = {name: _table(store, name, given[name], images) for name in SPLITS}
    both = set(table["train"]["names"]) & set(table["test"]["names"])
    if both:
        raise Refused(f"path = '{path}': {len(both)} images are in both splits, such as {min(both)!r}; test on others")
    used = {one["category_id"] for one in table["train"]["annotations"]}
    categories = [one for one in table["train"]["categories"] if one["id"] in used]
    if not categories:
        raise Refused(f"path = '{path}': the training images have no annotated object")
    return Coco(store, split, table[split], categories, most)


def fingerprint(split, *, path=None, train_json=None, test_json=None, images=None, most=None):
    """For `mimlab.data`: changes with the annotations and the choice of images."""
    return open(split, path=path, train_json=train_json, test_json=test_json, images=images, most=most).fingerprint


def load(split, *, path=None, train_json=None, test_json=None, images=None, most=None):
    """For `mimlab.data`: the images without labels."""
    return rows(open(split, path=path, train_json=train_json, test_json=test_json, images=images, most=most))


class Coco:
    """`classes`: names; `item(index)`: a `Picture`; `names`: the files, in order of the JSON."""

    def __init__(self, store, split, table, categories, most):
        self.store, self.split = store, split
        self.classes = [str(one["name"]) for one in categories]
        self.codes = {one["id"]: code for code, one in enumerate(categories, 1)}
        self.images = table["images"][:most]
        self.objects = {}
        for one in table["annotations"]:
            if one["category_id"] in self.codes:
                self.objects.setdefault(one["image_id"], []).append(one)
        self.names = table["names"][:most]
        store.check(self.names)
        self.fingerprint = cache.digest(
            "coco", split, self.classes, self.names, {str(k): v for k, v in self.objects.items()}
        )

    def __len__(self):
        return len(self.images)

    def shared(self, other):
        """How many of these images have the same bytes as one of the split `other`."""
        theirs = set(other.store.contents(other.names))
        return sum(content in theirs for content in self.store.contents(self.names, among=theirs))

    def item(self, index):
        from PIL import Image

        name, told = self.names[index], self.images[index]
        try:
            picture = Image.open(io.BytesIO(self.store.read(name))).convert("RGB")
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise Refused(f"image {name!r} cannot be decoded ({error})") from None
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
        height, width = image.shape[1:]
        if (height, width) != (told["height"], told["width"]):
            raise Refused(
                f"image {name!r} has {height} x {width} pixels, its JSON says {told['height']} x {told['width']}"
            )
        boxes, labels, masks, areas, crowd = [], [], [], [], []
        for one in self.objects.get(told["id"], ()):
            left, top, wide, high = one["bbox"]
            boxes.append([max(0, left), max(0, top), min(width, left + wide), min(height, top + high)])
            labels.append(self.codes[one["category_id"]])
            masks.append(decode(one.get("segmentation"), boxes[-1], height, width))
            areas.append(one.get("area", masks[-1].sum()))
            crowd.append(bool(one.get("iscrowd", 0)))
        return annotated(boxes, labels, np.array(masks), image, areas, crowd)


def decode(segmentation, box, height, width):
    """uint8 (height, width) of polygons [[x, y, ...], ...], or run lengths {"counts", "size"} as a list or COCO's text; without
    either the whole box."""
    from faster_coco_eval import mask as runs

    if not segmentation:
        mask = np.zeros((height, width), np.uint8)
        left, top, right, bottom = (round(side) for side in box)
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
        self.path = remote.here(path) if remote.away(path) else Path(str(path)).expanduser()
        if not self.path.exists():
            raise Refused(f"path = '{path}' does not exist")
        self.members = None
        if not self.path.is_dir():
            try:
                with zipfile.ZipFile(self.path) as pack:
                    self.members = set(pack.namelist())
            except zipfile.BadZipFile:
                raise Refused(f"path = '{path}' is neither a folder nor a zip, or a damaged one") from None

    def jsons(self):
        """Names of all .json files."""
        if self.members is not None:
            return sorted(name for name in self.members if name.endswith(".json"))
        return sorted(file.relative_to(self.path).as_posix() for file in self.path.rglob("*.json"))

    def has(self, name):
        return name in self.members if self.members is not None else (self.path / name).is_file()

    def check(self, names):
        """Refuse a name that points outside, or to nothing."""
        for name in names:
            if name.startswith("/") or "\\" in name or ".." in name.split("/"):
                raise Refused(f"path = '{self.path}': the name {name!r} points outside")
            if not self.has(name):
                raise Refused(
                    f"path = '{self.path}' has no file {name!r}, which its JSON names; option images is a folder before it"
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

    def read(self, name):
        if self.members is None:
            return (self.path / name).read_bytes()
        with zipfile.ZipFile(self.path) as pack:  # opened anew: loader processes cannot share one
            return pack.read(name)


def _table(store, split, given, folder):
    """The JSON of a split, reduced to its images, the names of their files, and their annotations."""
    there = store.jsons()
    if given is not None and given not in there:
        raise Refused(f"data_args: '{store.path}' has no {given!r}; there are: {', '.join(there[:8]) or 'no JSON'}")
    own = [
        n
        for n in there
        if n.split("/")[-1].startswith("instances") and any(w in n.split("/")[-1] for w in NAMES[split])
    ]
    chosen = given or (own[0] if len(own) == 1 else there[0] if len(there) == 1 else None)
    if chosen is None:
        raise Refused(
            f"path = '{store.path}': which JSON has the {split} images? give {split}_json; there are: {', '.join(there[:8]) or 'none'}"
        )
    try:
        table = json.loads(store.read(chosen))
        images = table["images"]
        marked = [one for one in images if "split" in one]
        if marked:
            images = [one for one in images if one.get("split") in NAMES[split]]
        elif chosen in there[:1] and len(there) == 1:
            raise Refused(
                f"path = '{store.path}': its one JSON marks no image as train or test; give another as {split}_json"
            )
        ids, known = {one["id"] for one in images}, {one["id"] for one in table["categories"]}
        annotations = [one for one in table["annotations"] if one["image_id"] in ids]
        strange = {one["category_id"] for one in annotations} - known
        if strange:
            raise Refused(
                f"path = '{store.path}': {chosen} has objects of the categories {sorted(strange)[:5]}, which it does not name"
            )
        names = _located(store, [str(one["file_name"]) for one in images], folder, chosen)
        return {"images": images, "names": names, "annotations": annotations, "categories": table["categories"]}
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"path = '{store.path}': {chosen} is not COCO's format ({error!r})") from None


def _located(store, names, folder, chosen):
    """Files with their folder: `folder`, or the first of the usual ones that has the first image; see `open`."""
    own = chosen.split("/")[-1].removesuffix(".json").removeprefix("instances_")
    places = ["", own, "images", f"images/{own}"] if folder is None else [folder, f"{folder}/{own}"]
    found = next((place for place in places if names and store.has(f"{place}/{names[0]}".lstrip("/"))), places[0])
    return [f"{found}/{name}" if found else name for name in names]
