"""Transformer blocks, timm's under timm's names, that compute only what is read.

With `rows` a block gives the outputs of those tokens alone: queries, projection and MLP of the others are left out,
their keys and values are not. The numbers are those of timm's own `forward`. Used for the last block before a loss that
reads some patches, or CLS. `adopt` makes timm's blocks into these; what it does not know keeps timm's way. So does a block
whose parts are no longer timm's own, are wrapped (LoRA), parametrised or seen by a hook: there each layer is called.
"""

import copy
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import Attention, DropPath, Mlp
from timm.models import beit, vision_transformer
from torch import nn
from torch.utils.checkpoint import checkpoint

from mimlab.attention import SHORT, apart, attend, pick, projected
from mimlab.linear import exactly, linear, plain, watched
from mimlab.mlp import feed, scaled


class Block(vision_transformer.Block):
    """The block of a ViT: x (B, T, D) -> (B, T, D), or (B, M, D) at `rows`."""

    attention = Attention  # timm's class of `attn`

    def forward(self, x, attn_mask=None, is_causal=False, rows=None):
        attn = self.attn
        if not known(self):
            return pick(super().forward(x, attn_mask, *([is_causal] if is_causal else [])), rows)
        normed = not (isinstance(attn.q_norm, nn.Identity) and isinstance(attn.k_norm, nn.Identity))
        short = x.shape[1] <= SHORT and plain(x) and not normed and attn_mask is None
        if is_causal or (rows is None and not plain(x)):  # timm has had the argument since 1.0.26
            return pick(super().forward(x, attn_mask, *([is_causal] if is_causal else [])), rows)
        seen = self.norm1(x)
        given = (seen, attn.qkv.weight, attn.qkv.bias)
        if short:
            mixed = attend(*given, attn.num_heads, rows)
        else:
            q, k, v = apart(*projected(*given, rows), attn.num_heads)
            mixed = (
                F.scaled_dot_product_attention(attn.q_norm(q), attn.k_norm(k), v, attn_mask).transpose(1, 2).flatten(2)
            )
        x = pick(x, rows) + self.drop_path1(self.ls1(linear(attn.norm(mixed), attn.proj.weight, attn.proj.bias)))
        return x + self.drop_path2(self.ls2(feed(self.mlp, self.norm2(x))))


class BeitBlock(beit.Block):
    """The block of a BEiT, likewise; a relative position bias that is trained takes few passes, on CPUs too."""

    attention = beit.Attention

    def forward(self, x, shared_rel_pos_bias=None, rows=None):
        if not known(self):
            if not exactly(self.attn.qkv) or watched(self.attn.qkv):
                self.attn.qkv_bias_separate = True  # else timm reads the weights in its place, too
            return pick(super().forward(x, shared_rel_pos_bias), rows)
        attn, seen = self.attn, self.norm1(x)
        added = None if attn.q_bias is None else torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
        bias = shared_rel_pos_bias
        if attn.relative_position_bias_table is not None:
            own = attn._get_rel_pos_bias()
            bias = own if bias is None else own + bias
        given = (seen, attn.qkv.weight, added)
        trained = bias is not None and bias.requires_grad
        if plain(seen) and (trained or (bias is None and seen.shape[1] <= SHORT)):
            mixed = attend(*given, attn.num_heads, rows, None if bias is None else bias.flatten(0, -3))
        else:
            q, k, v = apart(*projected(*given, rows), attn.num_heads)
            if bias is not None and rows is not None:
                bias = bias.expand(len(x), -1, -1, -1)
                bias = bias[:, :, rows] if isinstance(rows, slice) else bias.gather(2, wide(rows, bias))
            mixed = F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2)
        x = pick(x, rows) + self.drop_path1(scaled(attn.proj, mixed, self.gamma_1))
        return x + self.drop_path2(feed(self.mlp, self.norm2(x), self.gamma_2))


