"""MAE: random order by `argsort`, the first quarter kept, `gather` there and back, all patches predicted."""

import torch
from torch import nn

from mimlab.bench.plain import blocks, chosen, patchify, vit


class Plain(nn.Module):
    def __init__(self, shape, options):
        super().__init__()
        dim, depth, heads = (options[f"decoder_{name}"] for name in ("dim", "depth", "heads"))
        self.patch, self.keep = shape.patch, shape.patches - shape.hidden
        self.encoder = vit(shape)
        self.encoder.pos_embed.requires_grad_(False)
        self.embed = nn.Linear(shape.dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.zeros(1, 1 + shape.patches, dim), requires_grad=False)
        self.decoder = blocks(dim, depth, heads)
        self.head = nn.Linear(dim, shape.patch**2 * 3)

    def loss(self, ready):
        images, enc = ready.seen[0], self.encoder
        order = ready.noise.argsort(dim=1)
        back = order.argsort(dim=1)
        x = enc.patch_embed(images) + enc.pos_embed[:, 1:]
        x = chosen(x, order[:, : self.keep])
        x = torch.cat([(enc.cls_token + enc.pos_embed[:, :1]).expand(len(x), -1, -1), x], dim=1)
        x = self.embed(enc.norm(enc.blocks(x)))
        fill = self.mask_token.expand(len(x), back.shape[1] + 1 - x.shape[1], -1)
        x = torch.cat([x[:, :1], chosen(torch.cat([x[:, 1:], fill], dim=1), back)], dim=1)
        found = self.head(self.decoder(x + self.positions)[:, 1:])
        target = patchify(images, self.patch)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        hidden = (back >= self.keep).float()
        return (((found - target) ** 2).mean(-1) * hidden).sum() / hidden.sum()
