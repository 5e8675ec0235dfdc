"""Fine-tuning on labels: the protocol of the SplitMask paper (Table 9), MAE's and BEiT's, and a small one (`recipe`).

AdamW, cosine after a warm-up, layer-wise learning rates, RandAugment, random erasing, mixup and cutmix (timm), label
smoothing, stochastic depth, random crops and flips, repeated augmentation, perhaps an average of the weights. The
classifier is MAE's and BEiT's: the mean of the patch tokens, a fresh norm, a linear layer. As in their codes, fixed positions of a
ViT are trained, and every block gets a copy of a relative position table that all shared. The settings of each recipe, with
their sources, are in `_recipes`.

Differs from the paper: the learning rate changes at every step. Table 9 lists colour jitter beside RandAugment; as in timm,
which the official codes use, it is left out where RandAugment is on. Precision is float32. A batch larger than the
training set becomes the training set, and learning rates follow. "small" is of our own making.
"""

import copy
import math
from typing import Annotated, Literal

import torch
from torch import nn

from mimlab import kinds
from mimlab.distributed import generator_for
from mimlab.errors import Refused, shown
from mimlab.evals._augment import Views, order, policy, seeded
from mimlab.evals._labels import check, options_checked
from mimlab.evals._recipes import RECIPES
from mimlab.evals._result import diverged, ranked
from mimlab.evals._views import Centre, side
from mimlab.heap import kept
from mimlab.layers import lost
from mimlab.layers import schedule as rate_at


class Classifier(nn.Module):
    """An encoder with a linear head: `pool` "mean" (patches, then a fresh norm), or "cls" (the encoder's norm).

    Source: MAE, models_vit.py; BEiT, modeling_finetune.py.
    """

    def __init__(self, encoder, classes, pool="mean"):
        super().__init__()
        if pool not in ("mean", "cls"):
            raise Refused(f"pool = {shown(pool)}; there are: mean, cls")
        if pool == "cls" and not encoder.has_cls:
            raise Refused("pool = 'cls': this encoder has no class token; use pool = 'mean'")
        self.encoder, self.pool = encoder, pool
        self.fc_norm = nn.LayerNorm(encoder.dim, eps=1e-6) if pool == "mean" else nn.Identity()
        if pool == "mean":
            encoder.trunk.norm = nn.Identity()
        self.head = nn.Linear(encoder.dim, classes)
        nn.init.trunc_normal_(self.head.weight, std=2e-5)
        nn.init.zeros_(self.head.bias)

    def features(self, images):
        x = self.encoder.tokens(images)
        if self.pool == "cls":
            return self.encoder.trunk.norm(x)[:, 0]
        return self.fc_norm(x[:, self.encoder.prefix :].mean(dim=1))

    def forward(self, images):
        return self.head(self.features(images))


def layer_scale(name, depth, decay):
    """Factor of the learning rate of a trunk's parameter: decay^(depth + 1 - layer).

    Layer 0: patch embedding, CLS, mask token, positions; block i, with its own table: i + 1; the rest (norm, head):
    depth + 1. Source: MAE, util/lr_decay.py; BEiT, optim_factory.py.
    """
    if name.startswith("blocks."):
        layer = int(name.split(".")[1]) + 1
    elif name.startswith(("patch_embed", "cls_token", "mask_token", "pos_embed", "reg_token", "norm_pre")):
        layer = 0
    else:
        layer = depth + 1
    return decay ** (depth + 1 - layer)


def layer_groups(model, depth, weight_decay, decay, spared=("pos_embed", "cls_token")):
    """AdamW groups of a `Classifier`, one for each (scale, weight decay), with `scale` and `names`."""
    groups = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            short = name.removeprefix("encoder.trunk.")
            bare = parameter.ndim <= 1 or name.endswith(".bias") or short in spared
            key = (layer_scale(short, depth, decay), 0.0 if bare else weight_decay)
            group = groups.setdefault(key, {"scale": key[0], "weight_decay": key[1], "params": [], "names": []})
            group["params"].append(parameter)
            group["names"].append(short)
    return list(groups.values())


