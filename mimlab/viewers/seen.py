"""What a run fills in under one mask, as a viewer shows it: pictures, numbers, the loss of each patch."""

import base64
import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from mimlab.errors import Refused, shown
from mimlab.looking.reconstructions import psnr
from mimlab.masks import pixels
from mimlab.viewers import pictures

TOP = 0.5  # absolute error, of [0, 1], at the upper end of the colour scale
PATCHES = 2048  # at most, that a vocabulary is chosen from: it takes milliseconds


class Weights:
    """A run's methods by checkpoint. `run`; `steps`: those whose weights were kept, oldest first, then "final".

    `note`: how to read its pictures, once one was made. Refuses a run that has no weights yet.
    """

    def __init__(self, run):
        self.run, self.note = run, ""
        self.steps = [*run.weights(), *(["final"] if run.finished else [])]
        if not self.steps:
            raise Refused(f"run = {shown(str(run.path))} has no weights yet; wait for its first checkpoint")
        self.method = lru_cache(maxsize=2)(self._method)  # two, to go back and forth between

    def _method(self, step):
        if step not in self.steps:
            raise Refused(f"step = {shown(step)} is no checkpoint of {self.run.path.name}; there are: {self.steps}")
        return self.run.method(None if step == "final" else step)

    @property
    def name(self):
        return self.run.path.name

    def about(self, step):
        """What the browser shows of the run at a checkpoint."""
        return {"name": self.name, "steps": self.steps, "step": step, "note": self.note}


class Seen(NamedTuple):
    """How a method does on one image (3, S, S) under one mask (N,).

    `filled`: its picture; `pasted`: the same under the visible patches; `error`: mean absolute error of the colours of
    each pixel of `pasted`, from 0 to `TOP` on the figures' colour scale; each (3, S, S) uint8, or None where the method
    predicts no picture. `note`: how to read them, or why there is none. `numbers`: psnr (dB, hidden pixels), loss (mean
    over hidden patches), token accuracy (likewise). `loss` (N,) float32, NaN where visible.
    """

    filled: torch.Tensor | None
    pasted: torch.Tensor | None
    error: torch.Tensor | None
    note: str
    numbers: dict
    loss: torch.Tensor

    def message(self):
        """As JSON can carry it: pictures as data URIs, or "refused"; the loss as base64 of little-endian float32."""
        shown = {"refused": self.note}
        if self.filled is not None:
            shown = {name: pictures.uri(getattr(self, name)) for name in ("filled", "pasted", "error")}
            shown["note"] = self.note
        loss = base64.b64encode(self.loss.numpy().astype("<f4").tobytes()).decode()
        finite = {name: value for name, value in self.numbers.items() if math.isfinite(value)}  # JSON has no NaN
        return shown | {"numbers": finite, "loss": loss}


@torch.inference_mode()
def see(method, image, mask):
    """`Seen` of a method: image (3, S, S) uint8 at the size of its encoder, mask (N,) bool; refuses another grid."""
    grid = method.encoder.grid
    count, n = int(mask.sum()), grid[0] * grid[1]
    if len(mask) != n or not 0 < count < n:
        raise Refused(f"mask: {count} of {len(mask)} patches hidden; a run needs {n}, some hidden and some visible")
    images, mask = image[None] / 255, mask[None]
    numbers, loss = {}, torch.full((n,), float("nan"))
    judged = method.judge(images, mask)
    if judged is not None:
        numbers["loss"] = round(float(judged.loss[mask].mean()), 4)
        loss = judged.loss[0].float().masked_fill(~mask[0], float("nan"))
        if judged.right is not None:
            numbers["token accuracy"] = round(float(judged.right[mask].float().mean()), 4)
    filled = method.reconstruct(images, mask)
    if filled is None:
        what = f"{type(method).__name__} hides no patches and reconstructs nothing"
        if method.masked:
            what = f"{type(method).__name__} predicts no picture with this tokenizer; pre-train with kmeans, random_patches or dvae"
        return Seen(None, None, None, what, numbers, loss)
    pasted = torch.where(pixels(mask, grid, images.shape[2:]), filled.images, images)
    numbers = {"psnr": psnr(images, filled.images, mask, grid)} | numbers
    error = _painted((pasted - images)[0].abs().mean(0))
    return Seen(_bytes(filled.images[0]), _bytes(pasted[0]), error, filled.note, numbers, loss)


def _bytes(image):
    return (image.nan_to_num(0).clamp(0, 1) * 255).round().byte()  # a run that diverged is black


def _painted(error):
    """Errors (H, W) as a picture (3, H, W) uint8."""
    from mimlab.figures.pictures import painted

    return torch.from_numpy(
        np.ascontiguousarray(painted(error[None].nan_to_num(TOP).numpy(), TOP)[0].transpose(2, 0, 1))
    )


def decoded(image, tokenizer, grid):
    """The image as a tokenizer's vocabulary draws it: (3, S, S) uint8 of the same size."""
    with torch.inference_mode():
        drawn = tokenizer.decode(tokenizer(image[None] / 255, grid), grid)
        return _bytes(torch.nn.functional.interpolate(drawn, size=image.shape[1:], mode="nearest")[0])


def vocabulary(images, patch):
    """A tokenizer of at most 256 random patches of these images, (3, S, S) uint8 each, or None if they are all alike."""
    from mimlab.layers import patchify
    from mimlab.tokenizers import distinct
    from mimlab.tokenizers.random_patches import Tokenizer

    patches = patchify(torch.stack(list(images)) / 255, patch).flatten(0, 1)
    patches = patches[:: -(-len(patches) // PATCHES)]  # (M, D)
    vocab = min(256, len(distinct(patches)) // 2)  # half: a vocabulary of all patches would show the image itself
    try:
        tokenizer = Tokenizer(max(vocab, 2), patch)
        tokenizer.fit(patches, torch.Generator().manual_seed(0))
    except Refused:
        return None
    return tokenizer
