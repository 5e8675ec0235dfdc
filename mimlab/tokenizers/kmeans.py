"""k-means: the vocabulary is the set of cluster centres of the training images' patches.

SplitMask, section 3.3 and 5.5 (arXiv 2112.10740): k-means on 3 million patches of the data set. Clusters are
Euclidean, tokens are by cosine as for every vocabulary of the paper, so a patch's token is often not its
cluster: the centres are scaled to unit length first, and a dim patch may point along another centre.
Letters: M patches, K centres, D values.
"""

from typing import Annotated, Literal

import torch

from mimlab.errors import Refused, shown
from mimlab.tokenizers import PatchTokenizer, highest


class Tokenizer(PatchTokenizer):
    """Unit vectors along the centres of Lloyd's k-means; a token decodes to its centre.

    `rounds` of Lloyd's algorithm, on at most `samples` patches, started from random distinct ones.
    """

    def __init__(
        self,
        vocab=8192,
        patch=8,
        *,
        normalise: Literal["imagenet", "none"] = "imagenet",
        centre: bool = False,
        rounds: Annotated[int, (1, 1000)] = 20,
        samples: Annotated[int, (2, 100_000_000)] = 3_000_000,
    ):
        super().__init__(vocab, patch, normalise=normalise, centre=centre)
        if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
            raise Refused(f"rounds = {shown(rounds)} is not a number of rounds; use an integer from 1, such as 20")
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < vocab:
            raise Refused(f"samples = {shown(samples)} must be an integer of at least the vocabulary, {vocab}")
        self.rounds, self.samples = rounds, samples

    def wanted(self):
        return self.samples

    def fit(self, patches, generator):
        """Cluster (M, D) [0, 1] pixels; refuses fewer than `vocab` distinct ones, before any round."""
        start = self.different(patches, generator)
        data = self.vectors(patches)
        centres, labels, _ = lloyd(data, data[start], self.rounds)
        pixels = centres
        if self.centre:  # what was removed is put back, as the mean over the cluster
            removed = self.normalised(patches).mean(1, keepdim=True)  # (M, 1)
            pixels = centres + _means(removed, labels, removed.mean().expand(self.vocab, 1))[1].float()
        self.set_codebook(centres, self.pixels_of(pixels))


def lloyd(data, centres, rounds):
    """Lloyd's algorithm: data (M, D), centres (K, D) -> centres (K, D), labels (M,), inertia (rounds,) float64.

    Each round gives every row its nearest centre (Euclidean; the lower number if equal), then moves the centres
    to the means of their rows; an empty cluster keeps its centre. Inertia is the sum of squared distances to
    the moved centres, round by round. The labels are the nearest of the centres that are returned.
    """
    inertia = torch.zeros(rounds, dtype=torch.float64)
    length = sum(chunk.double().square().sum() for chunk in data.split(1 << 16))
    labels = _nearest(data, centres)
    for i in range(rounds):
        counts, moved = _means(data, labels, centres)  # float64
        inertia[i] = length - (counts * moved.square()).sum()  # sum |x - mean|^2 = sum |x|^2 - count * |mean|^2
        centres = moved.to(data.dtype)
        labels = _nearest(data, centres)
    return centres, labels, inertia


def _nearest(data, centres):
    """Number of the nearest centre by Euclidean distance: (M, D), (K, D) -> (M,) int64."""
    return highest(data, centres, centres.square().sum(1) / 2)  # |x - c|^2 = |x|^2 - 2 (x . c - |c|^2 / 2)


def _means(data, labels, otherwise):
    """Counts (K, 1) and means (K, D), float64, of the rows of each label; no rows: that row of `otherwise`."""
    counts = torch.bincount(labels, minlength=len(otherwise)).unsqueeze(1)
    sums = torch.zeros(otherwise.shape, dtype=torch.float64)
    for chunk, names in zip(data.split(1 << 16), labels.split(1 << 16), strict=True):
        sums.index_add_(0, names, chunk.double())
    return counts, torch.where(counts > 0, sums / counts.clamp(min=1), otherwise.double())
