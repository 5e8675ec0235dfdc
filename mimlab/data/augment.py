"""Augmentation of whole batches as tensors: uint8 (B, 3, S, S) in, float (B, 3, size, size) in [0, 1] out.

All chance is drawn first, for the whole batch and from one CPU generator, always in the same amount and
order; so a process that holds rows a:b of a global batch draws for all of it and applies its slice, and the
result is the same bit for bit as on one process. Operations follow torchvision's definitions.

Differs from torchvision: colour operations come in one fixed order (brightness, contrast, saturation, hue)
instead of a random one for each image. Differs from DINO's code: the blur is a true Gaussian, where PIL's is
a chain of box blurs.
"""

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F

from mimlab import kinds
from mimlab.data._pixels import blur, luma, resized_crops, shift_hue
from mimlab.errors import Refused, shown

# DINO's strengths (Caron et al., 2021, code), blur and solarisation as on average over its two global views
STRONG = {
    "scale": (0.4, 1.0),
    "flip": 0.5,
    "jitter": (0.4, 0.4, 0.2, 0.1),
    "jitter_p": 0.8,
    "grey": 0.2,
    "blur": 0.55,
    "solarize": 0.1,
}

TRIES = 10  # random sizes tried for a crop, then the centre; torchvision's number
SIGMA = (0.1, 2.0)  # of the blur, in pixels of a 224-pixel image
ROOM = 1 << 16  # pixels changed at a time on a CPU: a dozen passes over them stay in its cache

Scale = Annotated[tuple[kinds.Area, kinds.Area], "rising"]
Aspect = Annotated[float, (0.01, 100.0)]
Strength = Annotated[float, (0.0, 10.0)]
Jitter = Annotated[float, (0.0, 2.0)] | tuple[Strength, Strength, Strength, Annotated[float, (0.0, 0.5)]]


