"""Emoji pasted on photographs: images with exact boxes, instance masks and semantic masks, in any number.

"scene": two to six small objects anywhere, which may hide parts of each other. "object": one large one, near the centre.
The same content in both, so they answer whether a method needs images of one centred object. Image `index` is a pure
function of the options and the index.

What is held out for testing: a fifth of the emoji (as in `mimlab.data.emoji`), and of each of scikit-image's five
photographs the part behind `KEPT` of its longer side. Masks are of visible pixels: at least half opaque, and not covered.
"""

from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
import torch

from mimlab import kinds
from mimlab.data import cache, emoji, photographs
from mimlab.detection.data import SPLITS, annotated, rows
from mimlab.errors import Refused, shown

KEPT = 0.65  # of a photograph's longer side are for training
OPAQUE = 128  # of 255
LEAST_VISIBLE = 0.5  # of an object that others cover
EACH = 4  # emoji a group where every emoji is a class of its own
TRIES = 12  # places for an object before it is left out
PIXELS = 12  # an object has at least so many visible


def open(
    split,
    *,
    size: Annotated[int, (32, 1024)] = 96,
    train: Annotated[int, (1, 1_000_000)] = 1000,
    test: Annotated[int, (1, 1_000_000)] = 200,
    layout: Literal["scene", "object"] = "scene",
    classes: Literal["group", "emoji", "any"] = "group",
    seed: kinds.Seed = 0,
):
    """The `Scenes` of a split: `train` or `test` squares of `size` pixels.

    classes: "group", the five of Unicode; "any", one class, emoji; "emoji", four of each group, each its own class,
    the same in both splits (only photographs, sizes, angles and places are new in the test).
    """
    if split not in SPLITS:
        raise Refused(f"split = {shown(split)}; scenes has train and test")
    return Scenes(split, train if split == "train" else test, size, layout, classes, seed)


def fingerprint(split, *, size=96, train=1000, test=200, layout="scene", classes="group", seed=0):
    """For `mimlab.data`: changes with the options, the emoji and the photographs."""
    return open(split, size=size, train=train, test=test, layout=layout, classes=classes, seed=seed).fingerprint


def load(split, *, size=96, train=1000, test=200, layout="scene", classes="group", seed=0):
    """For `mimlab.data`: the images; of layout "object" with the class of the object as label."""
    pictures = open(split, size=size, train=train, test=test, layout=layout, classes=classes, seed=seed)
    return rows(pictures, labelled=layout == "object")


class Scenes:
    """`classes`: names; `item(index)`: a `Picture`."""

    def __init__(self, split, count, size, layout, classes, seed):
        self.split, self.count, self.size, self.layout, self.seed = split, count, size, layout, seed
        self.drawings, self.labels, self.classes = _emoji(split, classes)
        parts = (
            "scenes, labels of single objects",
            split,
            count,
            size,
            layout,
            classes,
            seed,
            emoji.SHA256,
            photographs.fingerprint(split),
        )
        self.fingerprint = cache.digest(*parts)

    def __len__(self):
        return self.count

    def shared(self, other):
        """How many of these images are in the split `other`: none, as the photographs' parts differ."""
        return 0

    def item(self, index):
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        draw = np.random.default_rng((self.seed, SPLITS.index(self.split), index))
        canvas = _background(self.split, self.size, draw)
        low, high = (2, 6) if self.layout == "scene" else (1, 1)
        labels, masks = [], []
        for _ in range(draw.integers(low, high + 1)):
            number = int(draw.integers(len(self.drawings)))
            found = self._place(self.drawings[number], masks, draw)
            if found is not None:
                pixels, alpha, mask = found
                canvas = canvas * (1 - alpha) + pixels * alpha
                masks = [before & ~mask for before in masks] + [mask]
                labels.append(self.labels[number] + 1)
        image = torch.from_numpy(canvas.round().clip(0, 255).astype(np.uint8)).permute(2, 0, 1).contiguous()
        return annotated([box(mask) for mask in masks], labels, np.array(masks), image)

    def _place(self, drawing, masks, draw):
        """Colours, opacity (S, S, 1) and mask (S, S) of a drawing at a free place, or None where there is none."""
        low, high = (0.16, 0.42) if self.layout == "scene" else (0.5, 0.85)
        whole = [mask.sum() for mask in masks]
        for _ in range(TRIES):
            side = round(self.size * draw.uniform(low, high))
            stamp = _stamp(drawing, side, draw.uniform(-20, 20), draw.random() < 0.5)
            if self.layout == "scene":
                top, left = draw.integers(self.size - side + 1, size=2)
            else:
                top, left = ((self.size - side) / 2 + draw.uniform(-0.06, 0.06, 2) * self.size).round().astype(int)
            top, left = (int(np.clip(x, 0, self.size - side)) for x in (top, left))
            full = np.zeros((self.size, self.size, 4), np.float32)
            full[top : top + side, left : left + side] = stamp
            mask = full[..., 3] >= OPAQUE
            left_over = [(before & ~mask).sum() for before in masks]
            enough = all(n >= max(PIXELS, LEAST_VISIBLE * m) for n, m in zip(left_over, whole, strict=True))
            if enough and mask.sum() >= PIXELS:
                return full[..., :3], full[..., 3:] / 255, mask
        return None


def box(mask):
    """Left, top, right, bottom of the pixels of a mask (H, W), right and bottom outside."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def _stamp(drawing, side, degrees, mirrored):
    from PIL import Image

    turned = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else drawing
    turned = turned.convert("RGBa").rotate(degrees, Image.Resampling.BICUBIC)  # opacity multiplied in: no dark rims
    return np.asarray(turned.resize((side, side), Image.Resampling.LANCZOS).convert("RGBA"), np.float32)


def _background(split, size, draw):
    """A random square of the split's part of a photograph, (size, size, 3) float."""
    from PIL import Image

    photographs_ = _photographs()
    picture = photographs_[int(draw.integers(len(photographs_)))]
    width, height = picture.size
    wide = width >= height
    cut = round(KEPT * max(width, height))
    start, length = (0, cut) if split == "train" else (cut, max(width, height) - cut)
    most = min(length, min(width, height))
    side = int(draw.integers(max(1, min(most // 3, size)), most + 1))
    along, across = start + draw.integers(length - side + 1), draw.integers(min(width, height) - side + 1)
    left, top = (along, across) if wide else (across, along)
    area = (int(left), int(top), int(left) + side, int(top) + side)
    pixels = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, area), np.float32)
    return pixels[:, ::-1] if draw.random() < 0.5 else pixels


@lru_cache(maxsize=1)
def _photographs():
    from PIL import Image

    return [Image.open(file).convert("RGB") for file in photographs.files()]


@lru_cache(maxsize=4)
def _emoji(split, classes):
    """Drawings (RGBA, 64 x 64), the class of each from 0, and the classes' names."""
    if classes == "emoji":
        rows = emoji.load("train")
        names, groups = rows.features["label"].names, np.array(rows["label"])
        chosen = [int(i) for group in range(len(names)) for i in np.flatnonzero(groups == group)[::7][:EACH]]
        drawings = [rows[i]["image"].convert("RGBA") for i in chosen]
        return drawings, list(range(len(chosen))), [f"{names[groups[i]].split()[0]} {i}" for i in chosen]
    rows = emoji.load(split)
    drawings = [picture.convert("RGBA") for picture in rows["image"]]
    if classes == "any":
        return drawings, [0] * len(drawings), ["emoji"]
    return drawings, list(rows["label"]), list(rows.features["label"].names)
