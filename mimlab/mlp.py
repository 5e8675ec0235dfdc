"""The MLP of a block as it is trained on a CPU in one precision: some rows at a time, and only what goes into GELU is kept.

torch keeps what goes into GELU and what comes out of it, each four times as wide as a token. Here the second is made anew in
the backward pass, piece by piece, which takes no longer than to write it and read it back. Elsewhere, and where nothing is
trained, the layers are called one after another.
"""

import torch
from timm.layers import Mlp
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from mimlab.linear import exactly, linear, plain, product, untouched, watched

ROWS = 4096  # tokens at a time: with fewer, threads wait for each other more often


def feed(mlp, x, gamma=None):
    """timm's `mlp` of x (B, T, D), times `gamma` (D,) if given."""
    if not simple(mlp):
        return mlp(x) if gamma is None else gamma * mlp(x)
    if plain(x):
        return Feed.apply(x, mlp.fc1.weight, mlp.fc1.bias, *scale(mlp.fc2, gamma))
    return mlp(x) if gamma is None else scaled(mlp.fc2, mlp.act(mlp.fc1(x)), gamma)


def simple(mlp):
    """Whether it is timm's own, two linear layers with biases and an exact GELU between them, drops nothing, and no hook sees it."""
    if torch.compiler.is_compiling():
        return type(mlp.act) is nn.GELU
    return (
        exactly(mlp, Mlp)
        and exactly(mlp.fc1)
        and exactly(mlp.fc2)
        and None not in (mlp.fc1.bias, mlp.fc2.bias)
        and exactly(mlp.act, nn.GELU)
        and mlp.act.approximate == "none"
        and type(mlp.norm) is nn.Identity
        and all(type(drop) is nn.Dropout and not drop.p for drop in (mlp.drop1, mlp.drop2))
        and not watched(mlp)
    )


def scale(linear, gamma):
    """Weight and bias of `gamma` times `linear`."""
    return (linear.weight, linear.bias) if gamma is None else (linear.weight * gamma[:, None], linear.bias * gamma)


def scaled(layer, x, gamma):
    """`gamma` (D,) times `layer(x)`; in one precision the weights are scaled, which are fewer than the outputs."""
    if gamma is None:
        return linear(x, layer.weight, layer.bias) if untouched(layer) else layer(x)
    if torch.is_autocast_enabled(x.device.type) or not untouched(
        layer
    ):  # a small gamma would take the weights below half precision
        return gamma * layer(x)
    return linear(x, *scale(layer, gamma))


class Feed(torch.autograd.Function):
    """`x` (..., D), `first` (H, D) and its bias (H,), `second` (E, H) and its bias (E,) -> (..., E)."""

    @staticmethod
    def forward(ctx, x, first, first_bias, second, second_bias):
        rows = x.flatten(0, -2)
        hidden, out = [], rows.new_empty(len(rows), len(second))
        for seen, found in zip(rows.split(ROWS), out.split(ROWS), strict=True):
            hidden.append(product(seen, first, first_bias))
            product(F.gelu(hidden[-1]), second, second_bias, out=found)
        ctx.save_for_backward(rows, first, second, *hidden)
        return out.unflatten(0, x.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        rows, first, second, *hidden = ctx.saved_tensors
        given, to_rows = gradient.reshape(len(rows), -1), torch.empty_like(rows)
        to_first = torch.empty_like(first)
        to_second = first.new_empty(second.shape[::-1])  # with the longer side first the product takes 0.8 of the time
        to_bias = first.new_zeros(len(first))
        pieces = zip(rows.split(ROWS), hidden, given.split(ROWS), to_rows.split(ROWS), strict=True)
        for index, (seen, before, wanted, found) in enumerate(pieces):
            added = int(index > 0)  # large weights take long to be filled with zeros
            to_second.addmm_(F.gelu(before).T, wanted, beta=added)
            to_before = torch.ops.aten.gelu_backward(product(wanted, second.T), before)
            to_first.addmm_(to_before.T, seen, beta=added)
            to_bias += to_before.sum(dim=0)
            product(to_before, first.T, out=found)
        to_rows = to_rows.unflatten(0, gradient.shape[:-1])
        return to_rows, to_first, to_bias, to_second.T, given.sum(dim=0)
