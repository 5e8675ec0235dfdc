"""CIM: a small BEiT guesses tokens of all patches, drawn ones are decoded, and a ViT restores the pixels.

There is no public code of it. The codebook pastes its own patches, as k-means does.
"""

import torch
from torch import nn
from torch.nn import functional as F

from mimlab.bench.plain import patchify, vit
from mimlab.bench.plain.beit import beit, encode


class Plain(nn.Module):
    def __init__(self, shape, options):
        super().__init__()
        self.patch, self.side = shape.patch, shape.image // shape.patch
        width = options["generator_dim"]
        sizes = {"embed_dim": width, "depth": options["generator_depth"], "num_heads": options["generator_heads"]}
        self.generator = beit(shape, **sizes, init_values=0.1)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.generator_head = nn.Linear(width, shape.vocab)
        self.encoder = vit(shape)
        self.head = nn.Linear(shape.dim, 3 * shape.patch**2)
        self.register_buffer("codebook", torch.rand(shape.vocab, 3 * shape.patch**2))

    def loss(self, ready):
        images, mask, patch, side = ready.seen[0], ready.mask, self.patch, self.side
        logits = self.generator_head(encode(self.generator, images, mask, self.mask_token))[mask]
        with torch.no_grad():
            drawn = torch.multinomial(logits.softmax(dim=1), 1)[:, 0]
            ids = ready.ids.masked_scatter(mask, drawn)
            picture = self.codebook[ids].unflatten(2, (patch, patch, 3)).unflatten(1, (side, side))
            picture = torch.einsum("bhwpqc->bchpwq", picture).reshape(images.shape)
        x = self.encoder.patch_embed(picture)
        x = torch.cat([self.encoder.cls_token.expand(len(x), -1, -1), x], dim=1) + self.encoder.pos_embed
        found = self.head(self.encoder.norm(self.encoder.blocks(x))[:, 1:])
        padded = F.pad(images, (4, 3, 4, 3), mode="reflect")
        mean = F.avg_pool2d(padded, 8, stride=1)
        var = F.avg_pool2d(padded**2, 8, stride=1) - mean**2
        target = patchify((images - mean) / (var.clamp_min(0) + 1e-6).sqrt(), patch)
        return F.cross_entropy(logits, ready.ids[mask]) + (found - target).abs().mean()
