"""CIM: Corrupted Image Modeling for Self-Supervised Visual Pre-Training (Fang et al. 2022, arXiv 2202.03382).

1. **Generator.** A small trainable BEiT sees the image with hidden patches and predicts their visual tokens, which a
   frozen tokenizer knows: cross-entropy, mean over the hidden patches.
2. **Corrupt.** At hidden patches a token is drawn from the generator's softmax; elsewhere it stays. The tokenizer
   decodes all tokens to an image without a mask. No gradient passes through drawing and decoding.
3. **Enhancer.** Any network, a ViT or a ResNet, gets the corrupted image, and is what remains. *ResPix*: it restores
   all pixels of the original, normalised by the mean and deviation of a sliding window. *RevDet*: for each token it
   tells whether it was replaced; a drawn token that equals the true one is not (as in ELECTRA), and the binary
   cross-entropy runs over all tokens.
4. The loss is the generator's plus `weight` times the enhancer's.

No official code is public, and the full text could not be read: 1 to 3 follow the abstract and introduction; the side
of the window (8), the mask (100 to 120 of 196), the weights (1 and 10), epochs, learning rate and weight decay come from
second-hand accounts. No account tells the least learning rate, schedule, clipping, beta2, drop path, crops and the parameters
without decay: these are BEiT's (its colour jitter left out).

`batch.noise` draws the tokens: the token of a patch with noise u is the first whose cumulated probability exceeds u, so
that a step depends on its mask and noise alone.

Differs from the paper: the tokenizer is k-means on patches, which pastes its centres, in place of DALL-E's dVAE
[tokenizer = "dvae" is a network]; it sees the encoder's crop made smaller.

Left open by what could be read, and what is done here (options in brackets): ResPix's distance [`loss`], windows cut off
at the border of the image [`windows`], population variance with 1e-6 added, the size of the generator (4 blocks, as wide
as ViT-S) and its own patch embedding; the enhancer's head is one linear layer; ResPix predicts the original's pixels, or
their difference to the corrupted image over the same deviation [`residual`], as its name may mean.
"""

import math
from typing import Annotated, Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from mimlab import encoders, kinds
from mimlab.errors import Refused, shown
from mimlab.find import closest
from mimlab.layers import token_logs, unpatchify
from mimlab.masks import hidden_ids, pixels
from mimlab.methods import Filled, Method, Output, judged
from mimlab.methods._windows import local
from mimlab.settings import within
from mimlab.token_loss import token_loss
from mimlab.tokenizers import resize

RECIPE = {
    "paper": {  # second-hand: 300 epochs, 2,048 images a step, 1.5e-3; see above
        "mask": "random",
        "mask_ratio": 0.55,  # 108 of 196
        "mask_args": {},
        "tokenizer": "kmeans",
        "tokenizer_args": {},
        "encoder_args": {},
        "method_args": {"objective": "respix", "generator_dim": 384, "generator_depth": 4, "generator_heads": 6},
        "augment": {"scale": [0.08, 1.0], "flip": 0.5},
        "lr": 1.5e-3 * 256 / 2048,
        "min_lr": 1e-5 * 256 / 2048,
        "schedule": "table",
        "epochs": 300,
        "warmup_epochs": 10,
        "weight_decay": 0.05,
        "no_decay": "pos_embed,cls_token",
        "beta2": 0.999,
        "clip": 3.0,
        "drop_path": 0.1,
    }
}
WEIGHTS = {"respix": 1.0, "revdet": 10.0}
LOSSES = {"l1": F.l1_loss, "l2": F.mse_loss}
WINDOWS = ("truncate", "reflect", "tiles")
EPS = 1e-6


class Corrupted(NamedTuple):
    """What the generator made: `images` (B, 3, H, W) in [0, 1], `tokens` (B, N) with the drawn ones at hidden patches; its
    `loss` there, and the `accuracy` of its most probable tokens.
    """

    images: torch.Tensor
    tokens: torch.Tensor
    loss: torch.Tensor
    accuracy: torch.Tensor


class Looked(NamedTuple):
    """Corruption and enhancement of images (B, 3, H, W).

    `corrupted` (B, 3, H, W) in [0, 1]; `ids` and `sampled` (B, N): the true tokens, and those decoded; `replaced` bool
    (B, N): where they differ; `detected` (B, N): RevDet's probability of that, or None; `filled`: ResPix's `Filled`, or None.
    """

    corrupted: torch.Tensor
    ids: torch.Tensor
    sampled: torch.Tensor
    replaced: torch.Tensor
    detected: torch.Tensor | None
    filled: Filled | None


