"""SplitMask's token rule, for any codebook in pixel space (section 3.3 and 5.5, arXiv 2112.10740)."""

from typing import Literal

import torch
from torch.nn.functional import normalize

from mimlab.errors import Refused
from mimlab.layers import PIXELS, check_images, exact, patchify, unpatchify
from mimlab.tokenizers._base import Base, resize

ROOM = 1 << 22  # similarities held at a time, 16 MiB: 512 patches at a vocabulary of 8,192


class PatchTokenizer(Base):
    """The paper's token rule, for any codebook; subclasses say in `fit` where the codebook comes from.

    `normalise`: "imagenet" removes ImageNet's mean and standard deviation from the pixels, "none" leaves
    [0, 1]. `centre` removes each patch's own mean as well. The paper states neither; with raw pixels the
    brightness of a patch decides most tokens, and a vocabulary with both signs collapses to few tokens.
    Buffers: `codebook` (K, D) unit rows; `pixels` (K, D) uint8, what `decode` pastes, where it can.
    """

    def __init__(
        self, vocab=8192, patch=8, *, normalise: Literal["imagenet", "none"] = "imagenet", centre: bool = False
    ):
        super().__init__(vocab, patch)
        self.normalise, self.centre = normalise, centre
        self.register_buffer("codebook", torch.zeros(vocab, 3 * patch * patch))
        if self.can_decode:
            self.register_buffer("pixels", torch.zeros(vocab, 3 * patch * patch, dtype=torch.uint8))

    @torch.no_grad()
    def forward(self, images, grid):
        with exact(images.device):  # half precision would change tokens
            x = patchify(resize(check_images(images).float(), grid, self.patch), self.patch)  # (B, N, D)
            return nearest(self.vectors(x.flatten(0, 1)), self.codebook).view(x.shape[:2])

    def vectors(self, patches):
        """Pixels (M, D) as the codebook sees them: normalised and centred as the options say."""
        x = self.normalised(patches)
        return x - x.mean(1, keepdim=True) if self.centre else x

    def normalised(self, patches):
        """Pixels (M, D) less the mean, over the standard deviation; [0, 1] pixels for "none"."""
        if self.normalise == "none":
            return patches
        mean, std = _statistics(patches)
        return (patches - mean) / std

    def pixels_of(self, vectors):
        """The inverse of the normalisation (not of `centre`): (M, D) -> [0, 1] pixels."""
        if self.normalise == "imagenet":
            mean, std = _statistics(vectors)
            vectors = vectors * std + mean
        return vectors.clamp(0, 1)

    def different(self, patches, generator):
        """Row numbers of `vocab` random distinct patches that have a direction: (M, D) -> (vocab,) int64."""
        rows = distinct(patches)
        rows = rows[torch.cat([~flat(self.vectors(patches[some])) for some in rows.split(1 << 16)])]
        return chosen(rows, self.vocab, len(patches), generator)

    def set_codebook(self, vectors, pixels=None):
        """Use the directions of `vectors` (K, D); `pixels` (K, D) in [0, 1] are what `decode` pastes."""
        self.codebook.copy_(normalize(vectors.double(), dim=1))
        if pixels is not None:
            self.pixels.copy_((pixels * 255).round())

    def decode(self, ids, grid):
        """The vocabulary's own patches."""
        if not self.can_decode:
            raise Refused(f"{type(self).__module__} has no pixels to decode its tokens to")
        return unpatchify(self.pixels[ids].float() / 255, grid, self.patch)

    def expected(self, logits, grid):
        """The mean codebook patch under the probabilities.

        Of all pictures that the vocabulary can mix, the one with the smallest expected squared error.
        """
        if not self.can_decode:
            raise Refused(f"{type(self).__module__} has no pixels to decode its tokens to")
        return unpatchify(logits.float().softmax(dim=2) @ (self.pixels.float() / 255), grid, self.patch)


def _statistics(patches):
    """ImageNet's mean and standard deviation for every value of a patch: two (D,)."""
    each = patches.shape[1] // 3
    return (torch.cat([patches.new_full((each,), value) for value in values]) for values in PIXELS["imagenet"])


def nearest(vectors, codebook):
    """The token rule: arg max of the dot product with unit rows, (M, D) and (K, D) -> (M,) int64.

    The length of a vector does not matter, so this is the highest cosine similarity. A vector of no length
    (a flat patch, once centred, is rounding noise) gets token 0. Chunked: memory does not grow with M * K.
    """
    vectors = vectors.masked_fill(flat(vectors)[:, None], 0)
    return highest(vectors, codebook)


@torch.no_grad()
def highest(vectors, rows, shift=None):
    """For every vector the row of greatest dot product, less `shift` (K,): (M, D), (K, D) -> (M,) int64.

    The lower number if equal. Chunks share one piece of memory: a fresh one costs a quarter of the time.
    """
    step = max(1, ROOM // len(rows))
    room = vectors.new_empty(min(step, len(vectors)), len(rows))
    start, beta = (vectors.new_zeros(()), 0) if shift is None else (shift, -1)
    chunks = vectors.split(step)
    return torch.cat([torch.addmm(start, x, rows.T, beta=beta, out=room[: len(x)]).argmax(1) for x in chunks])


def flat(vectors):
    """Which vectors have no direction beyond rounding: (M, D) -> (M,) bool."""
    return vectors.square().mean(1) < 1e-10


def distinct(patches):
    """Row numbers of the first of each set of equal patches: (M, D) -> (M',) int64, by a 64-bit hash."""
    random = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (patches.shape[1],), generator=random)
    chunks = patches.float().contiguous().view(torch.int32).split(1 << 16)
    hashes = torch.cat([(chunk * weights).sum(1) for chunk in chunks])  # wraps around, as meant
    order = hashes.argsort(stable=True)
    changes = hashes[order].diff() != 0
    return order[torch.cat([changes.new_ones(1), changes])].sort().values


def chosen(rows, vocab, of, generator):
    """`vocab` of the row numbers (M,), at random; `Refused` where there are fewer. `of`: how many patches there were."""
    if len(rows) < vocab:
        raise Refused(
            f"vocab = {vocab} is more than the {len(rows)} distinct patches (of {of}) there are; "
            f"use a smaller vocabulary or more images"
        )
    return rows[torch.randperm(len(rows), generator=generator)[:vocab]]
