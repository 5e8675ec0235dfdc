"""Fine-tuning on labels: the protocol of the SplitMask paper (Table 9), sized by its options.

AdamW, cosine after a warm-up, layer-wise learning rates, mixup and cutmix (timm), label smoothing, stochastic
depth, random crops and flips. The classifier is MAE's and BEiT's: the mean of the patch tokens,
a fresh norm, a linear layer.

Differs from the paper: no RandAugment, no repeated augmentation, and colour jitter only on request; the whole
image is tested, without the 0.875 crop. The defaults are for some thousand small images and minutes: a higher
learning rate, fewer epochs, a smaller batch and milder crops than Table 9.
"""

import copy
import math

import torch
from torch import nn

from mimlab.data.augment import Augment, Plain
from mimlab.distributed import generator_for
from mimlab.errors import Refused
from mimlab.layers import schedule


class Classifier(nn.Module):
    """An encoder with a linear head: `pool` "mean" (patches, then a fresh norm), or "cls" (the encoder's norm).

    Source: MAE, models_vit.py; BEiT, modeling_finetune.py.
    """

    def __init__(self, encoder, classes, pool="mean"):
        super().__init__()
        if pool not in ("mean", "cls"):
            raise Refused(f"pool = {pool!r}; there are: mean, cls")
        if pool == "cls" and not encoder.prefix:
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

    Layer 0: patch embedding, CLS, mask token, positions; block i: i + 1; the rest (norm, head, shared bias):
    depth + 1. Source: MAE, util/lr_decay.py; BEiT, optim_factory.py.
    """
    if name.startswith("blocks."):
        layer = int(name.split(".")[1]) + 1
    elif name.startswith(("patch_embed", "cls_token", "mask_token", "pos_embed", "reg_token")):
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


def evaluate(
    encoder,
    train,
    test,
    *,
    epochs=20,
    lr=2e-2,
    batch=32,
    layer_decay=0.65,
    weight_decay=0.05,
    warmup_share=0.2,
    mixup=0.8,
    cutmix=1.0,
    smoothing=0.1,
    drop_path=0.1,
    jitter=0.0,
    scale=0.7,
    pool="mean",
    seed=0,
    device=None,
):
    """Top-1 and top-5 in percent on `test` after fine-tuning a copy of `encoder` on the labels of `train`.

    `lr` is for 256 images a step and scaled by `batch`; `scale` is the smallest area of a crop. The last epoch
    is reported: nothing is chosen on the test images.
    """
    from timm.data import Mixup
    from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy

    train.require_labels()
    test.require_labels()
    if batch > len(train) or batch % 2:
        raise Refused(f"evaluation_args: batch = {batch} must be even and at most the {len(train)} labelled images")
    classes, size = len(train.classes), encoder.grid[0] * encoder.patch
    device = torch.device(device or "cpu")
    torch.manual_seed(seed)
    encoder = copy.deepcopy(encoder)
    encoder.set_drop_path(drop_path)
    encoder.train_cls(pool == "cls")
    model = Classifier(encoder, classes, pool).to(device).train()
    peak = lr * batch / 256
    groups = layer_groups(model, encoder.depth, weight_decay, layer_decay)
    for group in groups:
        del group["names"]
    optimiser = torch.optim.AdamW(groups, lr=peak, fused=device.type in ("cpu", "cuda"))
    mix = mixup > 0 or cutmix > 0
    mixing = (
        Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=smoothing, num_classes=classes) if mix else None
    )
    loss_of = SoftTargetCrossEntropy() if mix else LabelSmoothingCrossEntropy(smoothing)
    augment = Augment(size, scale=(scale, 1.0), flip=0.5, jitter=(jitter, jitter, jitter, 0.0), jitter_p=1.0)
    each = len(train) // batch
    steps, warmup, history = epochs * each, round(epochs * each * warmup_share), []
    labels = torch.from_numpy(train.labels)
    for step in range(steps):
        generator = generator_for(seed, step, "finetune")
        torch.manual_seed(generator.initial_seed() % 2**31)  # stochastic depth
        epoch, place = divmod(step, each)
        order = torch.randperm(len(train), generator=generator_for(seed, epoch, "finetune order"))
        rows = order[place * batch : (place + 1) * batch]
        images, target = augment(train.get(rows), generator).to(device), labels[rows].to(device)
        if mixing is not None:
            with seeded_numpy(generator):  # timm's Mixup draws from numpy
                images, target = mixing(images, target)
        rate = schedule(step, steps, warmup, peak)
        for group in optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        loss = loss_of(model(images), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        history.append(loss.detach())
    if not math.isfinite(float(history[-1])):
        raise FloatingPointError(f"fine-tuning ended with loss = {float(history[-1])}; try a smaller lr than {lr}")
    found = accuracy(model, test, Plain(size), device)
    return found | {
        "loss": round(float(torch.stack(history[-each:]).mean()), 6),
        "epochs": epochs,
        "train_images": len(train),
        "test_images": len(test),
        "chance": 100.0 / classes,
    }


def accuracy(model, images, plain, device):
    """{"top1", "top5"} in percent over all `images`."""
    model.eval()
    first = fifth = 0
    with torch.inference_mode():
        for pixels, labels in images.batches(256):
            logits = model(plain(pixels).to(device)).cpu()
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices
            first += int((best[:, 0] == labels).sum())
            fifth += int((best == labels[:, None]).any(dim=1).sum())
    return {"top1": 100.0 * first / len(images), "top5": 100.0 * fifth / len(images)}


class seeded_numpy:  # noqa: N801  used as a function
    """numpy's global generator set for the block and put back after it."""

    def __init__(self, generator):
        self.seed = generator.initial_seed() % 2**32

    def __enter__(self):
        import numpy as np

        self.before = np.random.get_state()
        np.random.seed(self.seed)

    def __exit__(self, *error):
        import numpy as np

        np.random.set_state(self.before)
