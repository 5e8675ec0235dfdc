"""Transformer blocks, timm's under timm's names, that compute only what is read.

With `rows` a block gives the outputs of those tokens alone: queries, projection and MLP of the others are left out,
their keys and values are not. The numbers are those of timm's own `forward`. Used for the last block before a loss that
reads some patches, or CLS. `adopt` makes timm's blocks into these; what it does not know keeps timm's way.
"""

import copy
from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import Attention, Mlp
from timm.models import beit, vision_transformer
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint


def pick(x, rows):
    """Tokens (B, T, D) at `rows`, a slice or int64 (B, M): (B, M, D); None: all of them."""
    if rows is None:
        return x
    if isinstance(rows, slice):
        return x[:, rows]
    return x.gather(1, rows.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


class Block(vision_transformer.Block):
    """The block of a ViT: x (B, T, D) -> (B, T, D), or (B, M, D) at `rows`."""

    def forward(self, x, attn_mask=None, is_causal=False, rows=None):
        if rows is None:
            return super().forward(x, attn_mask, is_causal)
        attn, seen = self.attn, self.norm1(x)
        q, k, v = projected(seen, attn.qkv.weight, attn.qkv.bias, attn.num_heads, rows)
        mixed = F.scaled_dot_product_attention(attn.q_norm(q), attn.k_norm(k), v, attn_mask)
        mixed = attn.proj(attn.norm(mixed.transpose(1, 2).flatten(2)))
        x = pick(x, rows) + self.drop_path1(self.ls1(mixed))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class BeitBlock(beit.Block):
    """The block of a BEiT, likewise; a relative position bias that is trained takes few passes, on CPUs too."""

    def forward(self, x, shared_rel_pos_bias=None, rows=None):
        attn, seen = self.attn, self.norm1(x)
        added = None if attn.q_bias is None else torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
        bias = shared_rel_pos_bias
        if attn.relative_position_bias_table is not None:
            own = attn._get_rel_pos_bias()
            bias = own if bias is None else own + bias
        if bias is not None and bias.requires_grad and plain(seen):
            mixed = biased(seen, attn.qkv.weight, added, attn.num_heads, bias.flatten(0, -3), rows)
        else:
            q, k, v = projected(seen, attn.qkv.weight, added, attn.num_heads, rows)
            if bias is not None and rows is not None:
                bias = bias.expand(len(x), -1, -1, -1)
                bias = bias[:, :, rows] if isinstance(rows, slice) else bias.gather(2, wide(rows, bias))
            mixed = F.scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2)
        x = pick(x, rows) + self.drop_path1(scaled(attn.proj, mixed, self.gamma_1))
        hidden = self.mlp.act(self.mlp.fc1(self.norm2(x)))
        return x + self.drop_path2(scaled(self.mlp.fc2, hidden, self.gamma_2))


def adopt(blocks):
    """Make those of timm's `blocks` that are plain ViT or BEiT blocks into ours; weights and names stay."""
    kinds = {
        vision_transformer.Block: (Block, Attention),
        beit.Block: (BeitBlock, beit.Attention),
    }
    for block in blocks:
        ours, attention = kinds.get(type(block), (None, None))
        gated = getattr(block, "attn", None) is None or getattr(block.attn, "gate", None) is not None
        if ours and not gated and type(block.attn) is attention and type(block.mlp) is Mlp:
            block.__class__ = ours


def run(block, x, rows=None, **given):
    """`block` on x (B, T, D), at `rows` if given, whatever its class."""
    if isinstance(block, (Block, BeitBlock)):
        return block(x, rows=rows, **given)
    return pick(block(x, **given), rows)


def projected(seen, weight, bias, heads, rows):
    """Queries (B, heads, M, d) of the tokens at `rows`, keys and values (B, heads, T, d) of all, seen (B, T, D)."""
    if rows is None:
        return F.linear(seen, weight, bias).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind()
    width = len(weight) // 3
    first, rest = (None, None) if bias is None else (bias[:width], bias[width:])
    q = F.linear(pick(seen, rows), weight[:width], first).unflatten(2, (heads, -1)).transpose(1, 2)
    return q, *F.linear(seen, weight[width:], rest).unflatten(2, (2, heads, -1)).permute(2, 0, 3, 1, 4)


def wide(rows, bias):
    """`rows` (B, M) as an index of dimension 2 of `bias` (B, heads, T, T)."""
    return rows[:, None, :, None].expand(-1, bias.shape[1], -1, bias.shape[3])


def plain(x):
    """Whether to use our own attention: trained on a CPU in one precision; elsewhere torch has a fused kernel."""
    return x.device.type == "cpu" and torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()  # fmt: skip


