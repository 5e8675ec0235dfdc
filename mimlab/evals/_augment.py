"""Training views for fine-tuning: crops and flips, RandAugment and random erasing through timm, repeated augmentation."""

import random
import re
from contextlib import contextmanager

import numpy as np
import torch

from mimlab.data.augment import Augment
from mimlab.errors import Refused, shown


class Views:
    """uint8 images (B, 3, S, S) -> float (B, 3, size, size) in [0, 1].

    Random crop (area `scale` to 1) and flip; then RandAugment, or where that is "" colour jitter of this strength, as in
    timm's create_transform, which all recipes use; then, with probability `erase`, a rectangle of noise (mode "pixel"),
    normal once `normalise` (of the encoder) has been applied. Chance comes from a generator, through `seeded`.
    """

    def __init__(self, size, normalise, *, scale, randaugment, jitter, erase):
        self.crop = Augment(
            size,
            scale=(scale, 1.0),
            flip=0.5,
            jitter=0.0 if randaugment else (jitter, jitter, jitter, 0.0),
            jitter_p=1.0,
        )
        if why := policy(randaugment):
            raise Refused(
                f"evaluation_args: randaugment = {shown(randaugment)} is not timm's, such as 'rand-m9-mstd0.5': {why}"
            )
        self.change = _randaugment(randaugment, size) if randaugment else None
        self.erase, self.normalise = _erasing(erase) if erase else None, normalise

    def __call__(self, images, generator):
        x = self.crop(images, generator)
        if self.change is not None:
            x = torch.stack([self._changed(one) for one in x])
        if self.erase is not None:
            device = self.normalise.mean.device
            x = self.normalise.back(self.erase(self.normalise(x.to(device))))
        return x

    def _changed(self, image):
        from PIL import Image

        pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
        changed = np.array(self.change(Image.fromarray(pixels)))
        return torch.from_numpy(changed).permute(2, 0, 1).float() / 255


POLICY = {"m": 10, "mmax": 10, "n": 10, "inc": 1, "mstd": 1000, "p": 1}  # what timm reads, and at most


def policy(text):
    """What is wrong with a text for timm's RandAugment, such as rand-m9-mstd0.5, or None; "" is none."""
    if not text:
        return None
    for part in text.split("-")[1:]:
        found = re.fullmatch(r"([a-z]+)(\d{1,4})(\.\d{1,4})?", part)
        if re.fullmatch(r"t[a-z0-9]{1,20}", part):  # a set of timm's, by its name
            continue
        if not found or found[1] not in POLICY or float(found[2] + (found[3] or "")) > POLICY[found[1]]:
            return f"{part}: parts are a number after one of {', '.join(POLICY)}"
        if found[3] and found[1] not in ("mstd", "p"):
            return f"{part}: a whole number after {found[1]}"
    try:
        _randaugment(text, 224)
    except (AssertionError, ValueError, KeyError, TypeError):
        return "timm cannot read it"
    return None


def _randaugment(text, size):
    from PIL import Image
    from timm.data.auto_augment import rand_augment_transform

    given = {
        "translate_const": int(0.45 * size),
        "img_mean": (124, 116, 104),
        "interpolation": Image.Resampling.BICUBIC,  # as all recipes ask create_transform for
    }
    return rand_augment_transform(text, given)


def _erasing(probability):
    from timm.data.random_erasing import RandomErasing

    return RandomErasing(probability, mode="pixel", device="cpu")


def order(rows, repeats, generator):
    """The rows of an epoch, int64 (rows,): each `repeats` times in a row, so that batches hold several views of an image.

    An epoch stays `rows` long and so holds 1 / repeats of the images. Source: facebookresearch/deit, samples.py (RASampler).
    """
    return torch.randperm(rows, generator=generator).repeat_interleave(repeats)[:rows]


@contextmanager
def seeded(generator):
    """The global streams of numpy, random and torch, which timm draws from, set for the block and put back after it."""
    before = np.random.get_state(), random.getstate()
    seed = generator.initial_seed()
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed % 2**31)
            yield
    finally:
        np.random.set_state(before[0])
        random.setstate(before[1])
