"""The methods as one would write them today with timm's blocks, without any of mimlab's code.

Each file has `Plain(shape, options)`, an nn.Module whose `loss(ready)` is a step's, and perhaps `after()`, which follows
the optimiser. They are straightforward and not slow on purpose: fused attention, nothing computed that the official code
does not compute. Numbers differ from mimlab's where weights are drawn; widths, depths and losses are the same.
"""

from typing import NamedTuple

import torch
from torch import nn


class Shape(NamedTuple):
    """Sizes of a model. `image`, `patch` in pixels; `dim`, `depth`, `heads` of the encoder; `hidden`: patches that a mask
    hides, or 0; `vocab`, `classes`; `batch`: images a step.
    """

    image: int
    patch: int
    dim: int
    depth: int
    heads: int
    hidden: int
    vocab: int
    classes: int
    batch: int

    @property
    def patches(self):
        return (self.image // self.patch) ** 2


def vit(shape, **options):
    """timm's VisionTransformer of a shape, without a classifier."""
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"img_size": shape.image, "patch_size": shape.patch, "embed_dim": shape.dim, "depth": shape.depth}
    return VisionTransformer(**sizes, num_heads=shape.heads, num_classes=0, **options)


def blocks(dim, depth, heads):
    """timm's blocks with a final norm."""
    from timm.models.vision_transformer import Block

    return nn.Sequential(*(Block(dim, heads, qkv_bias=True) for _ in range(depth)), nn.LayerNorm(dim, eps=1e-6))


def patchify(images, patch):
    """(B, 3, H, W) -> (B, N, patch * patch * 3)."""
    b, c, h, w = images.shape
    x = images.reshape(b, c, h // patch, patch, w // patch, patch)
    return torch.einsum("bchpwq->bhwpqc", x).reshape(b, -1, patch * patch * c)


def chosen(x, ids):
    """Rows `ids` (B, M) of tokens (B, N, D)."""
    return torch.gather(x, 1, ids.unsqueeze(-1).expand(-1, -1, x.shape[2]))
