"""Heads trained on stored features, several at once: how `linear` and `attentive` learn, and choose a learning rate.

The official rates are for ImageNet's millions of steps, and DINO's code says to tweak its own. So where no rate is given,
the official one and larger ones (`FACTORS`) are tried on four fifths of the training labels, and the one that serves the
last fifth best is used with all of them. Test images choose nothing.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mimlab.distributed import generator_for
from mimlab.errors import Refused
from mimlab.evals._labels import split
from mimlab.evals._lars import LARS
from mimlab.evals._result import diverged, ranked
from mimlab.layers import lost, schedule
from mimlab.progress import say
from mimlab.settings import within

FACTORS = (1, 4, 16, 64, 256)
HELD = 0.2  # of the training labels, for the choice of the learning rate and, with several layers, of the layer
OPTIMISERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.0, momentum=0.9),
    "lars": lambda groups: LARS(groups, lr=0.0),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.0, weight_decay=1e-4),
}


def batch_size(rows, batch):
    """`batch`, or None: 256 at most, and so few that an epoch of `rows` images has 16 steps. Refused above `rows`."""
    size = min(256, max(8, rows // 16), rows) if batch is None else batch
    within(
        "evaluation_args: batch", size, 2, rows, f", the labelled training images{'' if batch else ' (2 are needed)'}"
    )
    return size


def fit(heads, inputs, labels, among, rates, *, optimiser, epochs, batch, warmup, seed):
    """Train `heads`, each on its own input, with one loss that is the sum of their cross-entropies.

    `inputs`: for each head the views of its features, a list of (M, ...); epoch e sees view e modulo their number.
    `labels` (M,); `among`: the rows to learn from, int64. `rates`: the peak learning rate of each. Linear warm-up over `warmup` epochs, then a cosine to 0, at every step.
    Returns the mean loss of each head over the last epoch, a list of floats.
    """
    each = len(among) // batch
    steps = epochs * each
    solver = OPTIMISERS[optimiser]([{"params": list(head.parameters())} for head in heads])
    heads = nn.ModuleList(heads).train()
    device = next(heads.parameters()).device
    for epoch in range(epochs):
        last = []
        order = among[torch.randperm(len(among), generator=generator_for(seed, epoch, "probe order"))]
        for place in range(each):
            rows = order[place * batch : (place + 1) * batch]
            for group, rate in zip(solver.param_groups, rates, strict=True):
                group["lr"] = schedule(epoch * each + place, steps, round(warmup * each), rate)
            seen, parts = labels[rows].to(device), {}
            for views in inputs:  # heads that share an input share its rows
                view = views[epoch % len(views)]
                if id(view) not in parts:
                    parts[id(view)] = view[rows].to(device).float()
            losses = [
                cross_entropy(head(parts[id(views[epoch % len(views)])]), seen)
                for head, views in zip(heads, inputs, strict=True)
            ]
            solver.zero_grad()
            together = torch.stack(losses)
            together.sum().backward()
            solver.step()
            last.append(together.detach())
    heads.eval()
    return torch.stack(last).mean(dim=0).tolist()


@torch.no_grad()
def scores(head, features, rows, chunk=1024):
    """Scores (Q, classes) on the CPU of the `rows` (Q,) of features (M, ...)."""
    device = next(head.parameters()).device
    return torch.cat([head(features[part].to(device).float()).cpu() for part in rows.split(chunk)])


def probe(make, train, labels, test, truth, *, lr, official, batch, seed, **recipe):
    """The result of the best layer's head on the test features, with every layer's.

    `make()` builds a head. `train`: layer -> its views, each (M, ...); `test`: layer -> (Q, ...); `labels` (M,) and `truth` (Q,)
    int64. `lr` and `official` are for 256 images a step; `lr` None: chosen, see above. `recipe`: what `fit` takes besides.
    """
    batch = batch_size(len(labels), batch)
    tried = [official * factor for factor in FACTORS] if lr is None else [lr]
    layers = list(train)
    chosen, layer = tried[0], layers[0]
    if len(tried) * len(layers) > 1:
        rest, held = (torch.from_numpy(rows) for rows in split(labels.numpy(), HELD, seed))
        if not len(held):
            raise Refused(
                f"the {len(labels)} training labels are too few to choose on: no class has 3; give lr"
                + (" and use a protocol with one layer" if len(layers) > 1 else "")
            )
        pairs = [(one, rate) for rate in tried for one in layers]
        found, _ = _fitted(make, train, labels, rest, pairs, min(batch, len(rest)), seed, recipe)
        right = {
            (one, rate): ranked(scores(head, train[one][0], held).nan_to_num(0.0, 0.0, 0.0), labels[held])["top1"]
            for (one, rate), head in found.items()  # a head that has diverged scores nothing
        }
        layer, chosen = max(pairs, key=lambda pair: right[pair])  # the first of equals: the smallest rate
    pairs = [(one, chosen) for one in layers]
    found, losses = _fitted(make, train, labels, torch.arange(len(labels)), pairs, batch, seed, recipe)
    if lost(*(weight for head in found.values() for weight in head.parameters())):
        raise FloatingPointError(
            f"evaluation_args: lr = {chosen:g} ended with weights that are not finite; use a smaller lr"
        )
    results = {
        one: ranked(scores(head, test[one], torch.arange(len(truth))), truth) for (one, _), head in found.items()
    }
    gone = [one for one, loss in zip(layers, losses, strict=True) if diverged(loss, int(labels.max()) + 1)]
    if layer in gone:
        said = f"a training loss of {losses[layers.index(layer)]:.4g}, far above that of one answer for all"
        if lr is not None:
            raise FloatingPointError(f"evaluation_args: lr = {chosen:g} ended with {said}; use a smaller lr")
        say(f"warning: lr = {chosen:g}, which served held-out labels best, ended with {said}")
    told = {"lr": chosen, "lr_chosen": lr is None, "batch": batch, "epochs": recipe["epochs"]}
    told |= {"loss": losses[layers.index(layer)], "diverged": gone}
    if len(layers) > 1:
        told |= {"layers": [results[one]["top1"] for one in layers], "layer": layer}
    return results[layer] | told


def _fitted(make, train, labels, rows, pairs, batch, seed, recipe):
    """{(layer, rate): head} trained on some `rows`, and the last losses in that order."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = [make() for _ in pairs]
    rates = [rate * batch / 256 for _, rate in pairs]
    inputs = [train[layer] for layer, _ in pairs]
    losses = fit(heads, inputs, labels, rows, rates, batch=batch, seed=seed, **recipe)
    return dict(zip(pairs, heads, strict=True)), losses
