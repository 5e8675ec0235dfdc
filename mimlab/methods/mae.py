"""MAE: Masked Autoencoders Are Scalable Vision Learners (He et al. 2021, arXiv 2111.06377).

1. Hide 75 % of the patches at random; the encoder sees only the visible ones (section 3, "masking", "encoder").
2. A narrow decoder gets the encoded visible patches and one shared mask token at every hidden position,
   all with fixed sine-cosine positions (section 3, "decoder").
3. A linear layer predicts the pixels of each patch; the loss is the mean squared error on hidden patches,
   against pixels normalised by each patch's own mean and deviation if `norm_pix` (section 3, "target").

What table 1 compares: other targets (1d) are [`target`], the tokens of any tokenizer by cross-entropy, or the largest
principal components of patches ("PCA"); the encoder with mask tokens (1c) is [`mask_in_encoder`]; masks (1f) are the run's.

Official code: facebookresearch/mae, models_mae.py, main_pretrain.py, PRETRAIN.md.

Differs from the paper: visible patches keep their raster order (the official code shuffles them; attention
does not see the order, so all outputs are equal). The official code has pixels alone; left open of the other targets, and
done here: components are those of training images at the encoder's size, in pixels as the encoder sees them, without
whitening, and the paper's 96 (of 768 values) are at most all but one of a small patch; tokens are the run's tokenizer's
(`dalle` is the paper's), of the encoder's crop made smaller.
"""

import math
from typing import Literal

import torch
from torch import nn
from torch.nn.functional import mse_loss

from mimlab import kinds
from mimlab.decoder import Decoder
from mimlab.errors import Refused, shown
from mimlab.find import closest
from mimlab.layers import patchify, token_logs, unpatchify, xavier
from mimlab.masks import hidden_ids, take, visible_ids
from mimlab.methods import Filled, Judged, Method, Output, decoded, judged
from mimlab.methods._components import Components
from mimlab.token_loss import token_loss
from mimlab.tokenizers import drawn_patches

RECIPE = {
    "paper": {  # PRETRAIN.md and the defaults of main_pretrain.py
        "mask": "random",
        "mask_ratio": 0.75,
        "mask_args": {},
        "tokenizer": "none",
        "tokenizer_args": {},
        "encoder_args": {"positions": "sincos"},
        "method_args": {"norm_pix": True, "decoder_dim": 512, "decoder_depth": 8, "decoder_heads": 16},
        "augment": {"scale": [0.2, 1.0], "flip": 0.5},
        "lr": 1.5e-4,
        "min_lr": 0.0,
        "schedule": "fraction",
        "epochs": 800,
        "warmup_epochs": 40,
        "weight_decay": 0.05,
        "no_decay": "",
        "beta2": 0.95,
        "clip": 0.0,
        "drop_path": 0.0,
    }
}


TARGETS = ("pixels", "tokens", "pca")
COMPONENTS = 96  # of patch space
SAMPLE = 1 << 14  # patches that the components are learned from


