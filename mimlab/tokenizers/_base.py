"""What every tokenizer is."""

import math

from torch import nn

from mimlab.errors import Refused, shown
from mimlab.find import check_options, options
from mimlab.layers import resampled


class Base(nn.Module):
    """What a tokenizer is: `vocab` tokens, for images whose patches it sees as `patch` pixels wide.

    `wants` says what `fit` gets: "patches" (M, D) of [0, 1] pixels; "images" (M, 3, h * P, w * P), uint8; or "files",
    nothing, since the options name files, which are read anew each time. Built as `Tokenizer(vocab, patch, *, options)`.
    """

    wants = "patches"
    can_decode = True
    costly = False  # costs more than a model's step: tokens of views that come again are worth keeping

    def __new__(cls, *sizes, **given):
        """Refuses options that their annotations do not allow, whoever builds the tokenizer."""
        known = options(cls.__init__)
        check_options("tokenizer_args", {name: given[name] for name in given if name in known}, cls.__init__)
        return super().__new__(cls)

    def __init__(self, vocab, patch):
        super().__init__()
        whole("vocab", vocab, 2, 1_000_000)
        whole("patch", patch, 1)
        self.vocab, self.patch = vocab, patch

    def remember(self, most):
        """Keep the tokens of at most `most` images, so that the same pixels are tokenized once."""
        from mimlab.tokenizers._memory import Memory

        self.forward = Memory(self.forward, most, self.vocab)

    def ready(self):
        """Refuse what `fit` would refuse without any data, such as a missing file."""

    def wanted(self):
        """How many patches or images `fit` makes use of; 0 if none."""
        raise NotImplementedError

    def fit(self, data, generator):
        """Make the vocabulary from what it `wants`. Refuses too little of it."""
        raise NotImplementedError

    def forward(self, images, grid):
        """Tokens in raster order: images (B, 3, H, W) in [0, 1] -> ids (B, h * w) int64 < vocab.

        Images of another size than grid * patch are resized (bicubic, antialiased, clamped to [0, 1]).
        """
        raise NotImplementedError

    def decode(self, ids, grid):
        """An image of the tokens: ids (B, N) -> (B, 3, h * P, w * P) in [0, 1]; Refused where there is no way."""
        raise NotImplementedError

    def expected(self, logits, grid):
        """One image for predicted tokens, certain or not: logits (B, N, K) -> (B, 3, h * P, w * P) in [0, 1]."""
        raise NotImplementedError


def resize(images, grid, patch):
    """Images (B, 3, H, W) at (h * P, w * P): bicubic with antialias, clamped to [0, 1]; as they are if they fit."""
    size = (grid[0] * patch, grid[1] * patch)
    if tuple(images.shape[-2:]) == size:
        return images
    return resampled(images, size).clamp(0, 1)


def whole(name, value, least, most=math.inf):
    """Refuse an option that is no integer from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        bounds = f"of at least {least}" if most == math.inf else f"from {least} to {most:,}"
        raise Refused(f"{name} = {shown(value)} is not an integer {bounds}")
