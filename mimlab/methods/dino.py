"""DINO: Emerging Properties in Self-Supervised Vision Transformers (Caron et al. 2021, arXiv 2104.14294).

1. Two global and several local crops of each image. A student sees all of them, a teacher of the same
   architecture the two global ones (section 3.1, "multi-crop").
2. Of both, the class token goes through a projection head: an MLP, L2 normalisation, and a weight-normalised
   layer to K dimensions (section 3.1, "network architecture").
3. The teacher's outputs are centred and sharpened: softmax((t - c) / teacher temperature). The student learns
   them by cross-entropy, from every other crop than the one that the teacher saw (equation 2).
4. After each step the teacher follows the student by an exponential moving average, and the centre c follows
   the teacher's mean output (equation 4). The gradient of the head's last layer is dropped in the beginning.

Official code: facebookresearch/dino, main_dino.py, vision_transformer.py, utils.py.

`logs`, to see a collapse (section 5.3, figure 7): the loss is `teacher_entropy` + `kl`. In the first tens of
steps there is no centre yet: one dimension may take most, and the loss rises towards `loss_uniform`, ln K, before
it falls. If it stays there, with both entropies, outputs are the same in all dimensions: `collapse_uniform` is 1
(teacher's entropy above 99 % of ln K); a lower teacher temperature sharpens. If entropies go to 0, one dimension
takes all: `collapse_constant` is 1 (`teacher_top_share`, what it gets, is above 99 %), and `centre_norm` shows
whether the centre follows. A `kl` near 0, at any entropy: what comes out does not depend on the image.

Differs from the paper: lengths are shares of training (`freeze_last`, `warmup_teacher`; the code counts epochs,
the last layer is frozen for 1 of 100), and the teacher temperature rises every step, not every epoch.
With BatchNorm in the head, its statistics are those of all processes, as after the code's conversion to SyncBN.

Recipes: "paper" is the code's default (README, vanilla ViT-S/16: batch 512, 100 epochs), "boosted" the README's
300 epochs (batch 1024). On a CPU take a small head, such as `{"out_dim": 1024, "head_dim": 256, "bottleneck_dim": 64}`.
"""

import copy
import math
from functools import partial
from itertools import groupby
from typing import Annotated, Literal

import torch
from torch import nn

from mimlab import kinds
from mimlab.data.multicrop import MultiCrop
from mimlab.distributed import gather
from mimlab.encoders import xcit
from mimlab.errors import Refused
from mimlab.layers import schedule, truncated
from mimlab.methods import Method, Output, Progress
from mimlab.methods._dino_head import BatchNorm, Head

RECIPE = {
    "paper": {  # the defaults of main_dino.py; README.md, "vanilla DINO training"
        "mask": "none",
        "mask_ratio": 0.0,
        "mask_args": {},
        "tokenizer": "none",
        "tokenizer_args": {},
        "encoder_args": {},
        "method_args": {"out_dim": 65536, "norm_last_layer": True, "freeze_last": 1 / 100, "clip": 3.0},
        "augment": {"global_scale": [0.4, 1.0], "local_scale": [0.05, 0.4], "local_crops": 8},
        "lr": 5e-4,
        "min_lr": 1e-6 * 256 / 512,
        "schedule": "table",
        "epochs": 100,
        "warmup_epochs": 10,
        "weight_decay": 0.04,
        "weight_decay_end": 0.4,
        "no_decay": "",
        "beta2": 0.999,
        "clip": 0.0,  # for each parameter by itself, in `before_step`
        "drop_path": 0.1,
    }
}
RECIPE["boosted"] = RECIPE["paper"] | {  # README.md, "boosting DINO performance"
    "method_args": RECIPE["paper"]["method_args"]
    | {"norm_last_layer": False, "freeze_last": 1 / 300, "teacher_temp": 0.07, "warmup_teacher": 30 / 300},
    "epochs": 300,
    "min_lr": 1e-6 * 256 / 1024,
}