def scaled(linear, x, gamma):
    """`gamma` (D,) times `linear(x)`; in one precision the weights are scaled, which are fewer than the outputs."""
    if gamma is None:
        return linear(x)
    if torch.is_autocast_enabled(x.device.type):  # a small gamma would take the weights below half precision
        return gamma * linear(x)
    return F.linear(x, linear.weight * gamma[:, None], linear.bias * gamma)


def biased(seen, weight, added, heads, bias, rows):
    """Attention with a trained bias (heads, T, T) added to the logits: seen (B, T, D) -> (B, M, D)."""
    b, t, _ = seen.shape
    if rows is None:
        q = None
        packed = F.linear(seen, weight, added).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    else:
        width = len(weight) // 3
        first, rest = (None, None) if added is None else (added[:width], added[width:])
        q = F.linear(pick(seen, rows), weight[:width], first).unflatten(2, (heads, -1)).transpose(1, 2)
        q = q.reshape(b * heads, q.shape[2], -1)
        packed = F.linear(seen, weight[width:], rest).unflatten(2, (2, heads, -1)).permute(2, 0, 3, 1, 4)
        if isinstance(rows, slice):
            bias = bias[:, rows].repeat(b, 1, 1)
        else:
            place = torch.arange(heads)[:, None] * t + rows[:, None]  # (B, heads, M): rows of the flattened bias
            bias = F.embedding(place, bias.flatten(0, 1)).flatten(0, 1)  # (B * heads, M, T)
    packed = packed.reshape(len(packed), b * heads, t, -1)
    mixed = Biased.apply(q, packed, bias)  # (B * heads, M, d)
    return mixed.unflatten(0, (b, heads)).transpose(1, 2).flatten(2)


class Biased(torch.autograd.Function):
    """softmax(q k^T / sqrt(d) + bias) v, with each product written where it is needed.

    `q` (G, M, d) and `packed` = keys and values (2, G, T, d), or q None and all three in `packed` (3, G, T, d), G = B *
    heads; `bias` (heads, T, T) or (G, M, T) -> (G, M, d).
    """

    @staticmethod
    def forward(ctx, q, packed, bias):
        ctx.own_query = q is not None
        q, k, v = (q, *packed) if ctx.own_query else packed
        logits = bias.repeat(len(q) // len(bias), 1, 1).baddbmm_(q, k.transpose(1, 2), alpha=q.shape[2] ** -0.5)
        weights = torch.softmax(logits, dim=2)
        ctx.save_for_backward(q if ctx.own_query else None, packed, weights)
        ctx.shared = len(bias)
        return weights @ v

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        q, packed, weights = ctx.saved_tensors
        to_packed = torch.empty_like(packed)
        q, k, v = (q, *packed) if ctx.own_query else packed
        to_q, to_k, to_v = (torch.empty_like(q), *to_packed) if ctx.own_query else to_packed
        scale = q.shape[2] ** -0.5
        torch.bmm(weights.transpose(1, 2), gradient, out=to_v)
        to_logits = torch._softmax_backward_data(gradient @ v.transpose(1, 2), weights, 2, weights.dtype)
        torch.baddbmm(to_q, to_logits, k, beta=0, alpha=scale, out=to_q)
        torch.baddbmm(to_k, to_logits.transpose(1, 2), q, beta=0, alpha=scale, out=to_k)
        to_bias = to_logits.unflatten(0, (-1, ctx.shared)).sum(dim=0)
        return (to_q if ctx.own_query else None), to_packed, to_bias


def within(model):
    """The trained blocks of a model, known by the name of their class: of transformers, and of a ResNet."""
    blocks = [module for module in model.modules() if type(module).__name__.endswith("Block")]
    return [block for block in blocks if any(p.requires_grad for p in block.parameters())]


def recompute(model):
    """Keep only the input of each block for the backward pass, which computes the block again: less memory, more time."""
    for block in within(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def compile_blocks(model):
    """Compile each block as it trains; what only looks, in batches of any size, keeps the plain one."""
    for block in within(model):
        block.forward = Compiled(block.forward)


class Compiled:
    """`forward` of a block, compiled where gradients are made."""

    def __init__(self, plain):
        self.plain, self.fast = plain, torch.compile(plain, dynamic=False)

    def __call__(self, *args, **given):
        return (self.fast if torch.is_grad_enabled() else self.plain)(*args, **given)

    def __deepcopy__(self, memo):
        return Compiled(copy.deepcopy(self.plain, memo))  # what is compiled belongs to the block that is copied
