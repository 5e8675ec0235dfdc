"""An encoder as the backbone of a dense task: maps of four depths, for images of any size.

Absolute positions are replaced by sine-cosine ones, computed for the grid at hand, "to accommodate for the variable
resolution" (SplitMask, section 5.5); XCiT's Fourier positions are that already. BEiT's relative bias is for one grid.
"""

from functools import partial

import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from mimlab.detection.neck import Neck, depths
from mimlab.encoders.vit import ViT
from mimlab.errors import Refused
from mimlab.layers import sincos_2d

DIVISOR = 32  # both sides of a padded batch; every patch of `neck.PATCHES` divides it


def any_size(encoder):
    """Make `encoder` fit for images of any size, in place, and say what was replaced: "" or a sentence.

    What the maps do not need (final norm, class-attention layers) is frozen. `Refused` for a family of one size.
    """
    from mimlab.encoders.resnet import ResNet

    if isinstance(encoder, ResNet) or not encoder.can_resize:
        raise Refused(
            f"{encoder.spec['model_name']} cannot be the backbone here: it has no maps of four depths for images of any "
            "size; use an encoder of the vit or xcit family"
        )
    encoder.trunk.norm.requires_grad_(False)
    if not isinstance(encoder, ViT):
        for name in ("cls_attn_blocks", "cls_token"):
            getattr(encoder.trunk, name).requires_grad_(False)
        return ""
    if encoder.dim % 4:
        raise Refused(f"dim = {encoder.dim}: sine-cosine positions need a width that is a multiple of 4")
    _, table = encoder.positions()
    fixed = torch.allclose(table[0].detach().cpu(), sincos_2d(encoder.dim, encoder.grid), atol=1e-4)
    encoder.trunk.pos_embed.requires_grad_(False)
    encoder.positions_at = partial(sincos_at, encoder)
    return "" if fixed else "learned positions replaced by sine-cosine ones"


def sincos_at(encoder, grid):
    """What `Encoder.positions_at` returns, with the patches' table (1, h * w, D) computed for `grid` = (h, w)."""
    front, table = encoder.positions()
    return front, sincos_2d(encoder.dim, grid).to(table)[None]


class Maps(nn.Module):
    """Images (B, 3, H, W), less the mean colour, to the encoder's maps (B, D, h, w) after the blocks in `layers`.

    H and W are multiples of 32; what a batch is padded with, 0, is the mean colour.
    """

    def __init__(self, encoder, layers):
        super().__init__()
        self.encoder, self.layers = encoder, layers

    def forward(self, images):
        return self.encoder.maps(images + self.encoder.normalise.mean, self.layers)


class Backbone(Maps):
    """The same images to maps {"0": stride 4, "1": 8, "2": 16, "3": 32, "pool": 64} of `out_channels`.

    Encoder, neck, then a feature pyramid network (Lin et al. 2017, arXiv 1612.03144) with a fifth level by max pooling of
    kernel 1 and stride 2, as mmdetection's.
    """

    def __init__(self, encoder, channels):
        super().__init__(encoder, depths(encoder.depth))
        self.neck, self.out_channels = Neck(encoder.dim, encoder.patch), channels
        self.fpn = FeaturePyramidNetwork([encoder.dim] * 4, channels, extra_blocks=LastLevelMaxPool())

    def forward(self, images):
        maps = self.neck(super().forward(images))
        return self.fpn({str(level): x for level, x in enumerate(maps)})
