"""The pyramid between a ViT and a feature pyramid network: maps of one stride become maps of strides 4, 8, 16 and 32.

SplitMask, section 5.5 (arXiv 2112.10740): "max pooling and transposed convolutions similar to" XCiT. Official code:
facebookresearch/xcit, detection/backbone/xcit.py, class XCiT, fpn1 to fpn4 (the same in microsoft/unilm,
beit/semantic_segmentation/backbone/beit.py). The four maps come from four depths, without a norm.

    patch   stride 4                        stride 8   stride 16   stride 32
    16      up, BatchNorm, GELU, up         up         as it is    pool 2
    8       up                              as it is   pool 2      pool 4
    4       as it is                        pool 2     pool 4      pool 8
    2       pool 2                          pool 4     pool 8      pool 16

"up" is a transposed convolution of kernel and stride 2, "pool k" max pooling of kernel and stride k.

Differs from the paper: patches of 4 and 2 pixels, which the paper does not have, are the same rule continued.
"""

from torch import nn

from mimlab.encoders.xcit import BatchNorm
from mimlab.errors import Refused

STRIDES = (4, 8, 16, 32)  # pixels of a cell, level by level
PATCHES = (2, 4, 8, 16)
TAPPED = (3, 5, 7, 11)  # blocks, counted from 0, of an encoder of twelve


def depths(blocks):
    """Which blocks (0-based) of an encoder of `blocks` feed the four levels: (3, 5, 7, 11) of 12, in proportion."""
    return tuple(max(1, round((index + 1) * blocks / 12)) - 1 for index in TAPPED)


class Neck(nn.Module):
    """Four maps (B, D, h, w) of stride `patch` to four of strides 4, 8, 16, 32; official names.

    The BatchNorm is over all processes, as the official SyncBatchNorm.
    """

    def __init__(self, dim, patch):
        super().__init__()
        if patch not in PATCHES:
            raise Refused(
                f"patch_size = {patch}: the pyramid has strides 4, 8, 16, 32, for patches of {PATCHES} pixels"
            )
        for level, stride in enumerate(STRIDES, 1):
            setattr(self, f"fpn{level}", _level(dim, patch, stride))

    def forward(self, maps):
        return [getattr(self, f"fpn{level}")(x) for level, x in enumerate(maps, 1)]


def _level(dim, patch, stride):
    if patch == 4 * stride:
        return nn.Sequential(_up(dim), BatchNorm(dim), nn.GELU(), _up(dim))
    if patch == 2 * stride:
        return nn.Sequential(_up(dim))
    return nn.Identity() if patch == stride else nn.MaxPool2d(stride // patch)


def _up(dim):
    return nn.ConvTranspose2d(dim, dim, kernel_size=2, stride=2)
