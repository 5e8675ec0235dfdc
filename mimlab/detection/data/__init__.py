"""Annotated images by name: a file here with `open(split, **options)`, which returns a split: `classes` (names), `len`,
`item(index)` (a `Picture`), `shared(other)` (how many of its images another split has too), `fingerprint` (a text).

The same files serve `mimlab.data` by their dotted names: `--data mimlab.detection.data.scenes` pre-trains on the same
images, without their boxes and masks (of scenes with one object, its class is the image's label).
"""

import io
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from mimlab.find import check_options, find

SPLITS = ("train", "test")


class Picture(NamedTuple):
    """An image and its K objects.

    image: uint8 (3, H, W). boxes: float (K, 4), left, top, right, bottom in pixels, right and bottom outside. labels:
    int64 (K,), from 1; 0 is background. masks: uint8 (K, H, W), visible pixels are 1. areas: float (K,), square pixels
    that say how large an object is. crowd: bool (K,), regions of many objects, left out in training.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    masks: Tensor
    areas: Tensor
    crowd: Tensor

    def flipped(self):
        """The mirror image."""
        boxes, width = self.boxes.clone(), self.image.shape[2]
        boxes[:, [0, 2]] = width - self.boxes[:, [2, 0]]
        return self._replace(image=self.image.flip(2), boxes=boxes, masks=self.masks.flip(2))

    def resized(self, side, longest):
        """The picture with its shorter side at `side` pixels, the longer at most at `longest`; masks by their nearest pixel."""
        high, wide = self.image.shape[1:]
        share = min(side / min(high, wide), longest / max(high, wide))
        size = [max(1, round(share * one)) for one in (high, wide)]
        image = interpolate(self.image[None].float(), size, mode="bilinear", align_corners=False)[0]
        masks = self.masks.new_zeros(len(self.masks), *size)
        if len(masks):
            masks = interpolate(self.masks[None].float(), size, mode="nearest")[0].to(torch.uint8)
        each = torch.tensor([size[1] / wide, size[0] / high])
        return self._replace(
            image=image.round().to(torch.uint8),
            boxes=self.boxes * each.repeat(2),
            masks=masks,
            areas=self.areas * each.prod(),
        )

    def cut(self, top, left, high, wide):
        """A rectangle of the picture, in pixels; boxes are cut off at its edges, and objects outside of it are left out."""
        boxes = self.boxes - torch.tensor([left, top, left, top])
        boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([wide, high, wide, high]))
        kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        rows, columns = slice(top, top + high), slice(left, left + wide)
        return Picture(
            self.image[:, rows, columns],
            boxes[kept],
            self.labels[kept],
            self.masks[kept][:, rows, columns],
            self.areas[kept],
            self.crowd[kept],
        )

    def target(self):
        """What torchvision's detectors train on: a dict without crowds and without boxes that have no area."""
        kept = ~self.crowd & (self.boxes[:, 2:] > self.boxes[:, :2]).all(dim=1)
        return {"boxes": self.boxes[kept], "labels": self.labels[kept], "masks": self.masks[kept]}

    def semantic(self):
        """The class of every pixel, int64 (H, W): 0 background, 255 crowd; where objects overlap the smaller one."""
        found = torch.zeros(self.image.shape[1:], dtype=torch.int64)
        order = sorted(range(len(self.labels)), key=lambda k: (not self.crowd[k], -float(self.areas[k])))
        for k in order:
            found[self.masks[k].bool()] = 255 if self.crowd[k] else int(self.labels[k])
        return found


def annotated(boxes, labels, masks, image, areas=None, crowd=None):
    """A `Picture` from lists or arrays of any length, none included."""
    k = len(labels)
    masks = torch.as_tensor(masks, dtype=torch.uint8).reshape(k, *image.shape[1:])
    areas = masks.numpy().sum((1, 2)) if areas is None else areas
    return Picture(
        image,
        torch.as_tensor(boxes, dtype=torch.float32).reshape(k, 4),
        torch.as_tensor(labels, dtype=torch.int64).reshape(k),
        masks,
        torch.as_tensor(areas, dtype=torch.float32).reshape(k),
        torch.as_tensor([False] * k if crowd is None else crowd, dtype=torch.bool).reshape(k),
    )


def open(name, split, options):
    """The split "train" or "test" of the source called `name`; options are checked. Raises `Refused`."""
    module = find("detection.data", name)
    check_options("data_args", options, module.open)
    return module.open(split, **options)


def rows(pictures, labelled=False):
    """The images, as `mimlab.data` wants a source: a `datasets.Dataset` with the column image; `labelled`: and label.

    `labelled` is for pictures of one object each, whose class is the label, from 0.
    """
    import datasets
    from PIL import Image

    columns, features = {"image": []}, {"image": datasets.Image()}
    if labelled:
        columns["label"], features["label"] = [], datasets.ClassLabel(names=list(pictures.classes))
    for index in range(len(pictures)):
        picture, file = pictures.item(index), io.BytesIO()
        Image.fromarray(picture.image.permute(1, 2, 0).numpy()).save(file, "PNG", compress_level=1)
        columns["image"].append({"bytes": file.getvalue(), "path": None})
        if labelled:
            columns["label"].append(picture.labels.item() - 1)
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))
