"""The plain Vision Transformer (Dosovitskiy et al. 2021), timm's `VisionTransformer` underneath.

SplitMask uses "the original ViT formulation" for itself and all baselines; MAE the same with fixed
sine-cosine positions.
"""

from typing import Annotated, Literal

import torch

from mimlab import blocks, kinds
from mimlab.encoders import Encoder, build, sized
from mimlab.errors import Refused, shown
from mimlab.layers import sincos_2d

KNOWN = {
    "vit_tiny": "vit_tiny_patch16_224",
    "vit_small": "vit_small_patch16_224",
    "vit_base": "vit_base_patch16_224",
    "vit_large": "vit_large_patch16_224",
}
SIZES = {
    (192, 12, 3): "vit_tiny",
    (384, 12, 6): "vit_small",
    (768, 12, 12): "vit_base",
    (1024, 24, 16): "vit_large",
}


def create(
    name,
    image_size,
    patch,
    *,
    dim: kinds.Width | None = None,
    depth: kinds.Depth | None = None,
    heads: kinds.Heads | None = None,
    positions: Literal["learned", "sincos"] = "learned",
    class_token: bool = True,
    drop_path: Annotated[float, (0.0, 0.9)] = 0.0,
    normalise: kinds.Pixels = "imagenet",
):
    """`vit` (default 192 wide, 6 deep, 3 heads), or a timm ViT whose dim, depth and heads may be overridden.

    `positions`: "learned", or "sincos" (fixed). `normalise`: a key of `layers.PIXELS`.
    """
    full, spec = sized(name, KNOWN, image_size, patch, dim, depth, heads, normalise, SIZES)
    if positions == "sincos" and spec.get("embed_dim", 4) % 4:
        raise Refused(f"encoder_args: dim = {dim} cannot have sincos positions: it must be a multiple of 4")
    if not class_token:
        spec |= {"class_token": False, "global_pool": "avg", "fc_norm": False}
    return ViT(full, spec, patch, positions, drop_path, normalise)


class ViT(Encoder):
    """timm's ViT: learned or fixed positions on patches and CLS, hidden patches dropped or replaced."""

    def __init__(self, full, spec, patch, positions, drop_path, normalise):
        from timm.models.vision_transformer import VisionTransformer

        trunk = build(full, spec, drop_path)
        if not isinstance(trunk, VisionTransformer) or trunk.pos_embed is None:
            raise Refused(
                f"encoder = {shown(full)} is not a ViT with an absolute position table; use vit_tiny, vit_small, vit_base"
            )
        super().__init__(
            trunk,
            {"model_name": full, **spec},
            trunk.patch_embed.grid_size,
            patch,
            trunk.num_prefix_tokens,
            True,
            normalise,
            can_resize=True,
        )
        if positions == "sincos":
            table = sincos_2d(self.dim, self.grid, cls=False)
            front = torch.zeros(trunk.pos_embed.shape[1] - len(table), self.dim)
            trunk.pos_embed = torch.nn.Parameter(torch.cat([front, table])[None], requires_grad=False)

    def positions(self):
        table = self.trunk.pos_embed
        if self.trunk.no_embed_class or not self.prefix:
            return None, table
        return table[:, : self.prefix], table[:, self.prefix :]

    def prefix_tokens(self):
        found = [t for t in (self.trunk.cls_token, self.trunk.reg_token) if t is not None]
        return torch.cat(found, dim=1)

    def to_fine_tune(self):
        """Fixed positions are trained too, from where they are (MAE, models_vit.py)."""
        self.trunk.pos_embed.requires_grad_(True)

    def before_blocks(self, x):
        """CLIP's norm, an identity elsewhere."""
        return self.trunk.norm_pre(x)

    def run_block(self, index, x, shared, rows=None):
        return blocks.run(self.trunk.blocks[index], x, rows)

    def branch_ends(self, block):
        if hasattr(block, "attn"):
            return super().branch_ends(block)
        ends = (block.attn_out_proj, block.mlp_out_proj, block.out_proj)  # attention and MLP beside each other
        return [layer for layer in ends if layer is not None]

    def attention_logits(self, index, x, shared):
        block = self.trunk.blocks[index]
        if not hasattr(block, "attn"):
            _, q, k, _ = block.in_proj(block.in_norm(x)).split(block.in_split, dim=2)
            q, k = (y.unflatten(2, (block.num_heads, -1)).transpose(1, 2) for y in (q, k))
            return block.q_norm(q) @ block.k_norm(k).transpose(-2, -1) * block.scale
        qkv = block.attn.qkv(block.norm1(x))
        b, t, _ = x.shape
        q, k, _ = qkv.reshape(b, t, 3, block.attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        return block.attn.q_norm(q) @ block.attn.k_norm(k).transpose(-2, -1) * block.attn.scale
