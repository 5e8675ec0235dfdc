"""The attentive probe of CAE (Chen et al. 2022, arXiv 2202.03026, section 4): one learned query reads all frozen tokens.

The tokens after the encoder's final norm, class token included, are normalised once for keys and once for values; a query
token, which starts at zero, reads them by one multi-head cross-attention (no residual, no MLP); BatchNorm without affine
and a linear layer follow. SGD with momentum 0.9, lr 0.4 at batch 8,192, 90 epochs, 10 of them warm-up, no weight decay.
Official code: Atten4Vis/CAE, models/modeling_finetune.py (AttentiveBlock) and tools/run_attentive.py.

Differs from the paper: tokens are stored, as float16, so training images are not augmented, unless `augment` stores
some random crops and flips of each. Batches are smaller, with the learning rate scaled alike; the rate is chosen on held-out
training labels (see `_probe`). Heads are the encoder's where it has any, else one for 64 channels. The sums are taken in
another order: with one query, keys and values need not be computed for every token.
"""

import math
from functools import partial
from typing import Annotated

import torch
from torch import nn
from torch.nn.functional import layer_norm

from mimlab import kinds
from mimlab.evals._cache import features
from mimlab.evals._labels import check, options_checked
from mimlab.evals._probe import probe
from mimlab.evals.linear import views

OFFICIAL = 0.4 * 256 / 8192
EPS = 1e-6


class Attentive(nn.Module):
    """Normalised tokens (B, T, D) -> scores (B, classes)."""

    def __init__(self, dim, heads, classes):
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.zeros(dim))
        self.norm_q, self.norm_k, self.norm_v = (nn.LayerNorm(dim, eps=EPS) for _ in range(3))
        self.q, self.v, self.proj = (nn.Linear(dim, dim) for _ in range(3))
        self.k = nn.Linear(dim, dim, bias=False)  # a bias on keys shifts all of a query's logits alike
        self.norm, self.head = nn.BatchNorm1d(dim, affine=False), nn.Linear(dim, classes)
        for layer in (self.q, self.k, self.v, self.proj):
            nn.init.trunc_normal_(layer.weight, std=0.02)
        nn.init.normal_(self.head.weight, std=0.01)
        for layer in (self.q, self.v, self.proj, self.head):
            nn.init.zeros_(layer.bias)

    def forward(self, tokens):
        return self.head(self.norm(self.read(tokens)))

    def read(self, x):
        """What the query reads: tokens (B, T, D), already normalised but for the norms' weights, -> (B, D).

        (W_k x) . q = x . (W_k' q) and sum a W_v x = W_v (sum a x), so the tokens themselves are weighed and added, and
        projected once an image; a constant added to all of a head's logits changes nothing.
        """
        query = self.q(self.norm_q(self.query)).view(self.heads, -1)  # (h, D / h)
        keys = self.k.weight.view(self.heads, -1, x.shape[-1])  # (h, D / h, D)
        # not as a product: torch 2.14 makes its gradient, an outer product, by Triton, which needs a C compiler
        asked = (query[:, :, None] * keys).sum(dim=1) * self.norm_k.weight
        weights = (x @ asked.T / math.sqrt(query.shape[1])).softmax(dim=1)  # (B, T, h)
        seen = (weights.transpose(1, 2) @ x) * self.norm_v.weight + self.norm_v.bias  # (B, h, D)
        value = torch.einsum("bhd,hcd->bhc", seen, self.v.weight.view(self.heads, -1, x.shape[-1])).flatten(1)
        return self.proj(value + self.v.bias)


@options_checked
def evaluate(
    encoder,
    train,
    test,
    *,
    epochs: Annotated[int, (1, 100_000)] = 90,
    lr: kinds.Rate | None = None,
    batch: Annotated[int, (2, 1_000_000)] | None = None,
    augment: Annotated[int, (0, 64)] = 0,
    seed=0,
    device=None,
    cache=None,
):
    """Attentive probe from one set of labelled `Images` to another: `top1`, `top5`, `chance` in percent, and more.

    `lr` is for 256 images a step, None: chosen on held-out training labels. `batch` None: at most 256. `augment`: how many
    random crops of each training image are stored and learnt from in turns, 0: the image itself.
    """
    classes = check(train, test)
    if device is not None:
        encoder.to(device)
    stored = [
        features(encoder, train, "normalised tokens", tokens, view=view, cache=cache)["tokens"]
        for view in views(augment)
    ]
    queries = features(encoder, test, "normalised tokens", tokens, cache=cache)["tokens"]
    labels, truth = (torch.from_numpy(images.labels) for images in (train, test))
    make = partial(build, queries.shape[2], heads(encoder), classes, next(encoder.parameters()).device)
    recipe = {"optimiser": "sgd", "epochs": epochs, "warmup": epochs / 9, "official": OFFICIAL}
    found = probe(make, {"tokens": stored}, labels, {"tokens": queries}, truth, lr=lr, batch=batch, seed=seed, **recipe)
    rate = "lr chosen" if lr is None else f"lr={lr}"
    return found | {
        "protocol": f"attentive, sgd {epochs} epochs, {rate}, augment={augment}",
        "frozen": True,
        "optimiser": "sgd",
        "heads": heads(encoder),
        "train_images": len(train),
        "test_images": len(test),
        "chance": 100 / classes,
    }


def build(dim, count, classes, device):
    return Attentive(dim, count, classes).to(device)


def heads(encoder):
    """Attention heads of the probe: the encoder's own, else one for 64 channels."""
    own = encoder.spec.get("num_heads")
    return own or next(count for count in range(max(1, encoder.dim // 64), 0, -1) if encoder.dim % count == 0)


def tokens(encoder, pixels):
    """All tokens after the final norm, class token first where there is one: {"tokens": (B, T, D) float16}.

    Normalised again, as the probe's norms of keys and values do but for their weights.
    """
    cls, patches = encoder(pixels)
    found = patches if cls is None else torch.cat([cls[:, None], patches], dim=1)
    return {"tokens": layer_norm(found.float(), found.shape[-1:], eps=EPS).half()}
