"""What there is to look at: a run, one of its checkpoints, or a file of official weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from mimlab import checkpoints, data
from mimlab.checkpoints.formats import FORMATS
from mimlab.data.augment import Plain
from mimlab.distributed import generator_for
from mimlab.encoders import Encoder
from mimlab.errors import Refused, shown
from mimlab.find import check_options
from mimlab.methods import Method
from mimlab.run import Run
from mimlab.settings import place

SUFFIXES = (".pth", ".pt", ".safetensors", ".bin", ".pkl")


class Pictures(NamedTuple):
    """`images` float (B, 3, S, S) in [0, 1]; `labels` int64 (B,) or None; `classes` names or None; `split` that they are
    of; `about`: which images these are, for the note of a figure."""

    images: torch.Tensor
    labels: torch.Tensor | None
    classes: list | None
    split: str
    about: str


@dataclass(frozen=True)
class Opened:
    """A model in eval mode. `title` names it in figures; `encoder`; `method` the whole method, or None for an
    encoder alone; `run` the `Run` it is of, or None; `note` what its loading reported."""

    title: str
    encoder: Encoder
    method: Method | None = None
    run: Run | None = None
    note: str = ""

    @property
    def size(self):
        """Pixels (height, width) of the images that the encoder was built for."""
        return tuple(cells * self.encoder.patch for cells in self.encoder.grid)

    def images(self, count, seed=0, name=None, split="test", size=None, **options):
        """`Pictures`: `count` images of a split, square of `size` pixels.

        The run's own data, or the source called `name` with its options (photographs where there is no run); all
        images if there are fewer than `count`; a source without a test split, or too small for one, gives its train
        split, and says so. `size` None: the encoder's. The same `seed` chooses the same images.
        """
        size, missing = size or max(self.size), ""
        try:
            found = self._source(name, split, size, seed, options)
        except Refused:
            if split != "test":
                raise
            found = self._source(name, "train", size, seed, options)
            split, missing = "train", ", since there is no test split"
        chosen = torch.randperm(len(found), generator=generator_for(seed, 0, "pick"))[:count].numpy()
        labels = None if found.labels is None else torch.from_numpy(found.labels[chosen])
        which = found.name if found.name == "photographs" else f"{split} images of {found.name}{missing}"
        return Pictures(Plain(size)(found.get(chosen)), labels, found.classes, split, f"{which}, seed {seed}")

    def _source(self, name, split, size, seed, options):
        if self.run is not None and name is None:
            return self.run.data(split)
        return data.open(name or "photographs", split, size=size, seed=seed, **options)


def open_model(name, out="runs", *, step=None, load=None):
    """The model called `name`: a run folder, its name in `out`, "newest", or a file of weights.

    `step` chooses a kept checkpoint of a run. `load` tells of a file what it does not tell itself, as for
    `checkpoints.method`: {"norm_pix": False} for MAE's, {"dalle": {"encoder": path, "decoder": path}} for the tokens
    of BEiT and CAE, {"image_size": 384} to interpolate its positions; a file that holds no method, or is not told enough for one, is refused or gives an encoder
    alone with {"encoder": True}. Raises `Refused`.
    """
    load = dict(load or {})
    path = next((p for p in (Path(name), place(name)) if p.is_file()), None)
    if path is None and Path(name).suffix in SUFFIXES:
        raise Refused(f"run = {shown(name)}: there is no such file")
    if path is not None:
        if step is not None:
            raise Refused(f"step = {step}: {path.name} is one file of weights; only runs have checkpoints")
        return _file(path, load)
    if load:
        raise Refused(
            f"load: {', '.join(load)} belong to files of weights; run = {shown(name)} has settings of its own"
        )
    run = Run.find(name, out)
    method = run.method(step)
    title = run.path.name if step is None else f"{run.path.name} at step {step}"
    return Opened(title, method.deployed, method, run)


def _file(path, load):
    """A file's whole method where it holds one, else its encoder."""
    found = checkpoints.open(path)
    kind = FORMATS[found.format]
    alone, size = load.pop("encoder", False), load.pop("image_size", None)
    if not alone and (kind.method or found.format == "mimlab"):
        method = found.method(_dalle(load.pop("dalle", None)), size, **load)
        return Opened(path.name, method.deployed, method, found.run, _said(method.loaded))
    check_options("load", load, found.encoder)
    encoder = found.encoder(size, **load)
    return Opened(path.name, encoder, note=_said(encoder.loaded))


def _dalle(files):
    if files is None:
        return None
    from mimlab.tokenizers.dalle import Tokenizer

    check_options("load: dalle", files, Tokenizer)
    tokenizer = Tokenizer(**files)
    tokenizer.ready()
    tokenizer.fit(None, None)
    return tokenizer.eval()


def _said(report):
    parts = [f"{report.format} file"]
    for name in ("unused", "missing"):
        names = getattr(report, name)
        parts += [f"{name}: {', '.join(names[:6])}{' ...' if len(names) > 6 else ''}"] if names else []
    return "; ".join(parts + list(report.resized))
