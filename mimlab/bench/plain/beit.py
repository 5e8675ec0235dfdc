"""BEiT: timm's `Beit` with the relative position bias that all blocks share, logits of the hidden patches.

Hidden patches are picked before the head, as in the official code (unilm, modeling_pretrain.py).
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy


def beit(shape, **changes):
    """timm's `Beit` of a shape, as BEiT pre-trains it."""
    from timm.models.beit import Beit

    sizes = {"img_size": shape.image, "patch_size": shape.patch, "embed_dim": shape.dim, "depth": shape.depth}
    sizes |= {"num_heads": shape.heads, "init_values": 0.1, "num_classes": 0, "global_pool": "token"} | changes
    return Beit(**sizes, use_abs_pos_emb=False, use_shared_rel_pos_bias=True)


def encode(model, images, mask, token):
    """Patches (B, N, D) after the last norm, hidden ones replaced by `token`."""
    x, hidden = model.patch_embed(images), mask.unsqueeze(-1).float()
    x = x * (1 - hidden) + token * hidden
    x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], dim=1)
    bias = model.rel_pos_bias()
    for block in model.blocks:
        x = block(x, shared_rel_pos_bias=bias)
    return model.norm(x)[:, 1:]


class Plain(nn.Module):
    def __init__(self, shape, options):
        super().__init__()
        self.encoder = beit(shape)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, shape.dim))
        self.head = nn.Linear(shape.dim, shape.vocab)

    def loss(self, ready):
        x = encode(self.encoder, ready.seen[0], ready.mask, self.mask_token)
        return cross_entropy(self.head(x[ready.mask]), ready.ids[ready.mask])
