"""Weighted nearest neighbours on frozen features: no training, so the first number of every run.

DINO, section 4.1 and appendix (arXiv 2104.14294); facebookresearch/dino, eval_knn.py: knn_classifier. The k
training images most similar by cosine vote for their labels with weight exp(cosine / T); k = 20 and T = 0.07
are the paper's. Letters: M training rows, Q test rows, D width, C classes.
"""

import torch
from torch.nn.functional import normalize

from mimlab.errors import Refused


def votes(train_features, train_labels, test_features, *, k=20, temperature=0.07, classes, chunk=1024):
    """Votes per class, not normalised: (M, D), (M,) int64, (Q, D) -> (Q, classes) float.

    Features are L2-normalised here. `chunk` test rows are compared at a time, M x chunk floats of memory.
    Refuses k above M, a temperature at which exp(1 / T) leaves float32, and features that are not finite.
    """
    _check(k, temperature, len(train_features))
    if not (torch.isfinite(train_features).all() and torch.isfinite(test_features).all()):
        raise Refused("features are not finite (nan or inf): the encoder has diverged; use an earlier checkpoint")
    train = normalize(train_features.float(), dim=1)
    counted = []
    for rows in test_features.split(chunk):
        cosine, nearest = (normalize(rows.float(), dim=1) @ train.T).topk(k, dim=1)  # (chunk, k)
        empty = torch.zeros(len(rows), classes, device=rows.device)
        counted.append(empty.scatter_add_(1, train_labels[nearest], (cosine / temperature).exp()))
    return torch.cat(counted)  # (Q, C)


def accuracy(votes, labels):
    """Percent of rows whose label is the first, and among the first five: (Q, C), (Q,) -> {"top1", "top5"}.

    Equal votes go to the lower class; with fewer than five classes "top5" counts all of them.
    """
    first = votes.argsort(dim=1, descending=True, stable=True)[:, :5]  # (Q, 5)
    hit = first == labels[:, None]
    return {"top1": 100 * hit[:, 0].double().mean().item(), "top5": 100 * hit.any(1).double().mean().item()}


def evaluate(encoder, train, test, *, k=20, temperature=0.07, pool="mean", batch=256, device=None):
    """Weighted k-NN of `encoder.features` from one set of `Images` to another.

    `pool`: "mean" of the patches, or "cls". Returns {"top1", "top5", "chance"} in percent, with k, temperature and the numbers of images. `chance` is
    100 / classes. `device` None: where the encoder is. The encoder's mode is put back. Refuses images without
    labels, two different lists of classes, and k above the number of training images.
    """
    for images in (train, test):
        images.require_labels()
    _check(k, temperature, len(train))
    if train.classes is not None and test.classes is not None and list(train.classes) != list(test.classes):
        raise Refused(
            f"{train.name} and {test.name} have different classes ({len(train.classes)} and {len(test.classes)}); "
            "the votes of one mean nothing for the other"
        )
    classes = int(max(train.labels.max(), test.labels.max())) + 1
    classes = max(classes, len(train.classes)) if train.classes is not None else classes
    if device is not None:
        encoder.to(device)
    features, labels = _features(encoder, train, batch, pool)
    queries, truth = _features(encoder, test, batch, pool)
    counted = votes(features, labels, queries, k=k, temperature=temperature, classes=classes)
    return accuracy(counted, truth) | {
        "k": k,
        "temperature": temperature,
        "pool": pool,
        "train_images": len(train),
        "test_images": len(test),
        "chance": 100 / classes,
    }


def _check(k, temperature, rows):
    """Refuse a k or a temperature that cannot work, before any features are computed."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise Refused(f"k = {k!r} is not a number of neighbours; use an integer from 1, such as 20")
    if k > rows:
        raise Refused(f"k = {k} is more than the {rows} training images; use at most {rows}")
    if not temperature >= 0.012:
        raise Refused(f"temperature = {temperature!r} overflows exp(1 / T); use at least 0.012, such as 0.07")


@torch.inference_mode()
def _features(encoder, images, batch, pool):
    """Features (M, D) and labels (M,) of all images, on the encoder's device."""
    device = next(encoder.parameters()).device
    training = encoder.training
    encoder.eval()
    try:
        features, labels = [], []
        for pixels, label in images.batches(batch):
            features.append(encoder.features(pixels.to(device).float() / 255, pool).float())  # (B, D)
            labels.append(torch.as_tensor(label, dtype=torch.long, device=device))
    finally:
        encoder.train(training)
    return torch.cat(features), torch.cat(labels)
