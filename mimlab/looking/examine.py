"""What notebook 11 looks at: one encoder, another one beside it if wished, and images, each part computed when asked for.

The methods return what the figures and viewers of the same names take; where a part does not exist they raise `Refused`
with the one line that the notebook shows instead.
"""

from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn.functional import interpolate

from mimlab.distributed import generator_for
from mimlab.errors import Refused, shown
from mimlab.looking import features, geometry, probing
from mimlab.looking.features import OUTPUT
from mimlab.looking.opened import open_model

NEAREST = 5  # neighbours in the gallery
QUERIES = 8  # of the gallery, at most
PATCHES, FROM = 2048, 128  # at most, that rank and collapse of patches are measured on, and of how many images


class Sample(NamedTuple):
    """`images` uint8 (B, 3, S, S); `labels` int64 (B,) or None; `classes` names or None; `split`; `about`: which images
    these are; `layers` {layer: (B, D)}."""

    images: torch.Tensor
    labels: torch.Tensor | None
    classes: list | None
    split: str
    about: str
    layers: dict


class Examined:
    """A `mimlab.Features` at work. `model` and `other` (or None): `opened.Opened`; `images` (B, 3, S, S) in [0, 1],
    `labels` (B,) or None, `classes` and `about` of the gallery; `layer` the chosen one."""

    def __init__(self, cfg):
        self.cfg = cfg = cfg.resolved()
        self.model = _open(cfg.run, cfg, cfg.step)
        self.other = None if cfg.other is None else _open(cfg.other, cfg)
        self.layer = OUTPUT if cfg.layer is None else cfg.layer
        features.check(self.model.encoder, self.layer, cfg.pool)
        self.images, self.labels, self.classes, _, self.about = self._load(cfg.images, cfg.split)
        self._try()
        self._split = cache(self._sampled)

    def _try(self):
        """Refuse a size or a pooling that the encoder cannot do now, and not in the middle of the work."""
        next(features.walk(self.model.encoder, self.images[:1], [0, OUTPUT], self.cfg.pool == "cls"))

    def _load(self, count, split):
        cfg = self.cfg
        size = cfg.image_size or max(self.model.size)
        return self.model.images(count, cfg.seed, cfg.data, split, size, **cfg.data_args)

    def _sampled(self, split):
        found = self._load(self.cfg.samples, split)
        layers = features.layers(self.model.encoder, found.images, pool=self.cfg.pool)
        return Sample((found.images * 255).round().byte(), *found[1:], layers)

    @property
    def sample(self):
        """The `Sample` that maps and numbers are of."""
        return self._split(self.cfg.split)

    @property
    def title(self):
        return f"{self.model.title}, {where(self.layer)}"

    @cached_property
    def cells(self):
        """Patches of the gallery at the layer, (B, h, w, D)."""
        return features.patches(self.model.encoder, self.images, self.layer)

    def components(self):
        """The gallery's patches by their first three principal components, for all of them and for the foreground."""
        cells = self.cells
        found = geometry.basis(cells.flatten(0, 2))
        coordinates = found.project(cells)  # (B, h, w, k)
        chosen = geometry.foreground(coordinates[..., 0])
        given = {
            "images": self.images,
            "colours": geometry.colours(coordinates),
            "share": found.share,
            "title": self.title,
            "about": self.about,
        }
        if int(chosen.sum()) >= 4:
            second = geometry.basis(cells[chosen])
            given |= {"foreground": geometry.colours(second.project(cells), chosen), "second": second.share}
        return given

    def correspondence(self):
        """The gallery for the viewer, and how it asks for another layer."""
        return {
            "images": self.images,
            "features": self.cells,
            "layer": self.layer,
            "layers": features.names(self.model.encoder),
            "ask": lambda layer: features.patches(self.model.encoder, self.images, layer),
            "title": self.model.title,
        }

    def neighbours(self):
        """The images most alike to the gallery's first ones, by cosine of the layer's vectors."""
        sample = self.sample
        rows = sample.layers[self.layer]
        count = min(QUERIES, self.cfg.images, len(rows))
        nearest, cosine = geometry.neighbours(rows, NEAREST)
        given = {"images": sample.images, "nearest": nearest[:count], "cosine": cosine[:count]}
        given |= {"title": self.title, "about": sample.about}
        if sample.labels is not None:
            found = geometry.agreement(sample.labels, nearest)
            given |= {"labels": sample.labels, "classes": sample.classes, "agreement": found}
        return given

    def plane(self):
        """The sample as points of a plane."""
        sample, how = self.sample, self.cfg.project
        points, note = geometry.plane(sample.layers[self.layer], how, self.cfg.seed)
        given = {"points": points, "images": sample.images, "labels": sample.labels, "classes": sample.classes}
        return given | {"title": f"{self.title}: {len(points):,} images", "note": f"{note}; {sample.about}"}

    def similarity(self):
        """CKA between the layers of the model."""
        rows = self.sample.layers
        return _compared(rows, rows, self.model.title, self.model.title, self.sample.about)

    def similarity_to_other(self):
        """CKA between the layers of the model and of the other one, on the same images at each one's own size."""
        if self.other is None:
            raise Refused("other = None: give a second run, or a file of weights, to compare with")
        images, size = self.sample.images, self.other.size
        if tuple(images.shape[2:]) != size:
            images = interpolate(images / 255, size=size, mode="bicubic", antialias=True).clamp(0, 1)
        rows = features.layers(self.other.encoder, images, pool=self.cfg.pool)
        return _compared(self.sample.layers, rows, self.model.title, self.other.title, self.sample.about)

    def ranks(self):
        """Effective rank and signs of collapse of every layer, for vectors of images and for patches."""
        encoder, images = self.model.encoder, self.sample.images[:FROM]
        generator = generator_for(self.cfg.seed, 0, "patches")
        cells = features.sampled(encoder, images, -(-PATCHES // len(images)), generator)
        found = {"images": self.sample.layers, "patches": cells}
        rows = {
            name: [
                {"rank": geometry.effective_rank(x), "most": min(x.shape), "rows": len(x)} | geometry.collapse(x)
                for x in by_layer.values()
            ]
            for name, by_layer in found.items()
        }
        return {"rows": rows, "layers": list(cells), "title": self.model.title, "about": self.sample.about}

    def accuracies(self):
        """Top-1 of k-NN and of a linear classifier at every layer, fitted to the train split and asked about the test."""
        train, test = self._split("train"), self._split("test")
        if test.split != "test":
            raise Refused("there is no test split, which accuracies are of; use data that has one")
        if train.labels is None or test.labels is None:
            name = self.cfg.data or (self.model.run.settings.data if self.model.run else "photographs")
            raise Refused(f"data = {shown(name)} has no labels, which accuracies need; use labelled data")
        if len(train.labels.unique()) < 2:
            raise Refused(f"samples = {self.cfg.samples}: all training images are of one class; use more samples")
        classes = 1 + int(max(train.labels.max(), test.labels.max()))
        classes = max(classes, len(train.classes or ()))
        found = probing.accuracies(
            list(train.layers.values()), train.labels, list(test.layers.values()), test.labels, classes
        )
        note = f"{len(train.labels):,} train and {len(test.labels):,} test images, seed {self.cfg.seed}; {probing.PROTOCOL}"
        layers, chance = list(test.layers), 100 * torch.bincount(test.labels).max().item() / len(test.labels)
        return {"rows": found, "layers": layers, "chance": chance, "title": self.model.title, "note": note}


def where(layer):
    """A layer in words."""
    return "output" if layer == OUTPUT else f"layer {layer}"


def _open(name, cfg, step=None):
    """A run as it is; of a file only its encoder, with what `load` tells of it."""
    load = {"encoder": True} | cfg.load if Path(name).is_file() else None
    return open_model(name, cfg.out, step=step, load=load)


def _compared(first, second, one, other, about):
    values = geometry.cka(list(first.values()), list(second.values()))
    count = len(next(iter(first.values())))
    return {
        "values": values,
        "rows": list(first),
        "columns": list(second),
        "first": one,
        "second": other,
        "count": count,
        "about": about,
    }
