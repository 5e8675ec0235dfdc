"""SimMIM: a Simple Framework for Masked Image Modeling (Xie et al. 2021, arXiv 2111.09886).

1. Square units of 32 pixels, 60 % of them, are hidden at random (section 3.2); their patch embeddings are replaced by
   a learned mask token, so the encoder processes every position.
2. The head is one linear layer from each output to the pixels of its patch (section 3.3).
3. The target is raw RGB, normalised by ImageNet's mean and deviation; the loss is the mean absolute error over hidden
   pixels (section 3.4), or the squared or smooth one, which the paper compares it with (section 4.1).

Official code: microsoft/SimMIM, models/simmim.py, models/vision_transformer.py, data/data_simmim.py, main_simmim.py,
configs/vit_base__800ep. Its ViT-B is BEiT's transformer on ImageNet's statistics: `encoder = beit_base` with
`encoder_args = {"normalise": "imagenet"}`.

Differs from the paper: the warm-up begins at 0, not at the code's 5e-7; the code rounds 60 % up to whole units, here the share hidden at its two
image sizes is fixed, so that at others one unit may be hidden in part. Swin, the paper's main encoder, is missing,
and of what the paper compares the heavier heads and the coarser or finer targets. Its restoring of all pixels instead
of predicting the hidden ones is [`all_patches`].
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from mimlab.errors import Refused
from mimlab.find import closest
from mimlab.layers import patchify, truncated, unpatchify
from mimlab.masks import hidden_ids, take
from mimlab.methods import Filled, Judged, Method, Output

RECIPE = {
    "paper": {  # simmim_pretrain__vit_base__img224__800ep.yaml and the defaults of config.py
        "mask": "grid",
        "mask_ratio": 22 / 36,  # as the code counts: 120 of 196 patches at 224 pixels, 88 of 144 at 192
        "mask_args": {"by": "units", "unit": 2},
        "tokenizer": "none",
        "tokenizer_args": {},
        "encoder_args": {},
        "method_args": {"loss": "l1"},
        "augment": {"scale": [0.67, 1.0], "flip": 0.5},
        "lr": 1e-4 * 256 / 512,
        "min_lr": 1e-5 * 256 / 512,  # a tenth, from epoch 700
        "schedule": "step",
        "epochs": 800,
        "warmup_epochs": 10,
        "weight_decay": 0.05,
        "no_decay": "pos_embed,cls_token",
        "beta2": 0.999,
        "clip": 5.0,
        "drop_path": 0.1,
    }
}
LOSSES = {"l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss, "l2": F.mse_loss}


class SimMIM(Method):
    """Pixels of hidden patches, or of `all_patches`, by one linear layer; the encoder sees mask tokens at hidden ones."""

    def __init__(self, encoder, tokenizer=None, *, loss="l1", all_patches: bool = False):
        super().__init__(encoder, None)
        if tokenizer is not None:
            raise Refused("tokenizer: simmim predicts pixels and takes none; use tokenizer = none")
        if not encoder.can_fill:
            raise Refused(
                "simmim replaces hidden patches, which this encoder cannot; use one of the vit, beit or xcit family, or method = cim"
            )
        if loss not in LOSSES:
            raise Refused(f"method_args: loss = {loss!r}{closest(loss, LOSSES)}; there are: {', '.join(LOSSES)}")
        self.distance, self.all_patches = LOSSES[loss], all_patches
        encoder.train_cls(False)  # the loss is on patches alone
        self.mask_token = nn.Parameter(torch.zeros(1, 1, encoder.dim))
        self.head = nn.Linear(encoder.dim, 3 * encoder.patch**2)
        self.start()

    def start(self):
        """Initial weights of models/vision_transformer.py: BEiT's; the head keeps torch's default."""
        trunk = self.encoder.trunk
        trunk.apply(lambda module: truncated(module, at=1.0))
        projection, drawn = trunk.patch_embed.proj, [self.mask_token, trunk.cls_token, trunk.pos_embed]
        if isinstance(projection, nn.Conv2d):  # a stack of convolutions keeps its own
            nn.init.zeros_(projection.bias)
            drawn.append(projection.weight)
        for parameter in drawn:
            if isinstance(parameter, nn.Parameter) and parameter.requires_grad:
                nn.init.trunc_normal_(parameter, std=0.02, a=-0.02, b=0.02)
        for depth, block in enumerate(trunk.blocks, start=1):
            block.attn.proj.weight.data /= math.sqrt(2 * depth)
            block.mlp.fc2.weight.data /= math.sqrt(2 * depth)

    def target(self, images):
        """Normalised pixels of each patch, (B, N, 3 * patch * patch), in the order channel, row, column."""
        return patchify(self.encoder.normalise(images), self.encoder.patch)

    def encode(self, images, mask, rows=None):
        """Encoder outputs of all patches, or those at `rows` (B, M), hidden ones replaced: (B, N or M, D)."""
        return self.encoder(images, mask, fill=self.mask_token[0, 0], rows=rows)[1]

    def forward(self, batch, mask, progress):
        """`prediction`: pixels of the patches predicted, (patches in the batch, 3 * patch * patch), image by image."""
        target = self.target(batch.images)
        if self.all_patches:
            patches, target = self.encode(batch.images, mask).flatten(0, 1), target.flatten(0, 1)
        elif batch.visible is None:  # rows may differ
            patches, target = self.encode(batch.images, mask)[mask], target[mask]
        else:
            where = hidden_ids(mask, mask.shape[1] - batch.visible)
            patches, target = self.encode(batch.images, mask, where).flatten(0, 1), take(target, where).flatten(0, 1)
        prediction = self.head(patches)
        pixels = len(target) * self.encoder.patch**2
        loss = self.distance(prediction.float(), target, reduction="sum") / (pixels + 1e-5) / 3
        return Output(loss, {}, prediction)

    def predict(self, images, mask):
        """Predicted pixels of every patch, visible ones too, (B, N, 3 * patch * patch)."""
        return self.head(self.encode(images, mask))

    def judge(self, images, mask):
        predicted = self.predict(images, mask).float()
        return Judged(self.distance(predicted, self.target(images), reduction="none").mean(dim=2))

    @property
    def predicts(self):
        return "pixels, by one linear layer on the encoder; there is no decoder"

    def reconstruct(self, images, mask):
        filled = unpatchify(self.predict(images, mask).float(), self.encoder.grid, self.encoder.patch)
        note = "predicted pixels; what it draws over visible patches was never asked of it"
        return Filled(self.encoder.normalise.back(filled).clamp(0, 1), note)
