"""How hard a mask makes the task, without a model: what copying and linear prediction fill into the hole.

Three guesses of rising strength, each from the visible pixels of the same image: their mean colour, a copy of
the nearest visible patch, and the best linear prediction. The last one knows second-order statistics only: how
alike two pixels are at a given displacement. What it fills in well needs no understanding of the image; what it
misses is left to the method.

Images (B, 3, H, W) float [0, 1], mask bool (B, N), True = hidden, `grid` = (h, w) square patches.
"""

import math

import torch
import torch.nn.functional as F

from mimlab import masks
from mimlab.errors import Refused
from mimlab.layers import patchify, unpatchify

SIDE = 48  # pixels, at most, of what `small` returns: a solve over half of them takes about 10 ms
NUGGET = 1e-3  # variance that a pixel does not share with its neighbours, over all its variance: the small ridge


def _check(images, grid, mask=None):
    """The side of a patch in pixels, or Refused."""
    patch = images.shape[2] // grid[0] if images.ndim == 4 and images.is_floating_point() else 0
    if patch < 1 or tuple(images.shape[1:]) != (3, grid[0] * patch, grid[1] * patch) or not len(images):
        raise Refused(
            f"images: {images.dtype} {tuple(images.shape)} is not float (B, 3, H, W) of {grid[0]} x {grid[1]} square "
            "patches of whole pixels; resize them to a multiple of the grid"
        )
    if mask is not None:
        wanted = (len(images), grid[0] * grid[1])
        if mask.dtype != torch.bool or tuple(mask.shape) != wanted:
            raise Refused(f"mask: {mask.dtype} {tuple(mask.shape)} is not bool {wanted}, True = hidden")
        if mask.all(1).any():
            raise Refused("mask: a row hides every patch; at least one must be visible to predict from")
    return patch


def small(images, grid):
    """The images at which all guesses are compared: (B, 3, h * s, w * s), area-averaged.

    s = max(1, 48 // max(grid)) whole pixels a patch, never more than it has, so no pixel mixes two patches.
    """
    patch = _check(images, grid)
    side = max(1, min(SIDE // max(grid), patch))
    return F.adaptive_avg_pool2d(images, (grid[0] * side, grid[1] * side))


def mean_colour(images, mask, grid):
    """Each image as the mean colour of its visible pixels: (B, 3, H, W)."""
    _check(images, grid, mask)
    visible = ~masks.pixels(mask, grid, images.shape[2:])
    mean = (images * visible).sum((2, 3), keepdim=True) / visible.sum((2, 3), keepdim=True)
    return mean.expand_as(images)


def nearest(images, mask, grid):
    """Every hidden patch as a copy of its nearest visible patch: (B, 3, H, W); visible ones stay.

    Euclidean distance between patch centres; of several equally near the first in raster order.
    """
    patch = _check(images, grid, mask)
    n = grid[0] * grid[1]
    ids = torch.arange(n, device=mask.device)
    row, column = ids // grid[1], ids % grid[1]
    squared = (row[:, None] - row) ** 2 + (column[:, None] - column) ** 2  # (N, N), whole numbers: ties are exact
    rank = squared * n + ids  # no two alike, nearest first, then raster order
    far = int(rank.max()) + 1
    source = torch.stack([rank.masked_fill(hidden, far).argmin(1) for hidden in mask])  # (B, N)
    return unpatchify(masks.take(patchify(images, patch), source), grid, patch)


def covariance(images):
    """How alike two pixels of these images are, by displacement only: (P, P) float64, P = H * W.

    The autocovariance of each image and colour about its own mean, averaged over all of them: the biased estimator
    (sums over the pairs that exist, divided by P), which is positive semi-definite for any images. By FFT, padded
    with zeros so that no border meets the opposite one.
    """
    height, width = images.shape[2:]
    centred = images.double() - images.double().mean((2, 3), keepdim=True)
    padded = (2 * height, 2 * width)
    power = torch.fft.rfft2(centred, s=padded).abs().square().mean((0, 1))
    by_shift = torch.fft.irfft2(power, s=padded) / (height * width)  # (2 H, 2 W), negative shifts at the end
    down, across = (
        (torch.arange(side, device=images.device)[:, None] - torch.arange(side, device=images.device)) % (2 * side)
        for side in (height, width)
    )
    return by_shift[down[:, None, :, None], across[None, :, None, :]].reshape(height * width, -1)


def linear(images, mask, grid):
    """`small(images)` with the hidden pixels as the best linear prediction from the visible ones.

    Simple kriging, or Wiener prediction: hidden = mean + C_hv C_vv^-1 (visible - mean), the linear estimate of
    least mean squared error under the covariance C of `covariance` (N. Cressie, "Statistics for Spatial Data",
    1993, chapter 3). The mean is the image's visible mean colour; colours share C. C comes from these images
    themselves, hidden pixels included: it is one number a displacement, for all images together. C_vv gets a
    thousandth of the variance more on its diagonal, so that it can be solved.
    """
    _check(images, grid, mask)
    images = small(images, grid)
    shared = covariance(images)
    shared.diagonal().add_(NUGGET * shared[0, 0] + 1e-12)  # the constant: images without any variance
    mean = mean_colour(images, mask, grid)
    visible = ~masks.pixels(mask, grid, images.shape[2:])  # (B, 1, H, W)
    rest = (images - mean).double().flatten(2)  # (B, 3, P)
    weights = torch.zeros_like(rest)  # C_vv^-1 (visible - mean), zero at hidden pixels
    for k, seen in enumerate(visible.flatten(1)):
        v = seen.nonzero()[:, 0]
        root = torch.linalg.cholesky(shared[v[:, None], v])
        weights[k, :, v] = torch.cholesky_solve(rest[k, :, v].T, root).T
    guess = mean + (weights @ shared).view_as(images).to(images.dtype)
    return torch.where(visible, images, guess)


def score(images, mask, grid, guess=None):
    """Peak signal to noise ratio in dB over the hidden pixels of `small(images)` for each guess: name -> float.

    10 log10(1 / mean squared error), the mean over all images together; 120 dB stands for no error. The lower
    "psnr linear", the less second-order statistics tell about what is hidden. `guess`: what `linear` gave, if known.
    """
    _check(images, grid, mask)
    reduced = small(images, grid)
    hidden = masks.pixels(mask, grid, reduced.shape[2:]).expand_as(reduced)
    if not hidden.any():
        raise Refused("mask: no patch is hidden, so there is nothing to predict")
    guesses = {
        "mean colour": mean_colour(reduced, mask, grid),
        "nearest": nearest(reduced, mask, grid),
        "linear": linear(reduced, mask, grid) if guess is None else guess,
    }
    errors = {name: float((filled - reduced)[hidden].square().mean()) for name, filled in guesses.items()}
    return {f"psnr {name}": -10 * math.log10(max(error, 1e-12)) for name, error in errors.items()}
