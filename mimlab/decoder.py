"""The shallow decoder of MAE and SplitMask."""

import torch
from timm.models.vision_transformer import Block
from torch import nn
from torch.nn import functional as F

from mimlab import blocks
from mimlab.layers import sincos_2d
from mimlab.masks import hidden_ids, put, visible_ids


class Decoder(nn.Module):
    """Places mask tokens where patches are missing and runs a few transformer blocks over all positions.

    MAE section 3, and SplitMask section 4 ("inpaint"). Linear from the encoder's width, one shared
    mask token, positions (`fixed` sine-cosine, else learned) for every token, blocks, final norm. Attention does not
    see the order of tokens, so the visible ones stay in front and nothing is sorted back.
    """

    def __init__(self, encoder, dim, depth, heads, fixed):
        super().__init__()
        n = encoder.grid[0] * encoder.grid[1]
        self.embed = nn.Linear(encoder.dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        table = sincos_2d(dim, encoder.grid, cls=True)[None] if fixed else torch.zeros(1, 1 + n, dim)
        self.positions = nn.Parameter(table, requires_grad=not fixed)
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio=4.0, qkv_bias=True) for _ in range(depth))
        blocks.adopt(self.blocks)
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, cls, patches, mask):
        """`cls` (B, D) or None, visible `patches` (B, V, D), `mask` (B, N) -> decoded patches in raster order (B, N, dim)."""
        seen = visible_ids(mask, patches.shape[1])
        missing = hidden_ids(mask, mask.shape[1] - patches.shape[1])
        found = torch.cat(self.parts(cls, patches, seen, missing), dim=1)
        return put(found, torch.cat([seen, missing], dim=1), torch.empty_like(found))

    def parts(self, cls, patches, seen, missing):
        """Decoded patches at the places `seen` (B, V) of the visible `patches`, and `missing` (B, H): (B, V, dim), (B, H, dim)."""
        x = self.run(self.arranged(cls, patches, seen, missing))
        first = x.shape[1] - missing.shape[1]
        return x[:, first - seen.shape[1] : first], x[:, first:]

    def hidden(self, cls, patches, seen, missing):
        """The second of `parts` alone, (B, H, dim): the last block computes nothing else."""
        return self.run(self.arranged(cls, patches, seen, missing), slice(-missing.shape[1], None))

    def arranged(self, cls, patches, seen, missing):
        """Tokens before the first block: CLS, visible, hidden ones."""
        table = self.positions[0, 1:]
        x = [self.embed(patches) + F.embedding(seen, table), self.mask_token + F.embedding(missing, table)]
        if cls is not None:
            x.insert(0, self.embed(cls)[:, None] + self.positions[:, :1])
        return torch.cat(x, dim=1)

    def run(self, x, rows=None):
        for index, block in enumerate(self.blocks):
            x = blocks.run(block, x, rows if index == len(self.blocks) - 1 else None)
        return self.norm(x)
