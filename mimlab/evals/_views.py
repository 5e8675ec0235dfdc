"""What an evaluation shows to an encoder of one size: the whole image, or its centre."""

import torch

from mimlab.data.augment import Plain, resized_crops
from mimlab.errors import Refused, shown

CROP = 0.875  # 224 of 256 pixels: the test crop of DINO, MAE, BEiT and of SplitMask's table 9


class Centre:
    """uint8 images (B, 3, S, S) -> float (B, 3, size, size) in [0, 1]: the central `crop` of each side, resized.

    `crop` None: `CROP` where the images are larger than `size` (pre-training caches them 8/7 larger from 96 pixels on),
    and the whole image where they are not.
    """

    def __init__(self, size, crop=None):
        if crop is not None and not 0 < crop <= 1:
            raise Refused(f"test_crop = {shown(crop)} is a share of the image's side, above 0 and at most 1")
        self.size, self.crop = size, crop

    def __call__(self, images):
        side = images.shape[-1]
        crop = (CROP if side > self.size else 1.0) if self.crop is None else self.crop
        inner = round(side * crop)
        if inner == side:
            return Plain(self.size)(images)
        start = (side - inner) // 2
        boxes = torch.tensor([[start, start, inner, inner]]).expand(len(images), 4)
        return resized_crops(images, boxes, torch.zeros(len(images), dtype=torch.bool), self.size)


def side(encoder):
    """Pixels of the images that an encoder was built for."""
    return encoder.grid[0] * encoder.patch
