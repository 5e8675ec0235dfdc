"""CAE: Context Autoencoder for Self-Supervised Representation Learning (Chen et al. 2022, arXiv 2202.03026).

1. Half of the patches are hidden in blocks; the encoder sees only the visible ones, and CLS ("encoder").
2. A latent contextual regressor predicts what the encoder would say of the hidden patches: mask queries attend to the
   visible latents and to each other; the visible latents are not updated ("regressor").
3. Alignment: the predicted latents are to equal those of the same encoder, with its present weights and without a
   gradient, when it sees the hidden patches alone; mean squared error, weight 2.
4. A decoder turns the predicted latents of the hidden patches, and nothing else, into visual tokens: cross-entropy.

Official code: Atten4Vis/CAE, models/modeling_cae.py, models/modeling_cae_helper.py, furnace/engine_for_pretraining.py,
scripts/cae_base_800e.sh. Its regressor block has no self-attention and goes on from the normalised tokens; CLS is
neither a key of the regressor nor seen by the decoder. Its encoder is
`encoder = beit_base, encoder_args = {"bias": "none", "absolute": "sincos", "normalise": "imagenet"}`.

Differs from the paper: the position tables have the column half first (MAE's order) where the official ones have
the row half first, which is a renaming of channels, and official weights bring their own; the image that the
tokenizer sees is the encoder's crop made smaller; the default tokenizer is SplitMask's random projection; with
`encoder = vit` it is the plain ViT. The official script of ViT-L loses its last three flags to a missing backslash
(decoder of 1024 with 16 heads, BEiT's initial weights, which are [`fix_init`]).

Left open by the paper, and what is done here: without a decoder (`decoder_depth = 0`, an ablation of the paper) the head
reads the regressor's output; without alignment (`align_weight = 0`) the second pass is not made. Stochastic depth in
regressor and decoder rises to the encoder's rate, as in the official code.
"""

import math
from functools import partial
from typing import Annotated

import torch
from torch import nn
from torch.nn import functional as F

from mimlab import blocks, kinds
from mimlab.errors import Refused
from mimlab.layers import sincos_2d, token_logs, truncated, xavier
from mimlab.masks import hidden_ids, pixels, put, take, visible_ids
from mimlab.methods import Filled, Judged, Method, Output, Tokens, judged
from mimlab.mlp import feed, scaled
from mimlab.token_loss import token_loss

RECIPE = {
    "paper": {  # scripts/cae_base_800e.sh, 2,048 images a step
        "mask": "blockwise",
        "mask_ratio": 0.5,
        "mask_args": {"sampler": "cae"},
        "tokenizer": "random_projection",
        "tokenizer_args": {},
        "encoder_args": {"positions": "sincos"},
        "method_args": {"regressor_depth": 4, "decoder_depth": 4, "align_weight": 2.0},
        "augment": {"scale": [0.08, 1.0], "flip": 0.5},
        "lr": 1.5e-3 * 256 / 2048,
        "min_lr": 1e-5 * 256 / 2048,
        "schedule": "table",
        "epochs": 800,
        "warmup_epochs": 20,
        "weight_decay": 0.05,
        "no_decay": "",
        "beta2": 0.999,
        "clip": 3.0,
        "drop_path": 0.1,
    }
}
LayerNorm = partial(nn.LayerNorm, eps=1e-6)


