"""Mean intersection over union."""

import torch

RESAMPLES = 1000


def confusion(truth, found, classes):
    """Counts of pixels, int64 (classes, classes), rows the truth: labels (H, W) each; truth outside [0, classes) is left out."""
    kept = (truth >= 0) & (truth < classes)
    return torch.bincount(truth[kept] * classes + found[kept], minlength=classes**2).reshape(classes, classes)


def score(counts, names):
    """({"miou", "miou_objects", "pixel_accuracy"} in percent, {name: IoU in percent}) of a confusion matrix; row 0 is background.

    The mean is over the classes that the truth has; "miou" counts background as a class, "miou_objects" leaves it out (None without
    objects). A class that is absent but predicted lowers the others, as its pixels are missing there.
    """
    counts = counts.double()
    hit, there = counts.diag(), counts.sum(1)
    each = 100 * hit / (there + counts.sum(0) - hit).clamp_min(1)
    present = there > 0
    objects = present.clone()
    objects[0] = False
    numbers = {
        "miou": round(float(each[present].mean()), 3) if present.any() else None,
        "miou_objects": round(float(each[objects].mean()), 3) if objects.any() else None,
        "pixel_accuracy": round(float(100 * hit.sum() / counts.sum().clamp_min(1)), 3),
    }
    return numbers, {name: float(each[k]) for k, name in enumerate(("background", *names)) if present[k]}


def interval(counts):
    """[low, high] of "miou" in percent, 95 % of a bootstrap over images, from the confusion matrix of each."""
    generator = torch.Generator().manual_seed(0)
    names = [str(code) for code in range(1, len(counts[0]))]
    found = []
    for _ in range(RESAMPLES):
        drawn = torch.randint(len(counts), (len(counts),), generator=generator)
        often = torch.bincount(drawn, minlength=len(counts)).tolist()
        whole = sum(n * one for n, one in zip(often, counts, strict=True) if n)
        found.append(score(whole, names)[0]["miou"])
    found = torch.tensor([value for value in found if value is not None], dtype=torch.float64)
    return found.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist() if len(found) else None
