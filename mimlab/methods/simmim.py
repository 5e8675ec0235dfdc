"""SimMIM: a Simple Framework for Masked Image Modeling (Xie et al. 2021, arXiv 2111.09886).

1. Square units of 32 pixels, 60 % of them, are hidden at random (section 3.2); their patch embeddings are replaced by
   a learned mask token, so the encoder processes every position.
2. The head is one linear layer from each output to the pixels of its patch (section 3.3); heavier ones, which the paper
   compares it with (its table of prediction heads), are [`head`].
3. The target is raw RGB, normalised by ImageNet's mean and deviation; the loss is the mean absolute error over hidden
   pixels (section 3.4), or the squared or smooth one [`loss`], or that of a coarser picture (its table of target
   resolutions), whose pixels are means of squares [`coarser`: their side].

Official code: microsoft/SimMIM, models/simmim.py, models/vision_transformer.py, data/data_simmim.py, main_simmim.py,
configs/vit_base__800ep. Its ViT-B is BEiT's transformer on ImageNet's statistics: `encoder = beit_base` with
`encoder_args = {"normalise": "imagenet"}`.

Differs from the paper: the warm-up begins at 0, not at the code's 5e-7; the learning rate of a step is that of its own number, where the
code takes its scheduler's step after the optimiser's and so lags one step behind its table; the code rounds 60 % up to whole units, here the share hidden at its two
image sizes is fixed, so that at others one unit may be hidden in part. Swin, the paper's main encoder, is missing, and with it
its heaviest heads, inverse Swins; our analogue of them is two transformer blocks over all patches before the linear layer
(`head = "blocks"`). The MLP's hidden layer is as wide as the encoder, and coarser targets are means, of which no code is
public. Its restoring of all pixels instead of predicting the hidden ones is [`all_patches`].
"""

from typing import Annotated, Literal

import torch
from timm.models.vision_transformer import Block
from torch import nn
from torch.nn import functional as F

