"""Methods: one file is one paper. `Method` is abstract; the papers are final."""

from typing import NamedTuple

import torch
from torch import nn

from mimlab.data.augment import Augment
from mimlab.find import check_options, options
from mimlab.layers import judge_tokens


class Batch(NamedTuple):
    """What a method gets. All randomness comes from outside.

    `images` (B, 3, H, W) in [0, 1]; `noise` (B, N) uniform in [0, 1), for choices of the method's own;
    `visible`: V of a mask that hides equally many patches in each row, None if rows may differ;
    `crops`: further views of the same images, each (B, 3, h, w), where the method's `views` makes them;
    `labels`: int64 (B,), where the data has them.
    """

    images: torch.Tensor
    noise: torch.Tensor = None
    visible: int = None
    crops: tuple = ()
    labels: torch.Tensor | None = None


class Progress(NamedTuple):
    """Where training is: `step` of `steps`."""

    step: int = 0
    steps: int = 1

    @property
    def fraction(self):
        return self.step / self.steps


class Output(NamedTuple):
    """`loss` scalar; `logs` name -> scalar tensor; `prediction` as the method's `forward` says."""

    loss: torch.Tensor
    logs: dict
    prediction: torch.Tensor


class Filled(NamedTuple):
    """A reconstruction: `images` (B, 3, H, W) in [0, 1], and a `note` on how to read them.

    `leaking`: the same with true statistics of the hidden pixels put back, for targets that lack them, else None.
    """

    images: torch.Tensor
    note: str
    leaking: torch.Tensor | None = None


class Tokens(NamedTuple):
    """What a method says of the token of each patch.

    `true` (B, N) int64; `likely` (B, N, k) int64: the k most probable, most probable first; `chance` (B, N, k): their
    probabilities; `rank` (B, N) int64: the place of the true one among all, from 1.
    """

    true: torch.Tensor
    likely: torch.Tensor
    chance: torch.Tensor
    rank: torch.Tensor


class Judged(NamedTuple):
    """How a method does on single patches. Values at visible patches were never asked of it.

    `loss` (B, N): the training loss of each patch; `right` bool (B, N): whether the most probable token is the
    true one, and `tokens`: what it says instead, both None where no tokens are predicted.
    """

    loss: torch.Tensor
    right: torch.Tensor | None = None
    tokens: Tokens | None = None


def judged(logits, ids, most=5):
    """`Judged` by cross-entropy: logits (B, N, K) and true ids (B, N), with at most `most` tokens a patch."""
    found, true = logits.detach(), ids.unsqueeze(2)
    high, likely = found.topk(min(most, found.shape[2]), dim=2)
    chance = (high - found.logsumexp(dim=2, keepdim=True)).exp()
    rank = 1 + (found > found.gather(2, true)).sum(dim=2)
    return Judged(*judge_tokens(logits, ids), Tokens(ids, likely, chance, rank))


def decoded(tokenizer, logits, images, grid):
    """What a tokenizer draws for logits (B, N, K), at the size of `images`, as `Filled`; None if it draws nothing."""
    if not tokenizer.can_decode:
        return None
    filled = nn.functional.interpolate(tokenizer.expected(logits, grid), size=images.shape[2:], mode="nearest")
    note = "what the tokenizer draws for the predicted probabilities; what it draws over visible patches was never asked of it"
    return Filled(filled, note)


class Method(nn.Module):
    """An objective over an encoder and perhaps a tokenizer.

    A file defines a `RECIPE` (name -> the published settings, "paper" first) and one final class,
    built as `Class(encoder, tokenizer, *, the paper's options)`. `forward` computes and changes no
    weight; `after_step` changes (EMA, centre). `couples_images` says that the loss looks across the
    batch, so that accumulating gradients would not give the loss of the larger batch. `masked` says that it
    hides patches; without, its mask is "none" and `forward` gets None. `views` is the class that draws and
    makes the views of an image: `Augment`, or another with its `draw` and `apply`, which may return a tuple of
    images (B, 3, size, size) and further crops. `pool`: the features that its paper evaluates, "mean" of the patches or
    "cls". A class with an option `classes` learns from labels, and is
    told their number.
    """

    couples_images = False
    masked = True
    pool = "mean"
    views = Augment

    def __new__(cls, *parts, **given):
        """Refuses options that their annotations do not allow, whoever builds the method."""
        known = options(cls.__init__)
        check_options("method_args", {name: given[name] for name in given if name in known}, cls.__init__)
        return super().__new__(cls)

    def __init__(self, encoder, tokenizer):
        super().__init__()
        self.encoder = encoder
        self.tokenizer = tokenizer

    def forward(self, batch, mask, progress):
        """`Batch`, bool (B, N) with True = hidden (None for a method that hides nothing), `Progress` -> `Output`."""
        raise NotImplementedError

    def learn(self, images, generator):
        """Before the first step of a run: take what the objective must know of the training images (`mimlab.data.Images`)
        into buffers; it is in every checkpoint. `generator` draws the same on every process.
        """

    def before_step(self, progress):
        """With the gradients there, before the optimiser's step."""

    def after_step(self, progress):
        """After the optimiser's step."""

    @property
    def vocabulary(self):
        """The tokens that it predicts, in words."""
        return f"tokens of {type(self.tokenizer).__module__.rpartition('.')[2]} (vocabulary {self.tokenizer.vocab:,})"

    def reconstruct(self, images, mask):
        """What the method fills in where `mask` hides, as `Filled`, or None if it predicts no picture."""
        return None

    def judge(self, images, mask):
        """The loss of each single patch under `mask`, as `Judged`, or None if it predicts no patches."""
        return None

    @property
    def predicts(self):
        """What it predicts of a hidden patch, and by what, in words; "" if nothing."""
        return ""

    def other(self, mask, noise, visible):
        """What is hidden from a second look that covers what `mask` hides from the first, (B, N), and how many
        patches it sees: the complement. `noise` (B, N) is for choices, `visible` what the first sees.
        """
        return ~mask, mask.shape[1] - visible

    def further(self, images, mask):
        """More that only this method has to show: title -> images (B, 3, H, W), or bool or float (B, N), NaN for none."""
        return {}

    @property
    def deployed(self):
        """The encoder that is kept after pre-training."""
        return self.encoder
