"""BEiT's transformer (Bao et al. 2021), timm's `Beit` underneath.

Query and value biases without a key bias, LayerScale, and a relative position bias that all blocks
share (pre-training) or own (fine-tuning), with or without absolute positions. CAE (Chen et al. 2022) has fixed
sine-cosine positions instead: `bias = "none", absolute = "sincos"`.
Source: unilm/beit, modeling_pretrain.py and modeling_finetune.py; Atten4Vis/CAE, modeling_cae_helper.py.
"""

from typing import Annotated, Literal

import torch

from mimlab import blocks, kinds
from mimlab.cores import room
from mimlab.encoders import Encoder, build, sized
from mimlab.errors import Refused, shown
from mimlab.layers import sincos_2d

KNOWN = {"beit_base": "beit_base_patch16_224", "beit_large": "beit_large_patch16_224"}
SIZES = {(768, 12, 12): "beit_base", (1024, 24, 16): "beit_large"}


def create(
    name,
    image_size,
    patch,
    *,
    dim: kinds.Width | None = None,
    depth: kinds.Depth | None = None,
    heads: kinds.Heads | None = None,
    bias: Literal["shared", "per_block", "none"] = "shared",
    absolute: bool | Literal["sincos"] = False,
    layer_scale: Annotated[float, (0.0, 10.0)] = 0.1,
    drop_path: Annotated[float, (0.0, 0.9)] = 0.0,
    normalise: kinds.Pixels = "half",
):
    """`beit` (default 192 wide, 6 deep, 3 heads), `beit_base`, `beit_large` or a timm BEiT name.

    `bias`: relative position bias "shared" by all blocks, one "per_block", or "none". `absolute`:
    learned absolute positions, or fixed ones with "sincos". `layer_scale`: initial value, 0 for none.
    `normalise`: BEiT's inputs have mean and deviation 0.5.
    """
    full, spec = sized(name, KNOWN, image_size, patch, dim, depth, heads, normalise, SIZES)
    if absolute == "sincos" and spec.get("embed_dim", 4) % 4:
        raise Refused(f"encoder_args: dim = {dim} cannot have sincos positions: it must be a multiple of 4")
    if bias != "none":
        tokens, layers = spec["img_size"][0] // patch * (spec["img_size"][1] // patch) + 1, spec.get("depth", 12)
        room(
            8 * tokens**2 * (layers if bias == "per_block" else 1) + 4 * spec.get("num_heads", 12) * tokens**2,
            f"encoder_args: bias = '{bias}' of {tokens:,} tokens takes a table of all their pairs; use bias = 'none' with "
            "absolute = True, a larger patch_size or smaller images",
        )
    spec |= {
        "global_pool": "token",
        "use_abs_pos_emb": bool(absolute),
        "use_rel_pos_bias": bias == "per_block",
        "use_shared_rel_pos_bias": bias == "shared",
        "init_values": float(layer_scale),
    }
    return Beit(full, spec, patch, absolute == "sincos", drop_path, normalise)


class Beit(Encoder):
    """timm's BEiT; it can drop hidden patches only without a relative position bias."""

    def __init__(self, full, spec, patch, fixed, drop_path, normalise):
        from timm.models.beit import Beit as Trunk

        trunk = build(full, spec, drop_path)
        if not isinstance(trunk, Trunk):
            raise Refused(f"encoder = {shown(full)} is no BEiT of timm's; use {', '.join(KNOWN)}")
        relative = spec["use_rel_pos_bias"] or spec["use_shared_rel_pos_bias"]
        super().__init__(
            trunk, {"model_name": full, **spec}, trunk.patch_embed.grid_size, patch, 1, not relative, normalise
        )
        if fixed:
            table = sincos_2d(self.dim, self.grid, cls=True)
            trunk.pos_embed = torch.nn.Parameter(table[None], requires_grad=False)

    def positions(self):
        table = self.trunk.pos_embed
        return (None, None) if table is None else (table[:, :1], table[:, 1:])

    def prefix_tokens(self):
        return self.trunk.cls_token

    def to_fine_tune(self):
        """Every block gets its own copy of a shared table (unilm/beit, run_class_finetuning.py)."""
        shared = self.trunk.rel_pos_bias
        if shared is None:
            return
        self.trunk.rel_pos_bias = None
        self.spec = self.spec | {"use_rel_pos_bias": True, "use_shared_rel_pos_bias": False}
        for block in self.trunk.blocks:
            attn, table = block.attn, shared.relative_position_bias_table.detach().clone()
            if attn.relative_position_bias_table is None:
                attn.window_size, attn.num_relative_distance = shared.window_size, len(table)
                attn.relative_position_bias_table = torch.nn.Parameter(table)
                del attn.relative_position_index
                attn.register_buffer("relative_position_index", shared.relative_position_index, persistent=False)
            else:
                attn.relative_position_bias_table.data += table

    def shared_bias(self):
        return None if self.trunk.rel_pos_bias is None else self.trunk.rel_pos_bias()

    def run_block(self, index, x, shared, rows=None):
        return blocks.run(self.trunk.blocks[index], x, rows, shared_rel_pos_bias=shared)

    def attention_logits(self, index, x, shared):
        block = self.trunk.blocks[index]
        attn = block.attn
        qkv = attn.qkv(block.norm1(x)) + torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
        b, t, _ = x.shape
        q, k, _ = qkv.reshape(b, t, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(-2, -1) * attn.scale
        if attn.relative_position_bias_table is not None:
            logits = logits + attn._get_rel_pos_bias()
        return logits if shared is None else logits + shared