@options_checked
def evaluate(
    encoder,
    train,
    test,
    *,
    recipe: Literal["small", "paper_cars", "paper_food", "mae", "beit"] = "small",
    epochs: Annotated[int, (1, 100_000)] | None = None,
    lr: kinds.Rate | None = None,
    min_lr: Annotated[float, (0.0, 1000.0)] | None = None,
    schedule: Literal["fraction", "table"] | None = None,
    batch: Annotated[int, (2, 1_000_000)] | None = None,
    warmup_share: kinds.Share | None = None,
    layer_decay: Annotated[float, (0.01, 1.0)] | None = None,
    weight_decay: Annotated[float, (0.0, 10.0)] | None = None,
    drop_path: Annotated[float, (0.0, 0.9)] | None = None,
    scale: kinds.Area | None = None,
    randaugment: Annotated[str, policy] | None = None,
    jitter: Annotated[float, (0.0, 2.0)] | None = None,
    erase: kinds.Share | None = None,
    repeats: Annotated[int | None, (1, 16)] = None,
    mixup: Annotated[float, (0.01, 100.0)] | Literal[0] | None = None,
    cutmix: Annotated[float, (0.01, 100.0)] | Literal[0] | None = None,
    smoothing: Annotated[float, (0.0, 0.99)] | None = None,
    test_crop: Annotated[float, (0.1, 1.0)] | None = None,
    ema: Annotated[float, (0.0, 0.99999)] = 0.0,
    pool: Literal["mean", "cls"] = "mean",
    seed=0,
    device=None,
):
    """`top1`, `top5`, `chance` in percent on `test` after fine-tuning a copy of `encoder` on the labels of `train`, and more.

    None: the recipe's. `lr` and `min_lr` are for 256 images a step and scaled by `batch`; `warmup_share` of all steps.
    `ema`: decay of an average of the weights, which is then what is tested; 0: none. The last epoch is reported: nothing is
    chosen on the test images.
    """
    classes = check(train, test)
    given = {
        "epochs": epochs, "lr": lr, "min_lr": min_lr, "schedule": schedule, "batch": batch, "warmup_share": warmup_share,
        "layer_decay": layer_decay, "weight_decay": weight_decay, "drop_path": drop_path, "scale": scale, "randaugment": randaugment,
        "jitter": jitter, "erase": erase, "repeats": repeats, "mixup": mixup, "cutmix": cutmix, "smoothing": smoothing,
        "test_crop": test_crop,
    }  # fmt: skip
    changed = {name: value for name, value in given.items() if value is not None}
    told = agreed(recipe=recipe, **changed)
    if batch is None and told["batch"] > len(train):
        told["batch"] = len(train) // 2 * 2  # mixup pairs images
    if told["batch"] > len(train) or told["batch"] < 2:
        raise Refused(
            f"evaluation_args: batch = {told['batch']} must be even, and at most the {len(train)} labelled images"
        )
    model, loss = fit(encoder, train, classes, told, pool, ema, seed, torch.device(device or "cpu"))
    found = accuracy(model, test, Centre(side(encoder), told["test_crop"]))
    changed |= {"ema": ema} if ema else {}
    return found | {
        "protocol": f"finetune {recipe} pool={pool}"
        + "".join(f" {name}={value}" for name, value in sorted(changed.items())),
        "frozen": False,
        "recipe": recipe,
        "pool": pool,
        "loss": loss,
        "epochs": told["epochs"],
        "batch": told["batch"],
        "train_images": len(train),
        "test_images": len(test),
        "chance": 100.0 / classes,
    }