class Augment:
    """Random crop, flip, colour jitter, grey, blur and solarisation, in this order.

    size: side of the result in pixels. scale, ratio: area (share of the image) and aspect of the crop;
    scale=None: no crop. flip, jitter_p, grey, blur, solarize: probabilities. jitter: strengths of brightness,
    contrast, saturation and hue, or one number s for (s, s, s / 2, s / 4), DINO's proportions; 0: none. The
    blur's radius is U(0.1, 2) * blur_side / 224, blur_side None: size. interpolation: of the crop (SimMIM's is bilinear).
    jitter_first: colours change before the crop, so that contrast is about the mean of the whole image (BEiT, datasets.py).
    """

    def __init__(
        self,
        size,
        *,
        scale: Scale | None = (0.2, 1.0),
        ratio: Annotated[tuple[Aspect, Aspect], "rising"] = (3 / 4, 4 / 3),
        flip: kinds.Share = 0.5,
        jitter: Jitter = 0.0,
        jitter_p: kinds.Share = 0.8,
        grey: kinds.Share = 0.0,
        blur: kinds.Share = 0.0,
        blur_side: Annotated[int, (1, 8192)] | None = None,
        solarize: kinds.Share = 0.0,
        interpolation: Literal["bicubic", "bilinear"] = "bicubic",
        jitter_first: bool = False,
    ):
        _check_size(size)
        if blur_side is not None:
            _check_size(blur_side)
        if scale is not None:
            _check_range("scale", scale, top=1.0)
            _check_range("ratio", ratio, top=math.inf)
        for name, p in dict(flip=flip, jitter_p=jitter_p, grey=grey, blur=blur, solarize=solarize).items():
            if not isinstance(p, (int, float)) or not 0 <= p <= 1:
                raise Refused(f"{name} = {shown(p)} is a probability, from 0 to 1")
        strengths = (jitter, jitter, jitter / 2, jitter / 4) if isinstance(jitter, (int, float)) else tuple(jitter)
        if len(strengths) != 4 or min(strengths) < 0 or strengths[3] > 0.5:
            raise Refused(
                f"jitter = {shown(jitter)} should be a number, or brightness, contrast, saturation, hue (to 0.5)"
            )
        self.size, self.scale, self.ratio, self.flip = size, scale, ratio, flip
        self.jitter, self.jitter_p = strengths, jitter_p
        self.grey, self.blur, self.solarize = grey, blur, solarize
        self.blur_side = blur_side or size
        if interpolation not in ("bicubic", "bilinear"):
            raise Refused(f"interpolation = {shown(interpolation)}; there are: bicubic, bilinear")
        if not isinstance(jitter_first, bool):
            raise Refused(f"jitter_first = {shown(jitter_first)} should be true or false")
        self.interpolation, self.jitter_first = interpolation, jitter_first

    @property
    def variants(self):
        """How many different views of an image there are, or None where no two need be the same."""
        changed = (any(self.jitter) and self.jitter_p) or self.grey or self.blur or self.solarize
        return None if self.scale is not None or changed else (2 if 0 < self.flip < 1 else 1)

    def __call__(self, images, generator):
        return self.apply(images, self.draw(len(images), generator))

    def draw(self, batch, generator):
        """Uniform numbers in [0, 1) for `batch` images, on the CPU: dict of float64 tensors (batch, ...)."""

        def uniform(*shape):
            return torch.rand(batch, *shape, generator=generator, dtype=torch.float64)

        return {
            "crop": uniform(TRIES, 2),  # area, aspect
            "place": uniform(2),  # top, left
            "flip": uniform(),
            "jitter": uniform(),
            "strength": uniform(4),
            "grey": uniform(),
            "blur": uniform(),
            "sigma": uniform(),
            "solarize": uniform(),
        }

    def apply(self, images, draws):
        """uint8 images (B, 3, H, W) and their rows of `draw` -> float (B, 3, size, size) in [0, 1].

        With V * B rows of `draw`: V views of each image, (V * B, 3, size, size), those of the first draws first.
        """
        height, width = images.shape[2:]
        boxes = self.boxes(draws, height, width)
        flipped = draws["flip"] < self.flip
        if self.jitter_first and any(self.jitter):
            images = self.jittered_whole(images, draws)
        x = resized_crops(images, boxes, flipped, self.size, self.interpolation)
        if not self.jitter_first and any(self.jitter):
            _change(x, draws["jitter"] < self.jitter_p, self._jittered, draws["strength"])
        if self.grey:
            _change(x, draws["grey"] < self.grey, luma)
        if self.blur:
            _change(x, draws["blur"] < self.blur, self._blurred, draws["sigma"])
        if self.solarize:
            _change(x, draws["solarize"] < self.solarize, lambda y: torch.minimum(y, 1 - y))
        return x

    def jittered_whole(self, images, draws):
        """Whole images (V * B, 3, H, W), uint8 as they were, with the colours that the crops are to have."""
        x = images.repeat(len(draws["flip"]) // len(images), 1, 1, 1).float().div_(255)
        _change(x, draws["jitter"] < self.jitter_p, self._jittered, draws["strength"])
        return x.mul_(255).round_().byte()

    def boxes(self, draws, height, width):
        """Crops by torchvision's rule, int64 (B, 4): top, left, height, width; all where scale is None."""
        batch = len(draws["flip"])
        if self.scale is None:
            return torch.tensor([[0, 0, height, width]]).expand(batch, 4)
        area = height * width * _between(draws["crop"][..., 0], *self.scale)  # (B, TRIES)
        aspect = _between(draws["crop"][..., 1], math.log(self.ratio[0]), math.log(self.ratio[1])).exp()
        w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
        first = fits.int().argmax(dim=1, keepdim=True)  # (B, 1): the first try that fits
        w, h = w.gather(1, first).squeeze(1), h.gather(1, first).squeeze(1)
        top = (draws["place"][:, 0] * (height - h + 1)).floor()
        left = (draws["place"][:, 1] * (width - w + 1)).floor()
        whole = max(self.ratio[0], min(self.ratio[1], width / height))  # the fallback's aspect
        fall_w, fall_h = (
            max(1, side) for side in (min(width, round(height * whole)), min(height, round(width / whole)))
        )
        fallback = torch.tensor([(height - fall_h) // 2, (width - fall_w) // 2, fall_h, fall_w])
        boxes = torch.stack([top, left, h, w], dim=1).long()
        return torch.where(fits.any(dim=1, keepdim=True), boxes, fallback)

    def _jittered(self, x, u):
        brightness, contrast, saturation, hue = self.jitter  # x is a copy, and changed in place

        def factor(i, strength):
            return _between(u[:, i], max(0.0, 1 - strength), 1 + strength).to(x)[:, None, None, None]

        if brightness:
            x = x.mul_(factor(0, brightness)).clamp_(0, 1)
        if contrast:
            # in two steps: one sum over a single image would be split between threads, and round differently
            mean = luma(x).mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)
            x = torch.lerp(mean, x, factor(1, contrast)).clamp_(0, 1)
        if saturation:
            x = torch.lerp(luma(x), x, factor(2, saturation)).clamp_(0, 1)
        if hue:
            x = shift_hue(x, _between(u[:, 3], -hue, hue).to(x))
        return x

    def _blurred(self, x, u):
        share = self.blur_side / 224
        return blur(x, _between(u, *SIGMA).to(x) * share, math.ceil(4 * SIGMA[1] * share))


class Plain:
    """For evaluation: uint8 (B, 3, S, S) -> float (B, 3, size, size) in [0, 1], resized if need be."""

    def __init__(self, size):
        _check_size(size)
        self.size = size

    def __call__(self, images):
        x = images.float() / 255
        if x.shape[2:] == (self.size, self.size):
            return x
        return F.interpolate(x, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)


def _change(x, chosen, change, *numbers):
    """`change` the chosen images of x in place; chosen on the CPU, so that no device is waited for."""
    some = len(x) if x.device.type != "cpu" else max(1, ROOM // x[0, 0].numel())
    for rows in chosen.nonzero().squeeze(1).split(max(1, some)):
        there = rows.to(x.device)
        x[there] = change(x.index_select(0, there), *(number[rows] for number in numbers))


def _between(u, low, high):
    return low + u * (high - low)


def _check_size(size):
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise Refused(f"size = {shown(size)} should be a whole number of pixels, 1 or more")


def _check_range(name, pair, top):
    numbers = isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(v, (int, float)) for v in pair)
    if not numbers or not 0 < pair[0] <= pair[1] <= top:
        raise Refused(
            f"{name} = {shown(pair)} should be two numbers, low and high, above 0" + f" and at most {top}" * (top == 1)
        )
