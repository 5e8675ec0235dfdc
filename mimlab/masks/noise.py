"""Thresholded noise of four colours: clumps of hidden patches whose size the filters set.

ColorMAE, section 3 (arXiv 2407.13036): W is white noise, blurred by Gaussians of a weak and a strong standard
deviation; the highest values of the result decide.

  red = strong(W), blue = W - weak(W), green = weak(W) - strong(W), purple = W - green

Red keeps low frequencies (large blobs), blue high ones (spread evenly, few neighbours), green those between (small
clumps, the paper's best), purple all but those. Red, green and blue add up to W.

Differs from the paper: its code (carlosh93/ColorMAE, models/utils/masking_generator.py) crops windows from noise
images made beforehand, whose standard deviations it does not tell; the defaults here are ours. Here every image has
a field of its own, larger than the grid by the reach of the filters, so that no border shows, as in a crop. That code
keeps the highest values and these masks hide them, which is the same in distribution: -W is as likely as W.
"""

import math
from typing import Annotated, Literal

import torch


def rank(
    batch,
    grid,
    generator,
    *,
    colour: Literal["green", "blue", "red", "purple"] = "green",
    weak: Annotated[float, (0.3, 1.0, 0.05)] = 0.7,
    strong: Annotated[float, (1.2, 4.0, 0.1)] = 2.0,
):
    """Filtered noise, not normalised: (batch, N) float.

    `weak`, `strong`: standard deviations of the two blurs in patches; blue depends on `weak` only, red on `strong`.
    All colours are made from the same W if the generator is in the same state and `strong` the same.
    """
    reach = math.ceil(2.5 * strong)  # beyond, a Gaussian has 1 % of its mass
    h, w = grid
    field = torch.randn(batch, h + 2 * reach, w + 2 * reach, generator=generator)
    white = field[:, reach : reach + h, reach : reach + w]
    if colour == "red":
        made = _blur(field, grid, strong)
    elif colour == "blue":
        made = white - _blur(field, grid, weak)
    else:
        made = _blur(field, grid, weak) - _blur(field, grid, strong)
        made = made if colour == "green" else white - made
    return made.flatten(1)


def _blur(field, grid, sigma):
    """The middle of a field, blurred: (B, h + 2 r, w + 2 r) -> (B, h, w); one matrix per axis, one product for all B."""
    down, across = (_gaussian(side, size, sigma) for side, size in zip(grid, field.shape[1:], strict=True))
    half = (field @ across.T).transpose(1, 2).contiguous()  # (B, w, h + 2 r)
    return (half @ down.T).transpose(1, 2)


def _gaussian(side, size, sigma):
    """Weights of the `size` places of a field for each of its `side` middle ones: (side, size), rows of sum 1."""
    middle = torch.arange(side)[:, None] + (size - side) // 2
    weights = torch.softmax(-((torch.arange(size) - middle) ** 2) / (2 * sigma**2), dim=1)
    return weights.masked_fill(
        weights < 1e-12, 0.0
    )  # products with numbers near float's smallest take many times as long