def agreed(*, recipe="small", **changed):
    """A recipe with what is changed in it, before any image is seen; `Refused` where two of its settings do not agree."""
    told = RECIPES[recipe] | {
        name: value for name, value in changed.items() if name in RECIPES[recipe] and value is not None
    }
    if told["batch"] % 2:
        raise Refused(f"evaluation_args: batch = {told['batch']} must be even, since mixup pairs images")
    if told["min_lr"] > told["lr"]:
        raise Refused(
            f"evaluation_args: min_lr = {told['min_lr']} is above lr = {told['lr']}; the rate falls, so use less"
        )
    return told


@kept()
def fit(encoder, train, classes, told, pool, ema, seed, device):
    """A `Classifier` around a copy of `encoder`, trained by the settings `told`, and the mean loss of its last epoch."""
    from timm.data import Mixup
    from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
    from timm.utils import ModelEmaV3

    torch.manual_seed(seed)
    encoder = copy.deepcopy(encoder)
    encoder.set_drop_path(told["drop_path"])
    encoder.train_cls(pool == "cls")
    encoder.to_fine_tune()
    model = Classifier(encoder, classes, pool).to(device).train()
    average = ModelEmaV3(model, decay=ema) if ema else None
    batch, epochs = told["batch"], told["epochs"]
    peak, end = told["lr"] * batch / 256, told["min_lr"] * batch / 256
    groups = layer_groups(model, encoder.depth, told["weight_decay"], told["layer_decay"])
    for group in groups:
        del group["names"]
    optimiser = torch.optim.AdamW(groups, lr=peak, fused=device.type in ("cpu", "cuda"))
    mix = told["mixup"] > 0 or told["cutmix"] > 0
    smooth = {"label_smoothing": told["smoothing"], "num_classes": classes}
    mixing = Mixup(mixup_alpha=told["mixup"], cutmix_alpha=told["cutmix"], **smooth) if mix else None
    loss_of = SoftTargetCrossEntropy() if mix else LabelSmoothingCrossEntropy(told["smoothing"])
    strengths = {name: told[name] for name in ("scale", "randaugment", "jitter", "erase")}
    views = Views(side(encoder), copy.deepcopy(encoder.normalise).cpu(), **strengths)
    each = len(train) // batch
    steps, history = epochs * each, []
    labels = torch.from_numpy(train.labels)
    for step in range(steps):
        generator = generator_for(seed, step, "finetune")
        epoch, place = divmod(step, each)
        if place == 0:
            turn = order(len(train), told["repeats"], generator_for(seed, epoch, "finetune order"))
        rows = turn[place * batch : (place + 1) * batch]
        with seeded(generator):  # what timm draws: RandAugment, erasing, mixup, stochastic depth
            images, target = views(train.get(rows), generator).to(device), labels[rows].to(device)
            if mixing is not None:
                images, target = mixing(images, target)
            rate = rate_at(step, steps, round(steps * told["warmup_share"]), peak, end=end, shape=told["schedule"])
            for group in optimiser.param_groups:
                group["lr"] = rate * group["scale"]
            loss = loss_of(model(images), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if average is not None:
            average.update(model)
        history.append(loss.detach())
    if not math.isfinite(float(history[-1])):
        raise FloatingPointError(
            f"fine-tuning ended with loss = {float(history[-1])}; try a smaller lr than {told['lr']}"
        )
    trained = model if average is None else average.module
    if lost(*trained.parameters()):
        raise FloatingPointError(
            f"fine-tuning ended with weights that are not finite; try a smaller lr than {told['lr']}"
        )
    mean = round(float(torch.stack(history[-each:]).mean()), 6)
    if diverged(mean, classes):
        raise FloatingPointError(
            f"fine-tuning ended with a mean loss of {mean:.4g}, far above that of one answer for all; try a smaller lr than "
            f"{told['lr']}"
        )
    return trained, mean


def accuracy(model, images, show):
    """`top1` and `top5` in percent, and `hits`, over all `images` as `show` makes them."""
    model.eval()
    device = next(model.parameters()).device
    with torch.inference_mode():
        scores = torch.cat([model(show(pixels).to(device)).cpu() for pixels, _ in images.batches(256)])
    return ranked(scores, torch.from_numpy(images.labels))