class CrossAttention(nn.Module):
    """Attention of queries (B, M, D) over keys and values (B, T, D), before `proj`; keys have no bias."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, queries, keys, values):
        q, k, v = self.q(queries), self.k(keys), self.v(values)
        q, k, v = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class RegressorBlock(nn.Module):
    """Updates the queries (B, M, D) from the visible latents (B, V, D) and the queries themselves.

    `layer_scale`: initial scale of both branches, learned; 0: none.
    """

    def __init__(self, dim, heads, layer_scale, drop_path):
        from timm.layers import DropPath, Mlp

        super().__init__()
        self.norm_q, self.norm_k, self.norm_v, self.norm = (LayerNorm(dim) for _ in range(4))
        self.attn, self.mlp = CrossAttention(dim, heads), Mlp(dim, 4 * dim)
        scale = torch.full((dim,), float(layer_scale or 1))
        self.gamma_1, self.gamma_2 = (nn.Parameter(scale.clone(), requires_grad=layer_scale > 0) for _ in range(2))
        self.drop_path = DropPath(drop_path)

    def forward(self, x, visible, at_hidden, at_visible):
        """`at_hidden` (B, M, D), `at_visible` (B, V, D): positions, added to queries and keys, not to values."""
        context = torch.cat([visible, x], dim=1)
        keys = self.norm_k(context + torch.cat([at_visible, at_hidden], dim=1))
        attended = self.attn(self.norm_q(x + at_hidden), keys, self.norm_v(context))
        x = self.norm(x + self.drop_path(scaled(self.attn.proj, attended, self.gamma_1)))
        return x + self.drop_path(feed(self.mlp, x, self.gamma_2))


class CAE(Method):
    """Latents of hidden patches from visible ones, aligned with the encoder's own, and decoded to tokens.

    `decoder_dim`, `decoder_heads` and `layer_scale` are those of regressor and decoder; 0: the encoder's width and
    heads, as in the paper's ViT-B, and no scale.
    """

    def __init__(
        self,
        encoder,
        tokenizer,
        *,
        regressor_depth: kinds.Depth = 4,
        decoder_depth: Annotated[int, (0, 256)] = 4,
        decoder_dim: Annotated[int, (0, 8192)] = 0,
        decoder_heads: Annotated[int, (0, 256)] = 0,
        align_weight: Annotated[float, (0.0, 1000.0)] = 2.0,
        layer_scale: Annotated[float, (0.0, 10.0)] = 0.1,
        fix_init: bool = False,
    ):
        from timm.layers import DropPath
        from timm.models.beit import Block

        super().__init__(encoder, tokenizer)
        if tokenizer is None:
            raise Refused("tokenizer = none: cae predicts tokens and needs one")
        if not encoder.can_drop:
            raise Refused(
                "cae leaves hidden patches out, which this encoder cannot; use an encoder of the vit family, or of the "
                "beit family with encoder_args = {'bias': 'none', 'absolute': 'sincos'}, or a method that replaces patches: "
                "beit or simmim"
            )
        if all(table is None for table in encoder.positions()):
            raise Refused("cae: this encoder does not know where a visible patch is; use absolute = True or 'sincos'")
        dim = decoder_dim or encoder.dim
        heads = decoder_heads or encoder.heads
        if dim % heads or dim % 4:
            raise Refused(
                f"method_args: decoder_dim = {dim} must be a multiple of decoder_heads = {heads} and of 4; 0 is the encoder's"
            )
        self.align_weight = align_weight
        last = encoder.trunk.blocks[-1].drop_path1
        rate = last.drop_prob if isinstance(last, DropPath) else 0.0
        self.project = nn.Identity()
        if dim != encoder.dim:
            self.project = nn.Sequential(nn.Linear(encoder.dim, dim), LayerNorm(dim))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(sincos_2d(dim, encoder.grid, cls=True)[None], requires_grad=False)
        self.regressor = nn.ModuleList(
            RegressorBlock(dim, heads, layer_scale, share) for share in rising(rate, regressor_depth)
        )
        self.regressor_norm = LayerNorm(dim)
        self.decoder = nn.ModuleList(
            Block(dim, heads, qkv_bias=True, init_values=layer_scale, drop_path=share, norm_layer=LayerNorm)
            for share in rising(rate, decoder_depth)
        )
        blocks.adopt(self.decoder)
        self.decoder_norm = LayerNorm(dim) if decoder_depth else nn.Identity()
        self.head = nn.Linear(dim, tokenizer.vocab)
        self.start(fix_init)

    def start(self, fix_init):
        """Initial weights of modeling_cae.py: Xavier for every Linear; patch embedding and tokens cut at one deviation.

        With `fix_init` (the script of ViT-L asks for it) every Linear is cut at one deviation too, and what block i adds
        is divided by sqrt(2 i).
        """
        for name, part in self.named_children():
            if name != "tokenizer":
                part.apply(partial(truncated, at=1.0) if fix_init else xavier)
        if fix_init:
            self.encoder.shrink_branches()
            for stack in (self.regressor, self.decoder):
                for depth, block in enumerate(stack, start=1):
                    for layer in (block.attn.proj, block.mlp.fc2):
                        layer.weight.data /= math.sqrt(2 * depth)
        trunk = self.encoder.trunk
        nn.init.zeros_(trunk.patch_embed.proj.bias)
        for parameter in (self.mask_token, trunk.patch_embed.proj.weight, trunk.cls_token, trunk.pos_embed):
            if parameter is not None and parameter.requires_grad:
                nn.init.trunc_normal_(parameter, std=0.02, a=-0.02, b=0.02)

    def regress(self, images, mask, visible):
        """Predicted latents of the hidden patches in raster order, and their positions: two (B, hidden, decoder_dim)."""
        seen = self.project(self.encoder(images, mask, visible)[1])  # (B, V, decoder_dim)
        table = self.positions[:, 1:].expand(len(seen), -1, -1)
        at_visible = take(table, visible_ids(mask, visible))
        at_hidden = take(table, hidden_ids(mask, mask.shape[1] - visible))
        x = self.mask_token.expand(*at_hidden.shape[:2], -1)
        for block in self.regressor:
            x = block(x, seen, at_hidden, at_visible)
        return self.regressor_norm(x), at_hidden

    @torch.no_grad()
    def latents(self, images, mask, hidden):
        """What the regressor is to predict: the encoder's outputs on the hidden patches alone, (B, hidden, decoder_dim)."""
        return self.project(self.encoder(images, ~mask, hidden)[1])

    def decoded(self, latents, positions):
        """What `head` reads, from predicted latents and positions, all (B, hidden, decoder_dim)."""
        if len(self.decoder):
            latents = latents + positions
        for block in self.decoder:
            latents = block(latents)
        return self.decoder_norm(latents)

    def decode(self, latents, positions):
        """Logits from predicted latents and positions (B, hidden, decoder_dim): (B, hidden, vocabulary)."""
        return self.head(self.decoded(latents, positions))

    def forward(self, batch, mask, progress):
        """`prediction`: what `head` reads of the hidden patches, (hidden in the batch, decoder_dim), image by image."""
        visible = int((~mask[0]).sum()) if batch.visible is None else batch.visible
        hidden = mask.shape[1] - visible
        ids = self.tokenizer(batch.images, self.encoder.grid)  # (B, N)
        predicted, positions = self.regress(batch.images, mask, visible)
        decoded = self.decoded(predicted, positions).flatten(0, 1)
        loss, accuracy = token_loss(self.head, decoded, ids.gather(1, hidden_ids(mask, hidden)).flatten())
        logs = {"loss_tokens": loss.detach()}
        if self.align_weight:
            align = F.mse_loss(predicted.float(), self.latents(batch.images, mask, hidden).float())
            loss = loss + self.align_weight * align
            logs["loss_align"] = align.detach()
        logs["loss_uniform"] = torch.full((), math.log(self.tokenizer.vocab), device=loss.device)
        return Output(loss, logs | token_logs(ids, accuracy, self.tokenizer.vocab), decoded)

    def judge(self, images, mask):
        """Both losses of each hidden patch; 0 and False at visible ones, of which nothing is predicted."""
        where = hidden_ids(mask, int(mask[0].sum()))
        predicted, positions = self.regress(images, mask, mask.shape[1] - where.shape[1])
        ids = self.tokenizer(images, self.encoder.grid)
        found = judged(self.decode(predicted, positions).float(), ids.gather(1, where))
        loss = found.loss
        if self.align_weight:
            loss = loss + self.align_weight * self.misaligned(predicted, images, mask)
        likely, chance, rank = (
            put(x, where, x.new_zeros(*mask.shape, x.shape[2]))
            for x in (found.tokens.likely, found.tokens.chance, found.tokens.rank[..., None])
        )
        empty = loss.new_zeros(mask.shape)
        tokens = Tokens(ids, likely, chance, rank[..., 0])
        return Judged(empty.scatter(1, where, loss), empty.bool().scatter(1, where, found.right), tokens)

    def misaligned(self, predicted, images, mask):
        """Mean squared error of predicted latents (B, hidden, decoder_dim), one a patch: (B, hidden)."""
        return (predicted.float() - self.latents(images, mask, predicted.shape[1]).float()).square().mean(dim=2)

    def further(self, images, mask):
        """How far each predicted latent is from the encoder's own: the loss of step 3."""
        where = hidden_ids(mask, int(mask[0].sum()))
        error = self.misaligned(self.regress(images, mask, mask.shape[1] - where.shape[1])[0], images, mask)
        return {"alignment error": error.new_full(mask.shape, float("nan")).scatter(1, where, error)}

    @property
    def predicts(self):
        blocks = f"a regressor of depth {len(self.regressor)} and a decoder of depth {len(self.decoder)}"
        return f"{self.vocabulary}, by {blocks}"

    def reconstruct(self, images, mask):
        if not self.tokenizer.can_decode:
            return None
        grid, where = self.encoder.grid, hidden_ids(mask, int(mask[0].sum()))
        logits = self.decode(*self.regress(images, mask, mask.shape[1] - where.shape[1])).float()
        cover = pixels(mask, grid, images.shape[2:])
        known = self.tokenizer(images.masked_fill(cover, 0.5), grid)  # a decoder may look at neighbours
        known = F.one_hot(known, self.tokenizer.vocab).to(logits) * 1e4 - 1e4  # softmax gives 0 and 1
        filled = self.tokenizer.expected(put(logits, where, known), grid)
        filled = F.interpolate(filled, size=images.shape[2:], mode="nearest")
        note = "what the tokenizer draws for the predicted probabilities; visible patches are the image's own"
        return Filled(torch.where(cover, filled, images), note)


def rising(rate, depth):
    """Stochastic depth of each of `depth` blocks, from 0 to `rate`."""
    return [rate * index / max(depth - 1, 1) for index in range(depth)]