class DINO(Method):
    """The teacher's output on one crop from the student's on another; `deployed` is the teacher's encoder.

    out_dim: K. head_layers, head_dim, bottleneck_dim, head_bn: the head's MLP, its width, output and
    BatchNorm. norm_last_layer: rows of the last layer keep length 1. freeze_last, warmup_teacher: shares of
    training in which the last layer has no gradient, and in which the teacher temperature rises linearly from
    warmup_teacher_temp to teacher_temp. momentum: of the teacher, rising to 1 along a cosine. clip: largest
    gradient norm of each parameter by itself; 0: no clipping.
    """

    couples_images = True  # through the centre, and BatchNorm where the head has it
    masked = False
    pool = "cls"

    def __init__(
        self,
        encoder,
        tokenizer=None,
        *,
        out_dim: Annotated[int, (2, 2**20)] = 65536,
        head_layers: Annotated[int, (1, 16)] = 3,
        head_dim: Annotated[int, (1, 16384)] = 2048,
        bottleneck_dim: kinds.Width = 256,
        head_bn: bool = False,
        norm_last_layer: bool = True,
        freeze_last: kinds.Share = 1 / 100,
        student_temp: kinds.Temperature = 0.1,
        warmup_teacher_temp: kinds.Temperature = 0.04,
        teacher_temp: kinds.Temperature = 0.04,
        warmup_teacher: kinds.Share = 0.0,
        momentum: kinds.Share = 0.996,
        centre_momentum: kinds.Share = 0.9,
        clip: Annotated[float, (1e-4, 1e4)] | Literal[0] = 3.0,
    ):
        super().__init__(encoder, None)
        if tokenizer is not None:
            raise Refused("tokenizer: dino predicts what its teacher says and takes none; use tokenizer = none")
        if getattr(encoder.trunk, "cls_token", None) is None:
            raise Refused("dino learns by the class token, which this encoder does not have; use class_token = True")
        if not encoder.can_resize:
            raise Refused(
                "dino shows crops of several sizes, which this encoder cannot take; use an encoder of the vit family"
            )
        self.student_temp, self.temperatures = student_temp, (warmup_teacher_temp, teacher_temp)
        self.freeze_last, self.warmup_teacher = freeze_last, warmup_teacher
        self.momentum, self.centre_momentum, self.clip = momentum, centre_momentum, clip
        self.views = partial(MultiCrop, patch=encoder.patch)
        self.head = Head(encoder.dim, out_dim, head_layers, head_dim, bottleneck_dim, head_bn, norm_last_layer)
        self.start()
        self.teacher = nn.ModuleDict({"encoder": copy.deepcopy(encoder), "head": copy.deepcopy(self.head)})
        self.teacher.requires_grad_(False)
        self.teacher["encoder"].set_drop_path(0.0)
        self.register_buffer("centre", torch.zeros(1, out_dim))
        self.seen = None  # the teacher's mean output of the step at hand, (1, K)

    def start(self):
        """Initial weights of vision_transformer.py: normal 0.02; the patch embedding and the last layer keep torch's."""
        trunk = self.encoder.trunk
        self.apply(lambda module: truncated(module, at=100.0))  # that is, not cut
        for layer in trunk.patch_embed.modules():
            if isinstance(layer, nn.Conv2d):
                layer.reset_parameters()
        for parameter in (trunk.cls_token, getattr(trunk, "pos_embed", None)):
            if isinstance(parameter, nn.Parameter) and parameter.requires_grad:
                nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, batch, mask, progress):
        """`prediction`: the student's outputs for all C views, (C, B, K), the first two being the global ones."""
        views = (batch.images, *batch.crops)
        if len(views) < 2:
            raise Refused("dino compares views of an image and got one; give Batch(images, crops = the others)")
        student = outputs(self.encoder, self.head, views)  # (C, B, K)
        with torch.no_grad():
            teacher = outputs(self.teacher["encoder"], self.teacher["head"], views[:2])  # (2, B, K)
        loss, logs = self.compare(student, teacher, progress)
        return Output(loss, logs, student)

    def compare(self, student, teacher, progress):
        """Loss and logs of outputs (C, B, K) and (2, B, K), the teacher's without gradient; notes their mean."""
        sharp = (teacher.float() - self.centre) / self.teacher_temperature(progress)
        targets = sharp.log_softmax(dim=-1)
        guesses = (student.float() / self.student_temp).log_softmax(dim=-1)
        loss = cross_entropy(guesses, targets)
        self.seen = teacher.float().flatten(0, 1).mean(dim=0, keepdim=True)
        return loss, self.watch(loss.detach(), guesses[:2].detach(), targets)

    def watch(self, loss, guesses, targets):
        """Logs that tell a collapse, from log-probabilities (2, B, K) of both on the global views."""
        uniform = math.log(targets.shape[2])
        entropy, share = entropies(targets).mean(), targets.exp().mean(dim=(0, 1)).max()
        return {
            "loss_uniform": torch.full((), uniform, device=loss.device),
            "teacher_entropy": entropy,
            "student_entropy": entropies(guesses).mean(),
            "kl": loss - entropy,
            "teacher_top_share": share,
            "centre_norm": self.centre.norm(),
            "collapse_uniform": (entropy > 0.99 * uniform).float(),
            "collapse_constant": (share > 0.99).float(),
        }

    def teacher_temperature(self, progress):
        """Its value at a step: as DINOLoss.teacher_temp_schedule, both ends of the warm-up included."""
        first, last = self.temperatures
        warmup = round(self.warmup_teacher * progress.steps)
        if progress.step >= warmup:
            return last
        return first + (last - first) * progress.step / max(warmup - 1, 1)

    def teacher_momentum(self, progress):
        """Share of itself that the teacher keeps after the step at `progress`."""
        return schedule(progress.step, progress.steps, 0, self.momentum, end=1.0)

    def before_step(self, progress):
        """Clip each parameter's gradient, then drop the last layer's while it is frozen, in this order."""
        if self.clip:
            gradients = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
            shares = [(self.clip / (norm + 1e-6)).clamp(max=1.0) for norm in torch._foreach_norm(gradients)]
            torch._foreach_mul_(gradients, shares)
        if progress.step < round(self.freeze_last * progress.steps):
            for parameter in self.head.last_layer.parameters():
                parameter.grad = None

    @torch.no_grad()
    def after_step(self, progress):
        """Move the teacher, the centre, and the statistics of BatchNorm; `progress` counts the steps done."""
        kept = self.teacher_momentum(Progress(progress.step - 1, progress.steps))
        for part in ("encoder", "head"):
            theirs, ours = (list(x.parameters()) for x in (self.teacher[part], getattr(self, part)))
            torch._foreach_lerp_(theirs, ours, 1.0 - kept)
        if self.seen is not None:
            self.centre.lerp_(gather(self.seen).mean(dim=0, keepdim=True), 1.0 - self.centre_momentum)
            self.seen = None
        for module in self.modules():
            if isinstance(module, (BatchNorm, xcit.BatchNorm)):
                module.take_in()

    @property
    def deployed(self):
        """The teacher's encoder, which the paper evaluates, as a copy whose weights may be trained on."""
        encoder = copy.deepcopy(self.teacher["encoder"])
        for parameter, own in zip(encoder.parameters(), self.encoder.parameters(), strict=True):
            parameter.requires_grad_(own.requires_grad)
        return encoder


def outputs(encoder, head, views):
    """What the head makes of each view's class token, (C, B, K); views (B, 3, h, w), all with the same B.

    Consecutive views of one size go through the encoder as one batch. Source: utils.py, MultiCropWrapper.
    """
    groups = [torch.cat(list(group)) for _, group in groupby(views, key=lambda view: view.shape[2:])]
    cls = torch.cat([encoder.class_token(images) for images in groups])  # (C * B, D), view by view
    return head(cls).unflatten(0, (len(views), -1))


def cross_entropy(guesses, targets):
    """Mean over the images and all pairs of different views: log-probabilities (C, B, K) and (2, B, K) -> scalar.

    The sum over a target's pairs is one product with the sum of the guesses. Source: main_dino.py, DINOLoss.
    """
    others = guesses.sum(dim=0) - guesses[:2]  # (2, B, K)
    return -(targets.exp() * others).sum(dim=2).mean() / (len(guesses) - 1)


def entropies(logs):
    """Entropy in nats of log-probabilities (..., K) -> (...)."""
    return -(logs.exp() * logs).sum(dim=-1)
