"""A linear classifier on frozen features, by the official recipe of three papers (`protocol`).

| | features | norm | optimiser | lr for 256 | epochs, warm-up |
| --- | --- | --- | --- | --- | --- |
| dino | class tokens of the last 4 blocks, each after the final norm; from a width of 768 on the last block's with its mean patch | none | SGD, momentum 0.9 | 0.001 | 100, 0 |
| mae | class token after the final norm | BatchNorm without affine | LARS, momentum 0.9 | 0.1 | 90, 10 |
| beit | each block's class token and mean patch, without a norm: a classifier each | none | AdamW, decay 1e-4 | 0.001 | 100, 0 |

Sources: facebookresearch/dino, eval_linear.py; facebookresearch/mae, main_linprobe.py; microsoft/unilm,
beit/run_linear_eval.py. Numbers of different protocols are not comparable. beit is the question of SplitMask's figure 5.

Differs from the papers: features are stored, so training images are not augmented, unless `augment` stores some
random crops and flips of each. Batches are smaller than 1,024 and 16,384, with the learning rate scaled alike. The rate, and
beit's best layer, are chosen on held-out training labels (see `_probe`), where BEiT's code takes the best on the test
images. The cosine of dino and beit falls at every step, not every epoch. An encoder without class tokens gives the mean
of its patches in their place, and XCiT, whose blocks have none, its last class token; the result's `protocol` says so.

With few labels these recipes, whose rate is then chosen on a handful of images, stay below a logistic regression that is solved to
its end: on some hundred images 34.5 against 35.5 to 51, by its strength. So up to `FEW` training images `solved` stands beside the
number: the top-1 of that regression (`mimlab.looking.probing.linear`, which `fewshot` uses too) on the same features, with the
strength C, `solved_strength`, chosen on the same held-out training labels. It is not the papers' number.
"""

from functools import partial
from typing import Annotated, Literal

import torch
from torch import nn

from mimlab import kinds
from mimlab.errors import Refused
from mimlab.evals._cache import features
from mimlab.evals._labels import check, options_checked, split
from mimlab.evals._probe import HELD, probe
from mimlab.evals._result import ranked
from mimlab.looking.features import names, walk
from mimlab.looking.probing import chosen, linear

PROTOCOLS = {
    "dino": {"optimiser": "sgd", "official": 0.001, "epochs": 100, "warmup": 0, "norm": False},
    "mae": {"optimiser": "lars", "official": 0.1, "epochs": 90, "warmup": 10, "norm": True},
    "beit": {"optimiser": "adamw", "official": 0.001, "epochs": 100, "warmup": 0, "norm": False},
}
FEW = 10_000  # training images up to which the regression is solved too; with more the recipes reach their end
LAST, LARGE = 4, 768  # blocks of dino's ViT-S; the width from which it reads the last block only, as for its ViT-B


@options_checked
def evaluate(
    encoder,
    train,
    test,
    *,
    protocol: Literal["dino", "mae", "beit"] = "dino",
    epochs: Annotated[int, (1, 100_000)] | None = None,
    lr: kinds.Rate | None = None,
    batch: Annotated[int, (2, 1_000_000)] | None = None,
    mean: bool = False,
    augment: Annotated[int, (0, 64)] = 0,
    seed=0,
    device=None,
    cache=None,
):
    """Linear probe from one set of labelled `Images` to another: `top1`, `top5`, `chance` in percent, and more.

    `lr` is for 256 images a step, None: chosen on held-out training labels. `batch` None: at most 256. `mean`: the mean of
    the patches in place of class tokens. `augment`: how many random crops of each training image are stored and learnt
    from in turns, 0: the image itself. beit returns `layers`, the top-1 of each block from the first, and `layer`. `solved` and
    `solved_balanced`, up to `FEW` images (else None): what a solved logistic regression reaches; `solved_strength`: its C.
    """
    classes = check(train, test)
    table = PROTOCOLS[protocol]
    epochs = table["epochs"] if epochs is None else epochs
    if device is not None:
        encoder.to(device)
    what, compute = source(encoder, protocol, mean)
    stored = [features(encoder, train, what, compute, view=view, cache=cache) for view in views(augment)]
    queries = features(encoder, test, what, compute, cache=cache)
    labels, truth = (torch.from_numpy(images.labels) for images in (train, test))
    bank = {layer: [view[layer] for view in stored] for layer in queries}
    width = next(iter(queries.values())).shape[1]
    if len({one.shape[1] for one in queries.values()}) > 1:
        raise Refused("protocol = 'beit': the stages of a ResNet differ in width; use protocol = 'mae' or 'dino'")
    make = partial(head, width, classes, table["norm"], protocol == "mae", next(encoder.parameters()).device)
    warmup = table["warmup"] * epochs / table["epochs"]
    recipe = {"optimiser": table["optimiser"], "epochs": epochs, "warmup": warmup, "official": table["official"]}
    found = probe(make, bank, labels, queries, truth, lr=lr, batch=batch, seed=seed, **recipe)
    rate = "lr chosen" if lr is None else f"lr={lr}"
    layer = found.get("layer", next(iter(bank)))
    return found | {
        **solved(bank[layer], labels, queries[layer], truth, classes, seed),
        "protocol": f"linear {protocol}: {what}, {table['optimiser']} {epochs} epochs, {rate}, augment={augment}",
        "frozen": True,
        "optimiser": table["optimiser"],
        "features": what,
        "norm": "BatchNorm without affine" if table["norm"] else "none",
        "train_images": len(train),
        "test_images": len(test),
        "chance": 100 / classes,
    }


