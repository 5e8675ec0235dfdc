"""How good what a method fills in is: PSNR, SSIM and tokens of each patch, of an image, of all, and by distance.

Values (B, N) are of single patches, NaN where visible. Letters: B images, N patches.
"""

import math

import torch

from mimlab import masks
from mimlab.layers import patchify
from mimlab.looking import difficulty

WINDOW = 11  # px, the window of SSIM
SURE = 1.96  # standard errors in half of a 95 % interval


def decibel(error):
    """A mean squared error of [0, 1] as PSNR; 120 dB stands for no error."""
    return -10 * math.log10(max(error, 1e-12))


def ssim(images, others, grid):
    """Structural similarity of each patch, (B, N): the mean of its pixels' and colours'; NaN for images below 11 px.

    Gaussian windows of 11 x 11 pixels and deviation 1.5 (Wang et al. 2004, section III.B), as scikit-image counts it.
    """
    from skimage.metrics import structural_similarity

    if min(images.shape[2:]) < WINDOW:
        return torch.full((len(images), grid[0] * grid[1]), math.nan)
    how = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0, "channel_axis": 0}
    pairs = zip(images.cpu().numpy(), others.cpu().numpy(), strict=True)
    maps = [torch.from_numpy(structural_similarity(a, b, full=True, **how)[1]) for a, b in pairs]
    return patchify(torch.stack(maps), images.shape[2] // grid[0]).mean(dim=2).float()


def of_patches(images, mask, grid, filled=None, judged=None):
    """Name -> (B, N), NaN where visible: loss, squared_error, squared_error_mean_colour, ssim (of the picture with
    visible patches pasted), right and near (the true token is the most probable, or of the five most probable).
    """
    values = {}
    if judged is not None:
        values["loss"] = judged.loss
    if judged is not None and judged.tokens is not None:
        values |= {"right": judged.right, "near": judged.tokens.rank <= judged.tokens.likely.shape[2]}
    if filled is not None:
        patch, hidden = images.shape[2] // grid[0], masks.pixels(mask, grid, images.shape[2:])
        guess = difficulty.mean_colour(images, mask, grid)
        for name, picture in (("squared_error", filled.images), ("squared_error_mean_colour", guess)):
            values[name] = patchify((picture - images).square(), patch).mean(dim=2)
        values["ssim"] = ssim(images, torch.where(hidden, filled.images, images), grid)
    return {name: value.float().masked_fill(~mask, math.nan) for name, value in values.items()}


def whole(values):
    """Means of `of_patches` over all hidden patches, as numbers of a row: PSNR for squared errors."""
    mean = {name: float(value.nanmean()) for name, value in values.items()}
    told = {"loss": "loss_patch", "right": "token_accuracy", "near": "token_top5", "ssim": "ssim_hidden"}
    row = {told[name]: round(value, 4) for name, value in mean.items() if name in told and not math.isnan(value)}
    names = {"squared_error": "psnr_hidden", "squared_error_mean_colour": "psnr_mean_colour"}
    return row | {names[name]: round(decibel(value), 2) for name, value in mean.items() if name in names}


def distance(mask, grid):
    """From each patch to the nearest visible one, centre to centre in patches: (B, N), 0 where visible."""
    from scipy.ndimage import distance_transform_edt

    maps = [torch.from_numpy(distance_transform_edt(row)) for row in mask.view(-1, *grid).cpu().numpy()]
    return torch.stack(maps).flatten(1).float()


def by_distance(values, away):
    """Means over hidden patches by their distance, rounded to whole patches: rows of distance, patches, mean, error.

    values (B, N), NaN where there is none; away (B, N). `error` is half of a 95 % interval, from the spread between
    images (a ratio of sums, linearised), None where a distance occurs in one image only.
    """
    rows, near = [], away.round()
    for step in near[near > 0].unique().tolist():
        inside = (near == step) & ~values.isnan()
        count = inside.sum(dim=1).double()  # (B,)
        total = torch.where(inside, values, 0).double().sum(dim=1)
        if count.sum() == 0:
            continue
        mean, some = float(total.sum() / count.sum()), int((count > 0).sum())
        spread = float((total - mean * count).square().sum().sqrt() / count.sum())
        error = SURE * spread * math.sqrt(some / (some - 1)) if some > 1 else None
        rows.append({"distance": int(step), "patches": int(count.sum()), "mean": mean, "error": error})
    return rows


def distances(values, away):
    """What `of_patches` gave by distance, for a figure: quantity -> series -> rows of `by_distance`, PSNR in dB."""
    panels = {
        "PSNR in dB": {"filled in": "squared_error", "mean colour": "squared_error_mean_colour"},
        "SSIM": {"filled in": "ssim"},
        "share of tokens": {"most probable is true": "right", "true is in the top five": "near"},
        "loss": {"of the method": "loss"},
    }
    found = {
        title: {series: by_distance(values[name], away) for series, name in lines.items() if name in values}
        for title, lines in panels.items()
    }
    for rows in found["PSNR in dB"].values():
        for row in rows:  # the derivative of the decibel carries the interval over
            scale = 10 / math.log(10) / max(row["mean"], 1e-12)
            row["error"] = None if row["error"] is None else row["error"] * scale
            row["mean"] = decibel(row["mean"])
    return {title: lines for title, lines in found.items() if any(lines.values())}
