"""SplitMask: the encoder called for each half, `gather` and `argsort` to put mask tokens in between.

There is no public code of it. The head sees hidden patches alone, as in BEiT's code. Half of the patches are hidden, so that the second branch sees the rest.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from mimlab.bench.plain import blocks, chosen, vit


class Plain(nn.Module):
    def __init__(self, shape, options):
        super().__init__()
        self.encoder = vit(shape)
        self.embed = nn.Linear(shape.dim, shape.dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, shape.dim))
        self.positions = nn.Parameter(torch.zeros(1, shape.patches, shape.dim))
        self.decoder = blocks(shape.dim, options.get("decoder_depth", 2), shape.heads)
        self.head = nn.Linear(shape.dim, shape.vocab)

    def branch(self, images, mask):
        """Decoded patches (B, N, D) of an image seen through a mask."""
        enc, order = self.encoder, mask.float().argsort(dim=1, stable=True)  # visible ones first
        keep = int((~mask[0]).sum())
        x = chosen(enc.patch_embed(images) + enc.pos_embed[:, 1:], order[:, :keep])
        x = torch.cat([(enc.cls_token + enc.pos_embed[:, :1]).expand(len(x), -1, -1), x], dim=1)
        x = self.embed(enc.norm(enc.blocks(x))[:, 1:])
        x = torch.cat([x, self.mask_token.expand(len(x), mask.shape[1] - keep, -1)], dim=1)
        return self.decoder(chosen(x, order.argsort(dim=1)) + self.positions)

    def loss(self, ready):
        images, mask = ready.seen[0], ready.mask
        a, b = self.branch(images, mask), self.branch(images, ~mask)
        tokens = [cross_entropy(self.head(x[hidden]), ready.ids[hidden]) for x, hidden in ((a, mask), (b, ~mask))]
        a, b = (normalize(x.mean(dim=1), dim=1) for x in (a, b))
        logits, own = a @ b.T / 0.2, torch.arange(len(a), device=a.device)
        return sum(tokens) / 2 + (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
