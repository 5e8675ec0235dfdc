"""SimMIM: mask tokens by multiplication, every pixel predicted, the loss of the hidden ones picked by a product."""

import torch
from torch import nn

from mimlab.bench.plain import patchify, vit


class Plain(nn.Module):
    def __init__(self, shape, options):
        super().__init__()
        self.patch = shape.patch
        self.encoder = vit(shape)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, shape.dim))
        self.head = nn.Linear(shape.dim, 3 * shape.patch**2)

    def loss(self, ready):
        images, hidden = ready.seen[0], ready.mask.unsqueeze(-1).float()
        x = self.encoder.patch_embed(images)
        x = x * (1 - hidden) + self.mask_token * hidden
        x = torch.cat([self.encoder.cls_token.expand(len(x), -1, -1), x], dim=1) + self.encoder.pos_embed
        found = self.head(self.encoder.norm(self.encoder.blocks(x))[:, 1:])
        error = (found - patchify(images, self.patch)).abs() * hidden
        return error.sum() / (hidden.sum() * self.patch**2 + 1e-5) / 3