def solved(stored, labels, queries, truth, classes, seed):
    """`solved` and `solved_balanced` in percent and `solved_strength` of a logistic regression on views of features, each (M, D).

    The strength is chosen on held-out training labels, 1 where no class has enough to hold one out; None beyond `FEW` rows.
    """
    told = ("solved", "solved_balanced", "solved_strength")
    if len(labels) > FEW:
        return dict.fromkeys(told)
    rest, held = (torch.from_numpy(rows) for rows in split(labels.numpy(), HELD, seed))
    several = torch.cat(stored).float()
    # Row i of view v is row i + v M; every view is learnt from, the first is held out.
    among = torch.cat([rest + view * len(labels) for view in range(len(stored))])
    every = labels.repeat(len(stored))
    strength = chosen(several, every, among, held, classes) if len(held) else 1.0
    found = ranked(linear(several, every, queries.float(), classes, strength=strength), truth)
    return dict(zip(told, (found["top1"], found["balanced"], strength), strict=True))


def views(augment):
    """The views to store: the image itself, or `augment` random crops."""
    return [None] if not augment else range(augment)


def head(width, classes, norm, truncated, device):
    """A linear layer, normal 0.01 without bias, behind a norm without weights where the protocol has one."""
    layer = nn.Linear(width, classes)
    (nn.init.trunc_normal_ if truncated else nn.init.normal_)(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)
    return nn.Sequential(*([nn.BatchNorm1d(width, affine=False, eps=1e-6)] if norm else []), layer).to(device)


def source(encoder, protocol, mean):
    """What is stored, in words, and the function (encoder, pixels) -> {layer: (B, D)} that computes it."""
    whole = not encoder.has_cls or mean
    if protocol == "mae" or (protocol == "dino" and whole):
        pool = "mean" if whole else "cls"
        said = "mean of the patches" if whole else "class token"
        return said, lambda encoder, pixels: {"output": encoder.features(pixels, pool).float()}
    inside = not whole and has_class_tokens(encoder)
    if protocol == "dino":
        if not inside:
            return "class token", lambda encoder, pixels: {"output": encoder.features(pixels, "cls").float()}
        if encoder.dim >= LARGE:
            return "class token and mean of the patches, after the final norm", both
        last = names(encoder)[:-1][-LAST:]
        return f"class tokens of the last {len(last)} blocks", partial(normed, last)
    said = "class token and mean of the patches" if inside else "mean of the patches"
    return f"{said}, each block", partial(blocks, inside)


def has_class_tokens(encoder):
    """Whether tokens inside the blocks begin with one: XCiT's come after its blocks."""
    blank = torch.zeros(
        1, 3, *(cells * encoder.patch for cells in encoder.grid), device=next(encoder.parameters()).device
    )
    with torch.no_grad():
        return encoder.embed(blank).shape[1] > encoder.grid[0] * encoder.grid[1]


def both(encoder, pixels):
    """Class token and mean patch after the final norm, side by side: {"output": (B, 2 D)}."""
    cls, patches = encoder(pixels)
    return {"output": torch.cat([cls, patches.mean(dim=1)], dim=1).float()}


def normed(last, encoder, pixels):
    """Class tokens after the blocks `last`, each through the final norm, side by side: {"output": (B, n * D)}."""
    (found,) = walk(encoder, pixels, last, cls=True, batch=len(pixels))
    where = next(encoder.parameters()).device
    return {"output": torch.cat([encoder.trunk.norm(found[layer][0].to(where)) for layer in last], dim=1).float()}


def blocks(cls, encoder, pixels):
    """For each block its class token, with `cls`, and its mean patch, side by side: {"0": (B, 2 D), ...}."""
    (found,) = walk(encoder, pixels, names(encoder)[:-1], cls=cls, batch=len(pixels))
    parts = {layer: ([first] if cls else []) + [cells.mean(dim=(2, 3))] for layer, (first, cells) in found.items()}
    return {str(layer): torch.cat(part, dim=1) for layer, part in parts.items()}
