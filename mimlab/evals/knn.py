"""Weighted nearest neighbours on frozen features: no training, so the first number of every run.

DINO, section 4.1 and appendix (arXiv 2104.14294); facebookresearch/dino, eval_knn.py: knn_classifier. The k
training images most similar by cosine vote for their labels with weight exp(cosine / T); k = 20 and T = 0.07
are the paper's. Letters: M training rows, Q test rows, D width, C classes.
"""

from typing import Annotated, Literal

import torch
from torch.nn.functional import normalize

from mimlab.errors import Refused, shown
from mimlab.evals._cache import features
from mimlab.evals._labels import check, options_checked
from mimlab.evals._result import ranked
from mimlab.layers import lost

ROOM = 2**26  # bytes of similarities held at once


def votes(train_features, train_labels, test_features, *, k=20, temperature=0.07, classes, chunk=None):
    """Votes per class, not normalised: (M, D), (M,) int64, (Q, D) -> (Q, classes) float.

    Features are L2-normalised here. `chunk` test rows are compared at a time, M x chunk floats of memory; None: 64 MiB
    of them. Refuses k above M, a temperature at which exp(1 / T) leaves float32, and features that are not finite.
    """
    _check(k, temperature, len(train_features))
    if lost(train_features, test_features):
        raise Refused("features are not finite (nan or inf): the encoder has diverged; use an earlier checkpoint")
    train = normalize(train_features.float(), dim=1)
    counted = []
    for rows in test_features.split(chunk or max(1, ROOM // (4 * len(train)))):
        cosine, nearest = (normalize(rows.float(), dim=1) @ train.T).topk(k, dim=1)  # (chunk, k)
        empty = torch.zeros(len(rows), classes, device=rows.device)
        counted.append(empty.scatter_add_(1, train_labels[nearest], (cosine / temperature).exp()))
    return torch.cat(counted)  # (Q, C)


def accuracy(votes, labels):
    """Percent of rows whose label is the first, and among the first five: (Q, C), (Q,) -> {"top1", "top5"}.

    Equal votes go to the lower class; with fewer than five classes "top5" counts all of them.
    """
    found = ranked(votes, labels)
    return {"top1": found["top1"], "top5": found["top5"]}


@options_checked
def evaluate(
    encoder,
    train,
    test,
    *,
    k: Annotated[int, (1, 1_000_000)] = 20,
    temperature: Annotated[float, (0.012, 100.0)] = 0.07,
    pool: Literal["mean", "cls"] = "mean",
    batch: Annotated[int, (1, 8192)] = 256,
    device=None,
    cache=None,
):
    """Weighted k-NN of `encoder.features` from one set of `Images` to another.

    `pool`: "mean" of the patches, or "cls". Returns `top1`, `top5` and `chance` (100 / classes) in percent, and what every
    evaluation returns (see `mimlab.evals`). `device` None: where the encoder is. Refuses images without labels, two
    different lists of classes, and k above the number of training images.
    """
    classes = check(train, test)
    _check(k, temperature, len(train))
    if device is not None:
        encoder.to(device)
    bank, queries = (pooled(encoder, images, pool, batch=batch, cache=cache) for images in (train, test))
    labels, truth = (torch.from_numpy(images.labels) for images in (train, test))
    where = next(encoder.parameters()).device
    bank, labels, queries = bank.to(where), labels.to(where), queries.to(where)
    counted = votes(bank, labels, queries, k=k, temperature=temperature, classes=classes)
    return ranked(counted.cpu(), truth) | {
        "protocol": f"knn k={k} T={temperature} pool={pool}",
        "frozen": True,
        "k": k,
        "temperature": temperature,
        "pool": pool,
        "train_images": len(train),
        "test_images": len(test),
        "chance": 100 / classes,
    }


def pooled(encoder, images, pool, **options):
    """Features (N, D) of all images, on the CPU: the mean of the patches, or the class token; see `_cache.features`."""

    def compute(encoder, pixels):
        return {"features": encoder.features(pixels, pool).float()}

    return features(encoder, images, pool, compute, **options)["features"]


def _check(k, temperature, rows):
    """Refuse a k or a temperature that cannot work, before any features are computed."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise Refused(f"k = {shown(k)} is not a number of neighbours; use an integer from 1, such as 20")
    if k > rows:
        raise Refused(f"k = {k} is more than the {rows} training images; use at most {rows}")
    if not temperature >= 0.012:
        raise Refused(f"temperature = {shown(temperature)} overflows exp(1 / T); use at least 0.012, such as 0.07")
