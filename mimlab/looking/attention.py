"""Attention of an encoder, and what is read off it: mass, rollout, distance, entropy.

Attention is softmax weights (..., heads, T, T), rows are queries and sum to 1, of one layer (B, heads, T, T) or of
several (L, B, heads, T, T). Of the T tokens the last h * w are the patches in raster order; CLS, where there is one,
is the first.
"""

import torch

from mimlab.encoders import Encoder
from mimlab.encoders.xcit import XCiT
from mimlab.errors import Refused, shown

FUSIONS = {"mean": lambda w: w.mean(dim=-3), "max": lambda w: w.amax(dim=-3), "min": lambda w: w.amin(dim=-3)}


@torch.inference_mode()
def captured(encoder, images, layers=None):
    """Attention (L, B, heads, T, T) of `layers`, 0-based, None for all; images (B, 3, H, W) in [0, 1].

    An XCiT's is that of its class-attention layers, whose only query is CLS: (L, B, heads, 1, T). Any image size that
    the encoder can is allowed. `Refused` for a layer that is not there, and where there is no attention.
    """
    there = depth(encoder)
    layers = list(range(there)) if layers is None else list(layers)
    wrong = [layer for layer in layers if not 0 <= layer < there]
    if wrong or not layers:
        raise Refused(f"layers = {wrong or layers}: this encoder has layers 0 to {there - 1}")
    found = encoder.class_attention(images) if one_query(encoder) else encoder.attention(images, layers)
    return torch.stack([found[layer] for layer in layers])


def one_query(encoder):
    """Whether only CLS looks at the patches, as in an XCiT's class-attention layers."""
    return isinstance(encoder, XCiT)


def depth(encoder):
    """How many layers `captured` can give; `Refused` for an encoder without attention, such as a ResNet."""
    if one_query(encoder):
        return len(encoder.trunk.cls_attn_blocks)
    if not isinstance(encoder, Encoder):
        raise Refused(f"{encoder.spec['model_name']} has no attention; use an encoder of the vit, beit or xcit family")
    return encoder.depth


def to_patches(attention, query, grid):
    """Weights (..., heads, N) that one query gives to the patches: "cls", or the patch (row, column).

    They are not renormalised: what is missing to 1 lies on CLS and other prefix tokens. `Refused` for a query that
    is not there.
    """
    attention, n = torch.as_tensor(attention), grid[0] * grid[1]
    prefix = _prefix(attention, grid)
    return attention[..., row_of(query, grid, prefix, attention.shape[-2]), -n:]


def row_of(query, grid, prefix, queries=None):
    """The row of attention that is the query's; `queries`: how many rows there are, None: one a token."""
    if query == "cls":
        if not prefix:
            raise Refused('query = "cls": this encoder has no class token; give a patch as "row,column"')
        return 0
    row, column = query
    if queries == 1:
        raise Refused(f'query = "{row},{column}": only CLS looks at patches in this encoder; use query = "cls"')
    if not (0 <= row < grid[0] and 0 <= column < grid[1]):
        raise Refused(f'query = "{row},{column}": rows go from 0 to {grid[0] - 1}, columns from 0 to {grid[1] - 1}')
    return prefix + row * grid[1] + column


def mass(attention, threshold):
    """The largest weights that together hold at least the share `threshold`: bool, as `attention` (..., N).

    The weights of CLS to the patches, without its own, are divided by their sum first. The weight that crosses the
    threshold is kept. Source: DINO, visualize_attention.py (Caron et al. 2021, figures 3 and 4: threshold 0.6).
    `masks.pixels` enlarges to pixels by nearest neighbour, as there.
    """
    if not 0 < threshold <= 1:
        raise Refused(f"threshold = {threshold} must lie above 0 and be at most 1")
    ordered, places = torch.as_tensor(attention).sort(dim=-1, stable=True)
    ordered = ordered / ordered.sum(dim=-1, keepdim=True)
    kept = ordered.cumsum(dim=-1) > 1 - threshold
    return torch.zeros_like(kept).scatter(-1, places, kept)


