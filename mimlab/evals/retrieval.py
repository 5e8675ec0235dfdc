"""Retrieval on frozen features: each test image ranks all training images by cosine; those of its class are to be found.

`map` is the mean over queries of the average precision over the whole ranking (as in the retrieval of DINO, section 4.2,
arXiv 2104.14294, eval_image_retrieval.py, there on landmarks with their own lists of hard images);
`recall@k` the share of queries with an image of their class among the first k.
"""

from typing import Literal

import torch
from torch.nn.functional import normalize

from mimlab.errors import Refused
from mimlab.evals._labels import check, options_checked
from mimlab.evals._result import imbalance
from mimlab.evals.knn import pooled

AT = (1, 5, 10)
ROOM = 2**26  # bytes of similarities held at once


def precisions(gallery, labels, queries, truth, chunk=None):
    """Average precision of each query, float64 (Q,), and the rank of its first hit, int64 (Q,), from 0.

    gallery (M, D), labels (M,), queries (Q, D), truth (Q,). Equal similarities keep the gallery's order. `chunk` queries
    are ranked at a time; None: 64 MiB of similarities. Refuses queries of a class that the gallery does not have.
    """
    lost = set(truth.tolist()) - set(labels.tolist())
    if lost:
        raise Refused(f"class {min(lost)} has test images but no training image, so nothing of it can be retrieved")
    gallery, averages, firsts = normalize(gallery.float(), dim=1), [], []
    size = chunk or max(1, ROOM // (16 * len(gallery)))  # similarities, their order and the hits
    relevant = torch.bincount(labels.cpu())  # images of each class
    place = torch.arange(1, len(gallery) + 1, dtype=torch.float64)  # on the CPU: not every device has float64
    for rows, wanted in zip(queries.split(size), truth.split(size), strict=True):
        order = (normalize(rows.float(), dim=1) @ gallery.T).argsort(dim=1, descending=True, stable=True)
        hit = (labels[order] == wanted[:, None]).cpu()  # (chunk, M)
        precision = hit.cumsum(dim=1) / place
        averages.append((precision * hit).sum(dim=1) / relevant[wanted.cpu()])
        firsts.append(hit.int().argmax(dim=1))
    return torch.cat(averages), torch.cat(firsts)


@options_checked
def evaluate(encoder, train, test, *, pool: Literal["mean", "cls"] = "mean", device=None, cache=None):
    """Test images as queries, training images as gallery: `map`, `recall@1`, `recall@5`, `recall@10` in percent, and more.

    `majority` and `balanced` go with recall@1, the top-1 of the nearest neighbour (see `_result.ranked`). `chance` is the mean share of the gallery that has the query's class, which a random order's `map` tends to.
    """
    classes = check(train, test)
    if device is not None:
        encoder.to(device)
    where = next(encoder.parameters()).device
    gallery, queries = (pooled(encoder, images, pool, cache=cache).to(where) for images in (train, test))
    labels, truth = (torch.from_numpy(images.labels).to(where) for images in (train, test))
    average, first = precisions(gallery, labels, queries, truth)
    labels, truth = labels.cpu(), truth.cpu()
    share = torch.bincount(labels, minlength=classes).double() / len(labels)
    return {
        "metric": "map",
        "map": 100 * average.mean().item(),
        "hits": average.numpy(),
        **{f"recall@{k}": 100 * (first < k).double().mean().item() for k in AT},
        **imbalance(first < 1, truth),
        "protocol": f"retrieval pool={pool}",
        "frozen": True,
        "pool": pool,
        "train_images": len(train),
        "test_images": len(test),
        "chance": 100 * share[truth].mean().item(),
    }
