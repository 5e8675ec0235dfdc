"""Statistics in windows around each pixel, of which CIM's ResPix makes its target (arXiv 2202.03382).

Longer windows are joined from shorter ones that lie side by side: mean and variance of both follow from those of each
(Chan, Golub and LeVeque 1979). So a window of w pixels takes about log2(w) passes, and flat regions lose nothing to
cancellation, as they would by the mean of squares less the square of the mean.
"""

from typing import NamedTuple

import torch


class Line(NamedTuple):
    """Windows along one dimension, from each of its places on: `mean` and `var` (B, 3, H, W) with that dimension longer or
    shorter, and `count` (L,), how many pixels each has."""

    mean: torch.Tensor
    var: torch.Tensor
    count: torch.Tensor

    def at(self, dim, first, length):
        """The `length` windows from `first` on."""
        return Line(
            self.mean.narrow(dim, first, length), self.var.narrow(dim, first, length), self.count[first:][:length]
        )


def local(images, window, windows="truncate"):
    """Mean and population variance in the window around each pixel, both (B, 3, H, W).

    A window of side w reaches from w // 2 pixels before its pixel to (w - 1) // 2 after it; `windows` says what it has beyond the
    border: nothing ("truncate"), or the image mirrored ("reflect"); or they lie side by side ("tiles").
    """
    found = images.float(), torch.zeros_like(images, dtype=torch.float)
    for dim in (3, 2):  # along rows, then the windows of one column
        found = along(dim, *found, window, windows)
    return found


def along(dim, mean, var, window, windows):
    """Mean and variance of `window` neighbours along `dim`, which have a `mean` and `var` of their own."""
    n, before = mean.shape[dim], 0 if windows == "tiles" else window // 2
    place = torch.arange(-before, n + window - 1 - before, device=mean.device)
    inside = (place >= 0) & (place < n)
    if windows == "reflect":  # the edge is not repeated
        place, inside = n - 1 - (n - 1 - place.abs()).abs(), torch.ones_like(inside)
    place = place.clamp(0, n - 1)
    part = Line(mean.index_select(dim, place), var.index_select(dim, place), inside.float())
    found, reached, length = None, 0, 1
    while reached < window:
        if window & length:
            found = part if found is None else joined(dim, found, part, reached)
            reached += length
        if reached < window:
            part, length = joined(dim, part, part, length), 2 * length
    if windows == "tiles":
        own = torch.arange(n, device=mean.device) // window * window
        return found.mean.index_select(dim, own), found.var.index_select(dim, own)
    return found.mean, found.var


def joined(dim, one, other, shift):
    """Windows of `one`, each with that of `other` which begins `shift` later."""
    length = len(other.count) - shift
    one, other = one.at(dim, 0, length), other.at(dim, shift, length)
    count = one.count + other.count
    shape = [1, 1, 1, 1]
    shape[dim] = length
    share = (other.count / count.clamp_min(1)).view(shape)
    apart = other.mean - one.mean
    mean = torch.addcmul(one.mean, share, apart)
    var = torch.lerp(one.var, other.var, share)
    return Line(mean, var.addcmul_(apart.square_(), share * (1 - share)), count)
