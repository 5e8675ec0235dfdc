"""Few labels: logistic regression on frozen features of a small share of the training images, over several draws.

1 % and 10 % of the labels, in class-balanced subsets (PAWS, Assran et al. 2021, arXiv 2104.13963), with a classifier on frozen
features, are the setting of Masked Siamese Networks (Assran et al. 2022, arXiv 2204.07141, section 5). (1 % and 10 % in the
SplitMask paper are images to pre-train on, which is the setting `fraction` of a run.) The value is the mean over `draws` of the subset.

Differs from the paper: the regression is one L2 strength (C = 1) on standardised features, solved by L-BFGS
(`mimlab.looking.probing.linear`); the papers search the strength on more data than a small set has.
"""

import statistics
from typing import Annotated, Literal

import numpy as np
import torch

from mimlab import data
from mimlab.distributed import generator_for
from mimlab.errors import Refused
from mimlab.evals._labels import check, options_checked
from mimlab.evals._result import ranked
from mimlab.evals.knn import pooled
from mimlab.looking.probing import linear

SHARES = {"10pct": 0.1, "1pct": 0.01}


@options_checked
def evaluate(
    encoder,
    train,
    test,
    *,
    protocol: Literal["10pct", "1pct", "per_class"] = "10pct",
    shots: Annotated[int, (1, 100_000)] = 5,
    draws: Annotated[int, (1, 1000)] = 5,
    pool: Literal["mean", "cls"] = "mean",
    seed=0,
    device=None,
    cache=None,
):
    """Accuracy with few labels: `top1` and `top5` in percent over `draws`, `drawn` (top-1 of each), and more.

    `protocol`: a share of every class, at least one image of each, or "per_class": `shots` images of each class. Refuses
    more shots than a class has images.
    """
    classes = check(train, test)
    parts = [subset(train.labels, protocol, shots, seed * draws + draw) for draw in range(draws)]
    if device is not None:
        encoder.to(device)
    bank, queries = (pooled(encoder, images, pool, cache=cache) for images in (train, test))
    labels, truth = (torch.from_numpy(images.labels) for images in (train, test))
    found = [ranked(linear(bank[rows], labels[rows], queries, classes), truth) for rows in parts]
    said = f"{shots} a class" if protocol == "per_class" else f"{100 * SHARES[protocol]:g} % of the labels"
    return {
        "metric": "top1",
        "top1": statistics.mean(one["top1"] for one in found),
        "top5": statistics.mean(one["top5"] for one in found),
        "majority": found[0]["majority"],
        "balanced": statistics.mean(one["balanced"] for one in found),
        "hits": np.mean([one["hits"] for one in found], axis=0),
        "drawn": [one["top1"] for one in found],
        "protocol": f"fewshot {said}: logistic regression C=1, pool={pool}, {draws} draws",
        "frozen": True,
        "pool": pool,
        "labels": len(parts[0]),
        "train_images": len(train),
        "test_images": len(test),
        "chance": 100 / classes,
    }


def subset(labels, protocol, shots, draw):
    """Rows of one draw, sorted: int64 (M,)."""
    if protocol != "per_class":
        return torch.from_numpy(data.subset(labels, SHARES[protocol], draw))
    counts = np.bincount(labels)
    fewest = int(counts[counts > 0].min())
    if shots > fewest:
        raise Refused(f"shots = {shots}: a class has only {fewest} training images; use at most {fewest}")
    order = torch.randperm(len(labels), generator=generator_for(draw, 0, "few shots")).numpy()
    rows = [order[labels[order] == label][:shots] for label in np.unique(labels)]
    return torch.from_numpy(np.sort(np.concatenate(rows)))
