"""The supervised baseline: Training Data-efficient Image Transformers (DeiT; Touvron et al. 2021, arXiv 2012.12877).

The encoder learns the labels of the same images, in the same loop and with the same views as the methods that do not
need them: its pooled output, a linear layer, and cross-entropy with smoothed labels (section 6, table 9). Nothing is
hidden. The other baseline, an encoder with random weights, is part of every evaluation.

Official code: facebookresearch/deit, main.py (the version of the paper).

`logs`: `accuracy` of the first guess on the augmented images of the batch, beside `chance`, 1 / classes, and
`majority`, the share of the batch's most frequent class.

Differs from the paper: of its augmentation there are crops and flips; RandAugment, mixup, cutmix, random erasing and
repeated augmentation are left out (`mimlab.evals.finetune` has them), as are the moving average of the
weights and the distillation token. The mean of the patch tokens is classified, as the evaluations read it, not CLS
[`pool` = "cls" for the paper's]. The learning rate changes with every step, not every epoch, and its cosine begins
after the warm-up.
"""

from typing import Annotated, Literal

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mimlab.errors import Refused
from mimlab.methods import Method, Output

RECIPE = {
    "paper": {  # table 9, DeiT-B, and the defaults of main.py; 1,024 images a step
        "mask": "none",
        "mask_ratio": 0.0,
        "mask_args": {},
        "tokenizer": "none",
        "tokenizer_args": {},
        "encoder_args": {},
        "method_args": {"pool": "mean", "label_smoothing": 0.1},
        "augment": {"scale": [0.08, 1.0], "flip": 0.5},
        "lr": 5e-4 * 256 / 512,
        "min_lr": 1e-5 * 256 / 1024,
        "schedule": "fraction",
        "epochs": 300,
        "warmup_epochs": 5,
        "weight_decay": 0.05,
        "no_decay": "pos_embed,cls_token",
        "beta2": 0.999,
        "clip": 0.0,
        "drop_path": 0.1,
    }
}


class Supervised(Method):
    """Labels from whole images by one linear layer.

    `classes`: how many labels there are; None, where that is not known yet, makes a head for two. `pool`: "mean" of the
    patch tokens, or "cls". `label_smoothing`: share of the target that is spread over all classes.
    """

    masked = False

    def __init__(
        self,
        encoder,
        tokenizer=None,
        *,
        classes: Annotated[int, (1, 10_000_000)] | None = None,
        pool: Literal["mean", "cls"] = "mean",
        label_smoothing: Annotated[float, (0.0, 1.0)] = 0.1,
    ):
        super().__init__(encoder, None)
        if tokenizer is not None:
            raise Refused("tokenizer: supervised predicts labels and takes none; use tokenizer = none")
        if pool == "cls" and not encoder.has_cls:
            raise Refused("method_args: pool = 'cls', but this encoder has no class token; use pool = 'mean'")
        self.classes, self.pool, self.label_smoothing = classes or 2, pool, label_smoothing
        encoder.train_cls(pool == "cls")
        self.head = nn.Linear(encoder.dim, self.classes)
        self.start()

    def start(self):
        """The encoder keeps timm's initial weights; the head has DeiT's, normal 0.02 without bias."""
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch, mask, progress):
        """`prediction`: logits of the images, (B, classes). `Refused` where the batch has no labels."""
        if batch.labels is None:
            raise Refused(
                "supervised needs labels, which this data does not have; use labelled data, or another method"
            )
        logits = self.head(self.encoder.features(batch.images, self.pool))
        loss = cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
        return Output(loss, self.logs(logits.detach(), batch.labels), logits)

    def logs(self, logits, labels):
        """Accuracy, and what guessing reaches, from logits (B, classes) and labels (B,)."""
        counts = torch.zeros(self.classes, device=labels.device)
        counts = counts.scatter_add_(0, labels, torch.ones_like(labels, dtype=counts.dtype))
        return {
            "accuracy": (logits.argmax(dim=1) == labels).float().mean(),
            "chance": torch.full((), 1 / self.classes, device=labels.device),
            "majority": counts.max() / len(labels),
        }