def known(block):
    """Whether the block still is what was adopted, so that weights of its layers may be read. `Compiled` asks it before."""
    if torch.compiler.is_compiling():
        return True
    attn = block.attn
    return (
        exactly(attn, block.attention)
        and exactly(attn.qkv)
        and exactly(attn.proj)
        and all(type(drop) is nn.Dropout and not drop.p for drop in (attn.attn_drop, attn.proj_drop))
        and exactly(block.mlp, Mlp)
        and exactly(block.mlp.fc1)
        and exactly(block.mlp.fc2)
        and not watched(block)
    )


def adopt(blocks):
    """Make those of timm's `blocks` that are plain ViT or BEiT blocks into ours; weights and names stay."""
    ours = {vision_transformer.Block: Block, beit.Block: BeitBlock}
    for block in blocks:
        kind = ours.get(type(block))
        attn = getattr(block, "attn", None)
        if kind and type(attn) is kind.attention and getattr(attn, "gate", None) is None and type(block.mlp) is Mlp:
            block.__class__ = kind


def run(block, x, rows=None, **given):
    """`block` on x (B, T, D), at `rows` if given, whatever its class."""
    if isinstance(block, (Block, BeitBlock)) and not watched(block):  # a hook sees what timm's block gives
        return block(x, rows=rows, **given)
    return pick(block(x, **given), rows)


def wide(rows, bias):
    """`rows` (B, M) as an index of dimension 2 of `bias` (B, heads, T, T)."""
    return rows[:, None, :, None].expand(-1, bias.shape[1], -1, bias.shape[3])


def within(model):
    """The trained blocks of a model, known by the name of their class: of transformers, and both kinds of a ResNet."""
    blocks = [module for module in model.modules() if type(module).__name__.endswith(("Block", "Bottleneck"))]
    return [block for block in blocks if any(p.requires_grad for p in block.parameters())]


def recompute(model):
    """Keep only the input of each block for the backward pass, which computes the block again: less memory, more time."""
    for block in within(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


SHAPES = 64  # graphs of one class of blocks: a stage's width, a look of other size, a block that gives some rows


def compile_blocks(model, changing=False):
    """Compile each block as it trains; what only looks, in batches of any size, keeps the plain one.

    Blocks of one shape share a graph, whatever their depth and `drop_path`. `changing`: the number of tokens will, so that
    the second number makes a graph of any.
    """
    limit = torch._dynamo.config
    limit.recompile_limit = max(
        limit.recompile_limit, SHAPES
    )  # torch's 8 would leave the ninth uncompiled, with a warning
    for block in within(model):
        for part in block.modules():
            if type(part) is DropPath:
                part.register_buffer("rate", torch.tensor(part.drop_prob), persistent=False)
                part.__class__ = Dropping
        block.forward = Compiled(block.forward, None if changing else False)


class Dropping(DropPath):
    """timm's stochastic depth with the rate in a buffer: a number would be a constant of the graph, and each depth has its own."""

    def forward(self, x):
        if not self.training:
            return x
        keep = 1 - self.rate
        kept = torch.rand(len(x), *(1,) * (x.ndim - 1), device=x.device) < keep
        return x * (kept / keep if self.scale_by_keep else kept).to(x.dtype)


class Compiled:
    """`forward` of a block, compiled where gradients are made and no hook looks. `dynamic` is torch.compile's."""

    def __init__(self, plain, dynamic):
        self.plain, self.dynamic, self.fast = plain, dynamic, torch.compile(plain, dynamic=dynamic)

    def __call__(self, x, *args, **given):
        block = self.plain.__self__
        touched = not known(block) if isinstance(block, (Block, BeitBlock)) else watched(block)
        if touched or not torch.is_grad_enabled():
            return self.plain(x, *args, **given)
        rows = given.get("rows")
        if self.dynamic is None and isinstance(rows, slice):  # its ends would be constants of the graph
            given["rows"] = torch.arange(x.shape[1], device=x.device)[rows].expand(len(x), -1)
        return self.fast(x, *args, **given)

    def __deepcopy__(self, memo):  # what is compiled belongs to the block that is copied
        return Compiled(copy.deepcopy(self.plain, memo), self.dynamic)