class MAE(Method):
    """Hidden patches from visible ones, through an asymmetric encoder and decoder.

    `target`: what is predicted of a patch, its pixels (`norm_pix`: less their mean, over their deviation), its token, or
    its largest principal components. `mask_in_encoder`: hidden patches are replaced before the encoder, which therefore
    sees all positions, as the decoder does; the decoder has no mask token then.
    """

    def __init__(
        self,
        encoder,
        tokenizer=None,
        *,
        target: Literal["pixels", "tokens", "pca"] = "pixels",
        norm_pix: bool = True,
        decoder_dim: kinds.Width = 512,
        decoder_depth: kinds.Depth = 8,
        decoder_heads: kinds.Heads = 16,
        mask_in_encoder: bool = False,
    ):
        super().__init__(encoder, tokenizer)
        if target not in TARGETS:
            raise Refused(
                f"method_args: target = {shown(target)}{closest(target, TARGETS)}; there are: {', '.join(TARGETS)}"
            )
        if target == "tokens" and tokenizer is None:
            raise Refused("tokenizer = none: mae with target = tokens predicts tokens and needs one")
        if target != "tokens" and tokenizer is not None:
            raise Refused(
                f"tokenizer: mae with target = {target} takes none; use tokenizer = none, or method_args target = tokens"
            )
        if not encoder.can_drop:
            raise Refused(
                "mae leaves hidden patches out, which this encoder cannot; use an encoder of the vit family, or a method "
                "that replaces patches: beit or simmim"
            )
        if decoder_dim % decoder_heads or decoder_dim % 4:
            raise Refused(
                f"method_args: decoder_dim = {decoder_dim} must be a multiple of decoder_heads = {decoder_heads} and of 4"
            )
        self.predicted, self.norm_pix, self.mask_in_encoder = target, norm_pix, mask_in_encoder
        values = 3 * encoder.patch**2
        self.components = Components(values, min(COMPONENTS, values - 1)) if target == "pca" else None
        self.decoder = Decoder(encoder, decoder_dim, decoder_depth, decoder_heads, fixed=True)
        outputs = {"pixels": values, "tokens": getattr(tokenizer, "vocab", 0), "pca": min(COMPONENTS, values - 1)}
        self.head = nn.Linear(decoder_dim, outputs[target])
        if mask_in_encoder:
            self.fill = nn.Parameter(torch.zeros(encoder.dim))
            self.decoder.mask_token.requires_grad_(False)  # stands nowhere
        self.start()

    def start(self):
        """Initial weights of models_mae.py: Xavier for every Linear and the flattened patch embedding."""
        for name, part in self.named_children():
            if name != "tokenizer":
                part.apply(xavier)
        embedding = self.encoder.trunk.patch_embed.proj
        nn.init.xavier_uniform_(embedding.weight.data.flatten(1))  # its bias keeps torch's default
        if self.encoder.has_cls:
            nn.init.normal_(self.encoder.trunk.cls_token, std=0.02)
        nn.init.normal_(self.fill if self.mask_in_encoder else self.decoder.mask_token, std=0.02)

    def learn(self, images, generator):
        """The principal components of patches of the training images, where they are the target."""
        if self.components is not None:
            grid, patch = self.encoder.grid, self.encoder.patch
            size = [cells * patch for cells in grid]
            pixels = drawn_patches(images, grid, size, patch, SAMPLE, generator)[None]  # channel, row, column
            self.components.fit(self.encoder.normalise.patches(pixels)[0])

    def target(self, images, ids=None):
        """What is predicted of each patch, or of those at `ids`: tokens (B, N or M), or values (B, N or M, V), of pixels
        patch * patch * 3 in the order row, column, channel, else components."""
        if self.predicted == "tokens":
            found = self.tokenizer(images, self.encoder.grid)
            return found if ids is None else found.gather(1, ids)
        normalised = self.encoder.normalise(images)
        patches = patchify(normalised, self.encoder.patch, channels_last=self.components is None)
        patches = patches if ids is None else take(patches, ids)
        if self.components is not None:
            return self.components(patches)
        if self.norm_pix:  # unbiased variance over all values of the patch
            patches = patches - patches.mean(dim=2, keepdim=True)
            var = patches.square().sum(dim=2, keepdim=True) / (patches.shape[2] - 1)
            patches = patches * (var + 1e-6).rsqrt()
        return patches

    def decode(self, images, mask):
        """Decoder outputs of all positions, (B, N, decoder_dim)."""
        if self.mask_in_encoder:
            return self.decoder(*self.encoder(images, mask, fill=self.fill), torch.zeros_like(mask))
        return self.decoder(*self.encoder(images, mask), mask)

    def hidden(self, images, mask, visible, missing):
        """Decoder outputs of the hidden patches alone, which are at `missing` (B, N - V): (B, N - V, decoder_dim)."""
        if self.mask_in_encoder:
            return take(self.decode(images, mask), missing)
        return self.decoder.hidden(*self.encoder(images, mask, visible), visible_ids(mask, visible), missing)

    def forward(self, batch, mask, progress):
        """`prediction`: values of the hidden patches as `target` has them, (B, N - V, V), raster order; for tokens what `head`
        reads, (B, N - V, decoder_dim)."""
        visible = int((~mask[0]).sum()) if batch.visible is None else batch.visible
        missing = hidden_ids(mask, mask.shape[1] - visible)
        found = self.hidden(batch.images, mask, visible, missing)
        if self.predicted == "tokens":
            ids = self.target(batch.images)
            loss, accuracy = token_loss(self.head, found.flatten(0, 1), ids.gather(1, missing).flatten())
            uniform = torch.full((), math.log(self.tokenizer.vocab), device=loss.device)
            logs = {"loss_uniform": uniform} | token_logs(ids, accuracy, self.tokenizer.vocab)
            return Output(loss, logs, found)
        prediction = self.head(found)
        loss = mse_loss(prediction.float(), self.target(batch.images, missing))
        return Output(loss, {}, prediction)

    def predict(self, images, mask):
        """Values of every patch as `target` has them, visible ones too, (B, N, V), or logits (B, N, vocabulary)."""
        return self.head(self.decode(images, mask))

    def judge(self, images, mask):
        predicted, target = self.predict(images, mask), self.target(images)
        if self.predicted == "tokens":
            return judged(predicted, target)
        return Judged((predicted - target).square().mean(dim=2))

    @property
    def predicts(self):
        pixels = "pixels normalised by the mean and deviation of each patch (norm_pix)" if self.norm_pix else "pixels"
        parts = f"the {self.head.out_features} largest principal components of patches"
        what = self.vocabulary if self.predicted == "tokens" else {"pixels": pixels, "pca": parts}[self.predicted]
        return f"{what}, by a decoder of depth {len(self.decoder.blocks)}"

    def reconstruct(self, images, mask):
        """What is predicted, as pixels. With `norm_pix` mean and deviation of a hidden patch are guessed from the visible ones."""
        if self.predicted == "tokens":
            return decoded(self.tokenizer, self.predict(images, mask), images, self.encoder.grid)
        patches = self.predict(images, mask)
        if self.predicted == "pca":
            whole = self.components.back(patches)
            filled = unpatchify(whole, self.encoder.grid, self.encoder.patch)
            kept, of = self.components.basis.shape
            note = f"the predicted {kept} of the {of} principal components of each patch, as pixels; the others are not predicted"
            return Filled(self.encoder.normalise.back(filled).clamp(0, 1), note)
        if not self.norm_pix:
            return Filled(self.picture(patches), "predicted pixels")
        pixels = patchify(self.encoder.normalise(images), self.encoder.patch, channels_last=True)
        true = torch.cat([pixels.mean(dim=2, keepdim=True), (pixels.var(dim=2, keepdim=True) + 1e-6).sqrt()], dim=2)
        guess = around(true, mask, self.encoder.grid)  # (B, N, 2)
        filled, leaking = (self.picture(patches * x[..., 1:] + x[..., :1]) for x in (guess, true))
        note = "trained on normalised patches: mean and deviation of a hidden patch are not predicted, but guessed from the visible ones"
        return Filled(filled, note, leaking)

    def picture(self, patches):
        """Images in [0, 1] of normalised pixels (B, N, patch * patch * 3)."""
        filled = unpatchify(patches, self.encoder.grid, self.encoder.patch, channels_last=True)
        return self.encoder.normalise.back(filled).clamp(0, 1)


def around(values, mask, grid):
    """`values` (B, N, k) with those of hidden patches replaced by a mean of the visible ones, by distance^-3.

    Inverse distance weighting (Shepard 1968); of the powers 1 to 6 the third came nearest to true means of patches of
    photographs at 75 % hidden.
    """
    ids = torch.arange(grid[0] * grid[1], device=mask.device)
    row, column = ids // grid[1], ids % grid[1]
    squared = (row[:, None] - row) ** 2 + (column[:, None] - column) ** 2
    weights = squared.clamp_min(1).to(values).pow(-1.5) * ~mask[:, None]  # (B, N, N)
    guess = (weights / weights.sum(dim=2, keepdim=True)) @ values.masked_fill(mask[..., None], 0)
    return torch.where(mask[..., None], guess, values)
