"""Attention as it is trained on a CPU in one precision: head after head, each product read and written where it lies.

torch's fused kernel is made for many tokens; with few, the plain products are faster, and a position bias that is trained has no
fused kernel at all. Elsewhere, and where nothing is trained, `scaled_dot_product_attention` is used.
"""

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mimlab.linear import linear

SHORT = 128  # tokens: beyond, the fused kernel is as fast and keeps no weights


def pick(x, rows):
    """Tokens (B, T, D) at `rows`, a slice or int64 (B, M): (B, M, D); None: all of them."""
    if rows is None:
        return x
    if isinstance(rows, slice):
        return x[:, rows]
    return x.gather(1, rows.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def projected(seen, weight, added, rows):
    """Queries (B, M, D) of the tokens at `rows`, keys and values (B, T, 2 D) of all, from seen (B, T, D); without `rows` None and all
    three, (B, T, 3 D). `weight` (3 D, D) and `added` (3 D) or None are those of the three.
    """
    if rows is None:
        return None, linear(seen, weight, added)
    width = len(weight) // 3
    first, rest = (None, None) if added is None else (added[:width], added[width:])
    return linear(pick(seen, rows), weight[:width], first), linear(seen, weight[width:], rest)


def apart(q, packed, heads):
    """Queries (B, heads, M, d), keys and values (B, heads, T, d), from what `projected` gives."""
    parts = packed.unflatten(2, (2 if q is not None else 3, heads, -1)).permute(2, 0, 3, 1, 4).unbind()
    return parts if q is None else (q.unflatten(2, (heads, -1)).transpose(1, 2), *parts)


def attend(seen, weight, added, heads, rows, bias=None):
    """softmax(q k^T / sqrt(d) + bias) v of the tokens at `rows`, (B, M, D), by `Attention`.

    `seen`, `weight`, `added` and `rows` as `projected` has them; `bias` (heads, T, T) or None.
    """
    if bias is not None and rows is not None:
        if isinstance(rows, slice):
            bias = bias[:, rows]
        else:
            first = torch.arange(heads)[:, None, None] * bias.shape[1]
            bias = F.embedding(first + rows, bias.flatten(0, 1))  # (heads, B, M, T)
    return Attention.apply(*projected(seen, weight, added, rows), bias, heads)


class Attention(torch.autograd.Function):
    """`q` (B, M, D) or None and `packed` (B, T, 2 D or 3 D), see `projected`; `bias` None, (heads, M, T) or (heads, B, M, T) -> (B, M, D)."""

    @staticmethod
    def forward(ctx, q, packed, bias, heads):
        queries, keys, values = by_head(q, packed, heads)
        b, m, d = queries[0].shape
        weights = packed.new_empty(heads, b, m, packed.shape[1])
        found = packed.new_empty(heads, b, m, d)
        for head, (one, key, value) in enumerate(zip(queries, keys, values, strict=True)):
            logits = weights[head]
            if bias is not None:
                logits.copy_(bias[head])
            torch.baddbmm(logits, one, key.mT, beta=int(bias is not None), alpha=d**-0.5, out=logits)
            torch.softmax(logits, dim=2, out=logits)
            torch.bmm(logits, value, out=found[head])
        ctx.save_for_backward(q, packed, weights)
        ctx.bias = None if bias is None else bias.shape
        return found.permute(1, 2, 0, 3).flatten(2)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        q, packed, weights = ctx.saved_tensors
        heads, b, m, t = weights.shape
        queries, keys, values = by_head(q, packed, heads)
        d = queries[0].shape[2]
        to_packed = packed.new_empty(3 if q is None else 2, heads, b, t, d)
        to_q, to_k, to_v = to_packed if q is None else (q.new_empty(heads, b, m, d), *to_packed)
        to_bias = None if ctx.bias is None else packed.new_empty(ctx.bias)
        to_weights = packed.new_empty(b, m, t)
        for head, given in enumerate(gradient.unflatten(2, (heads, d)).unbind(2)):
            known = weights[head]
            torch.bmm(known.mT, given, out=to_v[head])
            torch.bmm(given, values[head].mT, out=to_weights)
            to_logits = torch._softmax_backward_data(to_weights, known, 2, known.dtype)
            torch.baddbmm(to_q[head], to_logits, keys[head], beta=0, alpha=d**-0.5, out=to_q[head])
            torch.baddbmm(to_k[head], to_logits.mT, queries[head], beta=0, alpha=d**-0.5, out=to_k[head])
            if to_bias is not None:
                to_bias[head] = to_logits if to_bias.ndim == 4 else to_logits.sum(dim=0)
        to_q = None if q is None else to_q.permute(1, 2, 0, 3).flatten(2)
        return to_q, to_packed.permute(2, 3, 0, 1, 4).flatten(2), to_bias, None


def by_head(q, packed, heads):
    """Queries, keys and values, each a tuple of one (B, M or T, d) a head: where they lie, nothing is copied."""
    parts = packed.unflatten(2, (2 if q is not None else 3, heads, -1)).unbind(2)
    if q is not None:
        parts = (q.unflatten(2, (heads, -1)), *parts)
    return tuple(part.unbind(2) for part in parts)
