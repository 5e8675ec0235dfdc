"""One number of an evaluation, over seeds and with how sure it is."""

import math
import statistics

import numpy as np

from mimlab.layers import lost

LEVEL = 0.95
RESAMPLES = 1000


def summary(found):
    """One result of several seeds' dicts, as evaluations return them.

    `value` (mean of the metric), `values`, `spread` (sample deviation), `interval` [low, high] at 95 % and `interval_over`,
    "seeds" or "test images". Numbers and lists of numbers are averaged; anything else that differs is a list.
    """
    metric = found[0]["metric"]
    values = [one[metric] for one in found]
    told = {name: _shared([one[name] for one in found]) for name in found[0] if name != "hits"}
    interval, over = bounds(values, found[-1]["hits"])
    spread = statistics.stdev(values) if len(values) > 1 else None
    return told | {
        "value": statistics.mean(values),
        metric: statistics.mean(values),
        "spread": spread,
        "interval": interval,
        "interval_over": over,
        "values": values,
    }


def bounds(values, hits):
    """([low, high], over what) at 95 %: Student's t over seeds where they differ, else a bootstrap over test images.

    `values` in percent; `hits` (Q,): what each test image adds to the value, in [0, 1]; 1,000 resamples, percentiles.
    """
    if len(values) > 1 and max(values) > min(values):
        from scipy.stats import t

        middle, error = statistics.mean(values), statistics.stdev(values) / math.sqrt(len(values))
        half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
        return [max(0.0, middle - half), min(100.0, middle + half)], "seeds"
    hits, random = np.asarray(hits, float), np.random.default_rng(0)
    means = [100 * hits[random.integers(0, len(hits), len(hits))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return [float(low), float(high)], "test images"


def diverged(loss, classes):
    """Whether a mean cross-entropy of the last epoch says that nothing was learnt: twice that of one answer for all, ln(classes).

    Smoothed and mixed labels have the same mark. A training that is only too short ends near it, not far above.
    """
    return not loss <= 2 * math.log(max(classes, 2))


def _shared(values):
    first = values[0]
    if all(value == first for value in values):
        return first
    if all(isinstance(value, float) for value in values):
        return statistics.mean(values)
    if all(isinstance(value, list) and len(value) == len(first) for value in values):
        return [_shared(list(one)) for one in zip(*values, strict=True)]
    return values


def ranked(scores, truth):
    """What class scores (Q, C) are worth on labels (Q,), in percent: `top1`, `top5`, and what imbalance does to them.

    `majority`: what always naming the commonest class of these labels reaches; `balanced`: the mean over the classes that
    are there of each one's top-1. `metric`: "top1"; `hits`: bool (Q,), numpy. Equal scores go to the lower class; with fewer
    than five classes "top5" counts all of them. Scores that are not finite are worth nothing: FloatingPointError.
    """
    if lost(scores):
        raise FloatingPointError("what was trained gives scores that are not finite; try a smaller lr")
    first = scores.argsort(dim=1, descending=True, stable=True)[:, :5]  # (Q, 5)
    hit = (first == truth[:, None]).cpu()
    top1, top5 = (100 * one.double().mean().item() for one in (hit[:, 0], hit.any(dim=1)))
    return {"metric": "top1", "top1": top1, "top5": top5, **imbalance(hit[:, 0], truth), "hits": hit[:, 0].numpy()}


def imbalance(hit, truth):
    """`majority` and `balanced` in percent, as in `ranked`, of hits bool (Q,) and labels (Q,)."""
    there, of, counts = np.unique(truth.cpu().numpy(), return_inverse=True, return_counts=True)
    right = np.bincount(of, weights=hit.cpu().numpy(), minlength=len(there)) / counts
    return {"majority": 100 * float(counts.max()) / len(truth), "balanced": 100 * float(right.mean())}


def references(found):
    """What a result's main number is to be compared with, name -> percent."""
    told = {"chance": found.get("chance"), "most frequent class": found.get("majority")}
    if found.get("metric", "top1") != "top1":
        del told["most frequent class"]
    return {name: value for name, value in told.items() if value is not None}
