"""How well frozen features of each layer tell the classes apart: k-NN and a linear classifier, on cached features.

The question of SplitMask's figure 5 (arXiv 2112.10740): BEiT's last layers serve a linear classifier badly.

Differs from the paper: the paper trains with SGD on augmented ImageNet; here `linear` is one logistic regression on
features of unaugmented images, solved to its end. The numbers compare layers and runs with each other, not with
published linear probes.
"""

import torch
from torch.nn.functional import cross_entropy

from mimlab.errors import Refused
from mimlab.evals import knn
from mimlab.layers import lost

K, TEMPERATURE = 20, 0.07
PROTOCOL = (
    "linear: logistic regression (L2 with C = 1, L-BFGS) on features standardised by the training images; "
    f"k-NN: weighted, cosine, k = {K}, T = {TEMPERATURE}; both without augmentation"
)


STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # from which `chosen` takes one


def chosen(train, labels, rest, held, classes):
    """The strength C of `STRENGTHS` with which rows `rest` of (M, D), (M,) tell the classes of rows `held` best, the smallest of equals."""
    right = [
        linear(train[rest], labels[rest], train[held], classes, strength=one)
        .argmax(dim=1)
        .eq(labels[held])
        .sum()
        .item()
        for one in STRENGTHS
    ]
    return STRENGTHS[right.index(max(right))]


def linear(train, labels, queries, classes, steps=100, strength=1.0):
    """Logits (Q, classes) of a logistic regression fitted to (M, D), (M,) int64, for (Q, D).

    Features are standardised by the mean and deviation of the M rows. The loss is the mean cross-entropy plus
    ||W||^2 / (2 C M), where C, `strength`, is scikit-learn's. Refuses features that are not finite.
    """
    if lost(train, queries):
        raise Refused("features are not finite (nan or inf): the encoder has diverged; use an earlier checkpoint")
    mean, scale = train.double().mean(dim=0), train.double().std(dim=0, unbiased=False)
    scale = torch.where(scale > 1e-6 * (mean.abs() + scale), scale, torch.inf)  # a constant channel tells nothing
    x, q = ((train - mean) / scale).float(), ((queries - mean) / scale).float()
    weight = torch.zeros(classes, x.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=steps, history_size=10, line_search_fn="strong_wolfe")

    def loss():
        solver.zero_grad()
        value = cross_entropy(x @ weight.T + bias, labels) + weight.square().sum() / (2 * strength * len(x))
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    return (q @ weight.T + bias).detach()  # (Q, classes)


def accuracies(train, labels, queries, truth, classes):
    """Top-1 in percent of every layer: {"k-NN": [...], "linear": [...]}.

    `train` and `queries`: lists of (M, D_i) and (Q, D_i), a layer each; `labels` (M,) and `truth` (Q,) int64. Only
    `train` and `labels` are fitted to.
    """
    found = {"k-NN": [], "linear": []}
    for rows, asked in zip(train, queries, strict=True):
        k = min(K, len(rows))
        counted = knn.votes(rows, labels, asked, k=k, temperature=TEMPERATURE, classes=classes)
        found["k-NN"].append(knn.accuracy(counted, truth)["top1"])
        found["linear"].append(knn.accuracy(linear(rows, labels, asked, classes), truth)["top1"])
    return found
