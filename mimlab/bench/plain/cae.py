"""CAE: visible patches by a boolean index, four cross-attention blocks, four blocks, aligned with a second pass.

Built as the official code (Atten4Vis/CAE, modeling_cae.py), with timm's blocks in encoder and decoder.
"""

import torch
from torch import nn
from torch.nn import functional as F

from mimlab.bench.plain import vit


class Cross(nn.Module):
    """Queries look at context; both have positions added for the attention's weights."""

    def __init__(self, dim, heads):
        super().__init__()
        from timm.layers import Mlp

        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-6) for _ in range(4))
        self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim)
        self.proj, self.mlp = nn.Linear(dim, dim), Mlp(dim, 4 * dim)
        self.gamma_1, self.gamma_2 = nn.Parameter(0.1 * torch.ones(dim)), nn.Parameter(0.1 * torch.ones(dim))

    def forward(self, x, seen, at_x, at_seen):
        context, places = torch.cat([seen, x], dim=1), torch.cat([at_seen, at_x], dim=1)
        q = self.q(self.norms[0](x + at_x))
        k, v = self.k(self.norms[1](context + places)), self.v(self.norms[2](context))
        q, k, v = (y.unflatten(2, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.norms[3](x + self.gamma_1 * self.proj(y))
        return x + self.gamma_2 * self.mlp(x)


class Plain(nn.Module):
    def __init__(self, shape, options):
        super().__init__()
        from timm.models.vision_transformer import Block

        dim = shape.dim
        self.weight = options.get("align_weight", 2.0)
        self.encoder = vit(shape)
        self.encoder.pos_embed.requires_grad_(False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.zeros(1, shape.patches, dim), requires_grad=False)
        self.regressor = nn.ModuleList(Cross(dim, shape.heads) for _ in range(options.get("regressor_depth", 4)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        block = {"qkv_bias": True, "init_values": 0.1}
        self.decoder = nn.Sequential(
            *(Block(dim, shape.heads, **block) for _ in range(options.get("decoder_depth", 4))),
            nn.LayerNorm(dim, eps=1e-6),
        )
        self.head = nn.Linear(dim, shape.vocab)

    def encode(self, images, mask):
        """What the encoder makes of the patches that `mask` leaves, (B, V, D)."""
        enc = self.encoder
        x = enc.patch_embed(images) + enc.pos_embed[:, 1:]
        x = x[~mask].reshape(len(x), -1, x.shape[2])
        x = torch.cat([(enc.cls_token + enc.pos_embed[:, :1]).expand(len(x), -1, -1), x], dim=1)
        return enc.norm(enc.blocks(x))[:, 1:]

    def loss(self, ready):
        images, mask = ready.seen[0], ready.mask
        seen, table = self.encode(images, mask), self.positions.expand(len(images), -1, -1)
        at_seen, at_hidden = (table[x].reshape(len(images), -1, table.shape[2]) for x in (~mask, mask))
        x = self.mask_token.expand_as(at_hidden)
        for block in self.regressor:
            x = block(x, seen, at_hidden, at_seen)
        x = self.norm(x)
        with torch.no_grad():
            true = self.encode(images, ~mask)
        logits = self.head(self.decoder(x + at_hidden)).flatten(0, 1)
        return F.cross_entropy(logits, ready.ids[mask]) + self.weight * F.mse_loss(x, true)