class CIM(Method):
    """A generator corrupts the image, and the encoder restores it ("respix") or finds what was replaced ("revdet").

    `weight`: of the enhancer's loss; None: 1 for respix, 10 for revdet. `window`: side in pixels of the windows of
    ResPix's target, which at the border of the image are cut off ("truncate") or see it mirrored ("reflect"), or lie side
    by side ("tiles"). `residual`: ResPix predicts what the corrupted image lacks. `temperature`: the generator's logits are divided by it when tokens are drawn.
    """

    def __init__(
        self,
        encoder,
        tokenizer,
        *,
        objective: Literal["respix", "revdet"] = "respix",
        weight: Annotated[float, (1e-6, 1000.0)] | None = None,
        window: Annotated[int, (2, 4096)] = 8,
        windows: Literal["truncate", "reflect", "tiles"] = "truncate",
        loss: Literal["l1", "l2"] = "l1",
        residual: bool = False,
        temperature: kinds.Temperature = 1.0,
        generator_dim: kinds.Width = 384,
        generator_depth: kinds.Depth = 4,
        generator_heads: kinds.Heads = 6,
    ):
        super().__init__(encoder, tokenizer)
        if tokenizer is None or not tokenizer.can_decode:
            what = "none" if tokenizer is None else type(tokenizer).__module__.rpartition(".")[2]
            raise Refused(
                f"tokenizer = {what}: cim decodes tokens to an image and needs one that can; use kmeans, random_patches or dvae"
            )
        for name, value, known in (
            ("objective", objective, WEIGHTS), ("windows", windows, WINDOWS), ("loss", loss, LOSSES),
        ):  # fmt: skip
            if value not in known:
                raise Refused(
                    f"method_args: {name} = {shown(value)}{closest(value, known)}; there are: {', '.join(known)}"
                )
        self.size = (encoder.grid[0] * encoder.patch, encoder.grid[1] * encoder.patch)
        within("method_args: window", window, 2, min(self.size), " (the image's shorter side)")
        if generator_dim % generator_heads:
            raise Refused(
                f"method_args: generator_dim = {generator_dim} must be a multiple of generator_heads = {generator_heads}"
            )
        if temperature <= 0:
            raise Refused(f"method_args: temperature = {temperature} must be above 0")
        self.objective, self.temperature = objective, temperature
        self.weight = WEIGHTS[objective] if weight is None else weight
        within("method_args: weight", self.weight, 1e-9, 1e9)
        self.window, self.windows, self.distance, self.residual = window, windows, LOSSES[loss], residual
        encoder.train_cls(False)  # both heads read the patches
        sizes = {"dim": generator_dim, "depth": generator_depth, "heads": generator_heads}
        self.generator = encoders.create("beit", self.size, encoder.patch, **sizes)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, generator_dim))
        self.generator_head = nn.Linear(generator_dim, tokenizer.vocab)
        self.head = nn.Linear(encoder.dim, 3 * encoder.patch**2 if objective == "respix" else 1)
        self.start()

    def start(self):
        """Truncated normal 0.02 for what is new; generator and enhancer keep timm's, which for a transformer is the same."""
        for parameter in (self.mask_token, self.generator_head.weight, self.head.weight):
            nn.init.trunc_normal_(parameter, std=0.02)
        nn.init.zeros_(self.generator_head.bias)
        nn.init.zeros_(self.head.bias)

    def guess(self, images, mask, rows=None):
        """The generator's outputs of all patches, or those at `rows` (B, M), hidden ones replaced, (B, N or M, generator_dim)."""
        return self.generator(images, mask, fill=self.mask_token[0, 0], rows=rows)[1]

    def corrupt(self, images, ids, mask, noise, visible=None):
        """Tokens drawn by `noise` (B, N) at hidden patches, true `ids` (B, N) elsewhere, decoded: `Corrupted`."""
        if noise is None:
            raise Refused(
                "cim draws tokens by the batch's noise and got none; give Batch(images, noise), (B, N) in [0, 1)"
            )
        noise = noise.to(ids.device)
        if visible is None:  # rows may differ
            outputs, targets, noise = self.guess(images, mask)[mask], ids[mask], noise[mask]
        else:
            where = hidden_ids(mask, mask.shape[1] - visible)
            outputs = self.guess(images, mask, where).flatten(0, 1)
            targets, noise = (x.gather(1, where).flatten() for x in (ids, noise))
        found = torch.empty_like(targets)

        def draw(logits, rows):
            found[rows] = drawn(logits, noise[rows], self.temperature)

        loss, accuracy = token_loss(self.generator_head, outputs, targets, draw)
        with torch.no_grad():
            tokens = ids.masked_scatter(mask, found)
            picture = resize(
                self.tokenizer.decode(tokens, self.encoder.grid).float(), self.encoder.grid, self.encoder.patch
            )
        return Corrupted(picture, tokens, loss, accuracy)

    def enhance(self, corrupted):
        """From corrupted images: normalised pixels (B, 3, H, W), or logits of "replaced" (B, N)."""
        out = self.head(self.encoder(corrupted)[1]).float()
        if self.objective == "revdet":
            return out[..., 0]
        return unpatchify(out, self.encoder.grid, self.encoder.patch)

    def target(self, images, corrupted):
        """ResPix's: pixels (B, 3, H, W) less their window's mean, or `residual` less `corrupted`, over its deviation."""
        mean, var = local(images, self.window, self.windows)
        return (images - (corrupted if self.residual else mean)) / (var + EPS).sqrt()

    def forward(self, batch, mask, progress):
        """`prediction`: what `enhance` says. Logs stand beside what guessing reaches."""
        ids = self.tokenizer(batch.images, self.encoder.grid)  # (B, N)
        made = self.corrupt(batch.images, ids, mask, batch.noise, batch.visible)
        prediction, replaced = self.enhance(made.images), made.tokens != ids
        logs = {
            "loss_generator": made.loss.detach(),
            "loss_uniform": torch.full((), math.log(self.tokenizer.vocab), device=made.loss.device),
            "replaced": replaced.float().mean(),
        }
        if self.objective == "revdet":
            enhancer, more = detection(prediction, replaced)
        else:
            target = self.target(batch.images, made.images)
            enhancer = self.distance(prediction, target)
            more = {"loss_respix": enhancer.detach(), "respix_zero": self.distance(torch.zeros_like(target), target)}
        logs |= more | token_logs(ids, made.accuracy, self.tokenizer.vocab)
        return Output(made.loss + self.weight * enhancer, logs, prediction)

    def judge(self, images, mask):
        """The generator's loss: the enhancer's runs over all patches alike."""
        logits = self.generator_head(self.guess(images, mask)).float()
        return judged(logits, self.tokenizer(images, self.encoder.grid))

    @torch.no_grad()
    def look(self, images, mask, noise=None):
        """What happens to images under bool (B, N) and `noise` (B, N), as `Looked`; no noise: one fixed draw."""
        ids = self.tokenizer(images, self.encoder.grid)
        made = self.corrupt(images, ids, mask, fixed(mask) if noise is None else noise)
        found, replaced = self.enhance(made.images), made.tokens != ids
        if self.objective == "revdet":
            return Looked(made.images, ids, made.tokens, replaced, found.sigmoid(), None)
        return Looked(made.images, ids, made.tokens, replaced, None, self.put_back(found, made.images, images))

    def reconstruct(self, images, mask):
        """ResPix: its pixels, for one fixed draw of tokens. RevDet predicts none, and the corrupted image is shown."""
        seen = images.masked_fill(pixels(mask, self.encoder.grid, images.shape[2:]), 0.5)
        ids = self.tokenizer(seen, self.encoder.grid)  # a tokenizer may look at neighbours
        made = self.corrupt(images, ids, mask, fixed(mask))
        if self.objective == "respix":
            return self.put_back(self.enhance(made.images), made.images, images)
        note = "the corrupted image: decoded tokens, at hidden patches drawn from the generator's guess, elsewhere the true ones"
        return Filled(made.images.clamp(0, 1), note)

    def put_back(self, prediction, corrupted, images):
        """ResPix's normalised pixels (B, 3, H, W) with the statistics of `corrupted`, and leaking those of `images`."""
        statistics = (local(x, self.window, self.windows) for x in (corrupted, images))
        filled, leaking = (
            (prediction * (var + EPS).sqrt() + (corrupted if self.residual else mean)).clamp(0, 1)
            for mean, var in statistics
        )
        note = (
            "trained on pixels normalised in windows: mean and deviation are not predicted, but the corrupted image's"
        )
        return Filled(filled, note, leaking)

    @property
    def predicts(self):
        restored = "pixels normalised in windows" if self.objective == "respix" else "which patches were replaced"
        return f"{self.vocabulary}, by a generator; from what it draws the encoder predicts {restored}, by one linear layer"

    def further(self, images, mask):
        """The corrupted image, which tokens were replaced, and what RevDet takes for replaced; one fixed draw."""
        seen = self.look(images, mask)
        shown = {"corrupted image": seen.corrupted.clamp(0, 1), "replaced": seen.replaced}
        return shown if seen.detected is None else shown | {"probability of replaced": seen.detected}


def drawn(logits, noise, temperature=1.0):
    """The inverse of the softmax's distribution function at `noise`: (M, K), (M,) in [0, 1) -> tokens (M,) int64.

    The lowest token whose cumulated probability exceeds the noise.
    """
    cumulated = (logits.float() / temperature).softmax(dim=1).cumsum_(dim=1)
    cumulated = cumulated.div_(cumulated[:, -1:].clone())  # rounding must not leave the last one below the noise
    return torch.searchsorted(cumulated, noise[:, None].to(cumulated), right=True)[:, 0]


def detection(logits, replaced):
    """RevDet's loss over all tokens and its logs: logits (B, N), bool (B, N)."""
    loss = F.binary_cross_entropy_with_logits(logits, replaced.float())
    share = replaced.float().mean()
    right = ((logits.detach() > 0) == replaced).float().mean()
    return loss, {
        "loss_revdet": loss.detach(),
        "revdet_accuracy": right,
        "revdet_majority": torch.maximum(share, 1 - share),
    }


def fixed(mask):
    """Noise (B, N), the same for every image and in every call, so that one image's picture needs no others."""
    row = torch.rand(mask.shape[1], generator=torch.Generator().manual_seed(0))
    return row.to(mask.device).expand(mask.shape)