def rollout(attention, fuse="mean", discard=0.0, residual=True):
    """Attention through all layers, (B, T, T) from (L, B, heads, T, T): how much of each input token a token holds.

    W = mean, max or min over the heads; A = (W + I) / 2, its rows divided by their sums; A_L ... A_1. `residual` False
    leaves I out. `discard`: the smallest share of each image's W is set to 0 first. Source: Abnar and Zuidema 2020
    (arXiv 2005.00928), section 3; max, min and discard are of jacobgil/vit-explain, vit_rollout.py.

    Differs from vit-explain: rows are divided by their own sums (there columns, by the sums of the rows, which is the same
    only for the mean with nothing discarded); no weight is exempt from `discard` (there that of CLS to itself in the
    first image); every image of the batch has its own.
    """
    if fuse not in FUSIONS:
        raise Refused(f"fuse = {shown(fuse)}; there are: {', '.join(FUSIONS)}")
    if not 0 <= discard < 1:
        raise Refused(f"discard = {discard} must be 0 or more and below 1")
    if discard and not residual:
        raise Refused(f"discard = {discard} may leave a token nothing without the residual; use residual = True")
    attention = _layers(attention)
    if attention.shape[-2] != attention.shape[-1]:
        raise Refused("rollout: only CLS looks at patches in this encoder, so there is nothing to multiply")
    rolled = torch.eye(attention.shape[-1], dtype=attention.dtype)
    for fused in FUSIONS[fuse](attention):  # (B, T, T)
        if discard:
            flat = fused.flatten(1)
            dropped = flat.topk(int(flat.shape[1] * discard), dim=1, largest=False).indices
            fused = flat.scatter(1, dropped, 0.0).view_as(fused)
        if residual:
            fused = fused + torch.eye(fused.shape[-1], dtype=fused.dtype)  # the half cancels in the next line
        rolled = fused / fused.sum(dim=-1, keepdim=True) @ rolled
    return rolled


def distance(attention, grid, patch, renormalise=True):
    """Mean attention distance in pixels, (L, heads), or (heads,) of one layer: how far patches look.

    Over queries and images, the mean of sum_j A_ij d(i, j), d between the centres of patches of `patch` pixels. CLS
    is left out as query and key, and a row's rest sums to 1 again; `renormalise` False leaves the row as it is.
    Source: Dosovitskiy et al. 2021 (arXiv 2010.11929), figure 7, which says nothing about CLS.
    """
    attention = torch.as_tensor(attention)
    prefix = _prefix(attention, grid)
    if attention.shape[-2] != attention.shape[-1]:
        raise Refused("distance: only CLS looks at patches in this encoder, and CLS has no place")
    weights = attention[..., prefix:, prefix:]
    if renormalise:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    centres = torch.stack([rows.flatten(), columns.flatten()], dim=1).to(weights.dtype) * patch
    apart = (centres[:, None] - centres[None]).square().sum(dim=-1).sqrt()  # cdist is inexact on float32
    return _mean((weights * apart).sum(dim=-1))


def entropy(attention):
    """Entropy -sum p ln p in nats, (L, heads), or (heads,) of one layer: the mean over images and all queries."""
    return _mean(torch.special.entr(torch.as_tensor(attention)).sum(dim=-1))


def _mean(values):
    """Mean over images and queries of (..., B, heads, queries)."""
    return values.mean(dim=(-3, -1))


def _layers(attention):
    attention = torch.as_tensor(attention)
    return attention if attention.ndim == 5 else attention[None]


def _prefix(attention, grid):
    """How many tokens stand before the patches; `Refused` where the grid has more patches than there are tokens."""
    prefix = attention.shape[-1] - grid[0] * grid[1]
    if prefix < 0:
        raise Refused(f"grid = {tuple(grid)} does not fit attention of shape {tuple(attention.shape)}")
    return prefix