from mimlab import blocks
from mimlab.errors import Refused, shown
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
        "augment": {"scale": [0.67, 1.0], "flip": 0.5, "interpolation": "bilinear"},  # torchvision's default
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
HEADS = {"linear": "one linear layer on", "mlp": "an MLP of two layers on", "blocks": "two transformer blocks after"}
LOSSES = {"l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss, "l2": F.mse_loss}


class SimMIM(Method):
    """Pixels of hidden patches, or of `all_patches`, by a light head; the encoder sees mask tokens at hidden ones.

    `head`: "linear", "mlp" (two layers) or "blocks" (two transformer blocks). `coarser`: side in pixels of the squares whose
    means are predicted; it must divide the patch, and 1 is every pixel.
    """

    def __init__(
        self,
        encoder,
        tokenizer=None,
        *,
        loss: Literal["l1", "smooth_l1", "l2"] = "l1",
        head: Literal["linear", "mlp", "blocks"] = "linear",
        coarser: Annotated[int, (1, 64)] = 1,
        all_patches: bool = False,
    ):
        super().__init__(encoder, None)
        if tokenizer is not None:
            raise Refused("tokenizer: simmim predicts pixels and takes none; use tokenizer = none")
        if not encoder.can_fill:
            raise Refused(
                "simmim replaces hidden patches, which this encoder cannot; use one of the vit, beit or xcit family, or method = cim"
            )
        for name, value, known in (("loss", loss, LOSSES), ("head", head, HEADS)):
            if value not in known:
                raise Refused(
                    f"method_args: {name} = {shown(value)}{closest(value, known)}; there are: {', '.join(known)}"
                )
        if coarser < 1 or encoder.patch % coarser:
            good = ", ".join(str(side) for side in range(1, encoder.patch + 1) if encoder.patch % side == 0)
            raise Refused(
                f"method_args: coarser = {coarser} does not divide patch_size = {encoder.patch}; it could be: {good}"
            )
        self.distance, self.all_patches = LOSSES[loss], all_patches
        self.kind, self.coarser, self.side = head, coarser, encoder.patch // coarser
        encoder.train_cls(False)  # the loss is on patches alone
        self.mask_token = nn.Parameter(torch.zeros(1, 1, encoder.dim))
        self.before = Before(encoder.dim) if head == "blocks" else None
        self.head = nn.Linear(encoder.dim, 3 * self.side**2)
        if head == "mlp":
            self.head = nn.Sequential(nn.Linear(encoder.dim, encoder.dim), nn.GELU(), self.head)
        self.start()

    def start(self):
        """Initial weights of models/vision_transformer.py: BEiT's; the head keeps torch's and timm's defaults."""
        trunk = self.encoder.trunk
        trunk.apply(lambda module: truncated(module, at=1.0))
        projection, drawn = trunk.patch_embed.proj, [self.mask_token, trunk.cls_token, trunk.pos_embed]
        if isinstance(projection, nn.Conv2d):  # a stack of convolutions keeps its own
            nn.init.zeros_(projection.bias)
            drawn.append(projection.weight)
        for parameter in drawn:
            if isinstance(parameter, nn.Parameter) and parameter.requires_grad:
                nn.init.trunc_normal_(parameter, std=0.02, a=-0.02, b=0.02)
        self.encoder.shrink_branches()

    def target(self, images):
        """Normalised pixels of each patch, or means of squares of them, (B, N, 3 * side * side), in the order channel, row,
        column; `side` values make the side of a patch."""
        pixels = self.encoder.normalise(images)
        if self.coarser > 1:
            pixels = F.avg_pool2d(pixels, self.coarser)
        return patchify(pixels, self.side)

    def encode(self, images, mask, rows=None):
        """Outputs that the last layers of the head read, of all patches, or those at `rows` (B, M), hidden ones replaced:
        (B, N or M, D)."""
        if self.before is None:
            return self.encoder(images, mask, fill=self.mask_token[0, 0], rows=rows)[1]
        return self.before(self.encoder(images, mask, fill=self.mask_token[0, 0])[1], rows)

    def forward(self, batch, mask, progress):
        """`prediction`: pixels of the patches predicted, (patches in the batch, 3 * side * side), image by image."""
        target = self.target(batch.images)
        if self.all_patches:
            patches, target = self.encode(batch.images, mask).flatten(0, 1), target.flatten(0, 1)
        elif batch.visible is None:  # rows may differ
            patches, target = self.encode(batch.images, mask)[mask], target[mask]
        else:
            where = hidden_ids(mask, mask.shape[1] - batch.visible)
            patches, target = self.encode(batch.images, mask, where).flatten(0, 1), take(target, where).flatten(0, 1)
        prediction = self.head(patches)
        pixels = len(target) * self.side**2
        loss = self.distance(prediction.float(), target, reduction="sum") / (pixels + 1e-5) / 3
        return Output(loss, {}, prediction)

    def predict(self, images, mask):
        """Predicted pixels of every patch, visible ones too, (B, N, 3 * side * side)."""
        return self.head(self.encode(images, mask))

    def judge(self, images, mask):
        predicted = self.predict(images, mask).float()
        return Judged(self.distance(predicted, self.target(images), reduction="none").mean(dim=2))

    @property
    def predicts(self):
        what = "pixels" if self.coarser == 1 else f"pixels at 1/{self.coarser} of the resolution"
        return f"{what}, by {HEADS[self.kind]} the encoder; there is no decoder"

    def reconstruct(self, images, mask):
        filled = unpatchify(self.predict(images, mask).float(), self.encoder.grid, self.side)
        filled = F.interpolate(filled, scale_factor=self.coarser, mode="nearest")
        note = "predicted pixels; what it draws over visible patches was never asked of it"
        if self.coarser > 1:
            note += f"; each value is the mean of {self.coarser} x {self.coarser} pixels"
        return Filled(self.encoder.normalise.back(filled).clamp(0, 1), note)


class Before(nn.Module):
    """Two transformer blocks, with heads of 64 channels where that divides the width, and a norm: (B, N, D) -> (B, N, D),
    or (B, M, D) at `rows`."""

    def __init__(self, dim):
        super().__init__()
        heads = next(dim // width for width in (64, 32, 16, 8, dim) if dim % width == 0)
        self.blocks = nn.ModuleList(Block(dim, heads, qkv_bias=True) for _ in range(2))
        blocks.adopt(self.blocks)
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x, rows=None):
        first, last = self.blocks
        return self.norm(blocks.run(last, first(x), rows))
