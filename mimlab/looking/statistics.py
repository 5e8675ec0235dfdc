"""What masks alone tell: numbers, maps and spectra of a batch of masks, without images and without a model.

A mask is bool (M, N), True = hidden, N = h * w patches in raster order; tensor or array.
"""

import numpy as np

from mimlab.errors import Refused

UNITS = {  # of the numbers of `summary`
    "ratio": "share of patches",
    "hidden": "patches",
    "regions": "per mask",
    "region size": "patches",
    "largest region": "share of the hidden",
    "hidden neighbours": "share of neighbours",
    "distance to visible": "patches",
    "farthest": "patches",
    "distance to centre": "1 = no preference",
    "agreement": "share of patches",
    "kappa": "0 = chance, 1 = the same",
}
CROSS = np.zeros((3, 3, 3), bool)
CROSS[1, 1] = CROSS[1, :, 1] = True  # connects 4 neighbours of one mask, never one mask to the next


def on_grid(mask, grid, name="mask"):
    """Masks as a bool array (M, h, w); raises Refused for another type or shape, or for no mask at all."""
    mask = mask.detach().cpu().numpy() if hasattr(mask, "detach") else np.asarray(mask)
    if mask.dtype != bool or mask.ndim != 2 or mask.shape[1] != grid[0] * grid[1] or 0 in mask.shape:
        raise Refused(f"{name}: {mask.dtype} {mask.shape} is not bool (M, {grid[0] * grid[1]}), True = hidden")
    return mask.reshape(-1, *grid)


def often(mask, grid):
    """How often each cell is hidden: float (h, w) in [0, 1]."""
    return on_grid(mask, grid).mean(0)


def summary(mask, grid):
    """Numbers that tell strategies apart, over the masks of (M, N): name -> float, NaN where there is nothing.

    ratio: hidden share. hidden: patches hidden in one mask. regions: 4-connected hidden areas in one mask.
    region size: patches in one of them. largest region: share of the hidden patches that lies in the largest
    region of its mask. hidden neighbours: share of a hidden patch's 4 neighbours (inside the image) that are
    hidden too. distance to visible: Euclidean, in patches, from a hidden patch to the nearest visible one
    (1 = adjacent). farthest: the largest such distance of a mask, mean over masks. distance to centre: of hidden
    patches over that of all patches, 1 = no preference. agreement: share of patches on which each mask and the
    next are alike. kappa: the agreement above chance, over the most that it can be above chance (Cohen's kappa of
    masks with equal counts: J. Cohen, 1960), 0 = independent, even masks, 1 = always the same.
    """
    many = on_grid(mask, grid)
    ratio = float(many.mean())
    regions, sizes, largest = _regions(many)
    nearest, farthest = _distances(many)
    agreement = float((many[1:] == many[:-1]).mean()) if len(many) > 1 else float("nan")
    chance = ratio**2 + (1 - ratio) ** 2
    return {
        "ratio": ratio,
        "hidden": ratio * grid[0] * grid[1],
        "regions": regions,
        "region size": sizes,
        "largest region": largest,
        "hidden neighbours": _hidden_neighbours(many),
        "distance to visible": nearest,
        "farthest": farthest,
        "distance to centre": _eccentricity(many),
        "agreement": agreement,
        "kappa": (agreement - chance) / (1 - chance) if chance < 1 else float("nan"),
    }


def _regions(many):
    """Regions per mask, patches per region, share of the hidden that lies in the largest of its mask."""
    from scipy import ndimage  # half a second of a notebook's start, where no mask is measured

    labels, count = ndimage.label(many, CROSS)
    if not count:
        return 0.0, float("nan"), float("nan")
    sizes = np.bincount(labels.ravel())[1:]  # (count,)
    owner = np.empty(count, int)  # the mask in which a region lies
    owner[labels[many] - 1] = np.nonzero(many)[0]
    largest = np.zeros(len(many), int)
    np.maximum.at(largest, owner, sizes)
    return count / len(many), float(sizes.mean()), float(largest.sum() / sizes.sum())


def _hidden_neighbours(many):
    """Share of the neighbours of hidden patches that are hidden; each pair counts from both its sides."""
    both, neighbours = 0, 0
    for one, other in ((many[:, :, 1:], many[:, :, :-1]), (many[:, 1:], many[:, :-1])):
        both += 2 * (one & other).sum()
        neighbours += one.sum() + other.sum()
    return float(both / neighbours) if neighbours else float("nan")


def _distances(many):
    """Mean distance from a hidden patch to the nearest visible one, and the largest, averaged over masks."""
    from scipy import ndimage

    hidden = many.sum((1, 2))
    many = many[(hidden > 0) & (hidden < many[0].size)]  # the others have no such pair
    if not len(many):
        return float("nan"), float("nan")
    beyond = 2.0 * sum(many.shape[1:])  # farther than any patch of the same mask
    distance = ndimage.distance_transform_edt(many, sampling=(beyond, 1, 1))
    return float(distance[many].mean()), float(distance.max((1, 2)).mean())


def _eccentricity(many):
    """Mean distance of hidden patches from the grid's centre, over the mean of all patches."""
    h, w = many.shape[1:]
    away = np.hypot(np.arange(h)[:, None] - (h - 1) / 2, np.arange(w) - (w - 1) / 2)
    return float((many.sum(0) * away).sum() / many.sum() / away.mean()) if many.any() and h * w > 1 else float("nan")


def spectrum(mask, grid):
    """Radially averaged power spectrum of masks: (frequencies in cycles per patch, power), one value a ring.

    The periodogram of each mask less its mean, averaged over masks and over rings of equal frequency; 1 is the
    mean over all frequencies, so random masks have 1 everywhere. Below 0.05 lies what varies over more than 20
    patches; a checkerboard lies at 0.71, beyond 0.5 there are diagonals only. Frequencies count patches, on grids
    that are not square as well; rings are as wide as the lowest frequency. NaN where no mask has both kinds of patch.
    Rings and the normalisation by the variance are those of R. Ulichney, "Dithering with Blue Noise" (1988).
    """
    h, w = grid
    many = on_grid(mask, grid)
    power = (np.abs(np.fft.fft2(many - many.mean((1, 2), keepdims=True))) ** 2).mean(0)  # (h, w)
    radius = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w))
    ring = np.rint(radius * max(h, w)).astype(int).ravel()  # 0 holds the mean alone
    inside = np.bincount(ring)
    used = np.flatnonzero(inside)[1:]
    total = power.sum()
    share = power * (h * w - 1) / total if total else np.full_like(power, np.nan)
    frequencies, values = (np.bincount(ring, x.ravel())[used] / inside[used] for x in (radius, share))
    return frequencies, values
