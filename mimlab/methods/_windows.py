"""Statistics in windows around each pixel, of which CIM's ResPix makes its target (arXiv 2202.03382)."""

import torch


def local(images, window, windows="truncate"):
    """Mean and population variance in the window around each pixel, both (B, 3, H, W).

    A window of side w reaches from w // 2 pixels before its pixel to (w - 1) // 2 after it. First along rows, then
    along columns, where the variance is that of the means plus the mean of the variances: sums of squared
    differences throughout, so that flat regions lose nothing to cancellation.
    """
    mean, var = images.float(), torch.zeros_like(images, dtype=torch.float)
    for dim in (3, 2):
        place, inside = neighbours(images.shape[dim], window, windows)
        place = place.to(images.device)
        share = (inside / inside.sum(dim=0)).to(images.device)[:, :, None]  # (w, n, 1)
        share = share if dim == 2 else share[:, None, :, 0]
        parts = list(zip(place, share, strict=True))
        before, mean = mean, sum(part * mean.index_select(dim, ids) for ids, part in parts)
        own = zip((before.index_select(dim, ids) for ids, _ in parts), parts, strict=True)
        var = sum(part * (var.index_select(dim, ids) + (x - mean).square()) for x, (ids, part) in own)
    return mean, var


def neighbours(n, window, windows):
    """Of a line of `n` pixels, where those of each one's window lie, (window, n) int64, and which of them exist, bool."""
    own, offsets = torch.arange(n), torch.arange(window)[:, None]
    place = own // window * window + offsets if windows == "tiles" else own + offsets - window // 2
    if windows == "reflect":  # the edge is not repeated
        place = n - 1 - (n - 1 - place.abs()).abs()
    inside = (place >= 0) & (place < n)
    return place.clamp(0, n - 1), inside
