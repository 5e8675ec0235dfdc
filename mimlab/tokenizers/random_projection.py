"""Random projection: a vocabulary of uniform random vectors, no data needed; the paper's default.

SplitMask, section 3.3 (arXiv 2112.10740): "vectors with uniform element-wise distribution". The range is not
stated; see `PatchTokenizer` for what the pixels are.
"""

from typing import Annotated, Literal

import torch

from mimlab.errors import Refused, shown
from mimlab.tokenizers import PatchTokenizer


class Tokenizer(PatchTokenizer):
    """Unit vectors whose elements were drawn from U(low, high); tokens cannot be decoded to pixels."""

    can_decode = False

    def __init__(
        self,
        vocab=8192,
        patch=8,
        *,
        normalise: Literal["imagenet", "none"] = "imagenet",
        centre: bool = False,
        low: Annotated[float, (-1000.0, 1000.0)] = 0.0,
        high: Annotated[float, (-1000.0, 1000.0)] = 1.0,
    ):
        super().__init__(vocab, patch, normalise=normalise, centre=centre)
        if not high - low > 1e-3 * max(abs(low), abs(high)):
            raise Refused(
                f"low = {shown(low)} is not below high = {shown(high)}; use for instance 0 and 1, or -1 and 1"
            )
        self.low, self.high = low, high

    def wanted(self):
        return 0

    def fit(self, patches, generator):
        """Draw the vocabulary; `patches` are not read."""
        uniform = torch.rand(self.codebook.shape, generator=generator)
        self.set_codebook(uniform * (self.high - self.low) + self.low)
