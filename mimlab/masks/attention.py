"""Attention-guided masking: the patches that the model attends to most are hidden.

AttMask (Kakogeorgiou et al., "What to Hide from Your Students: Attention-Guided Masked Image Modeling", ECCV 2022,
arXiv 2203.12719) and its code, gkakogeorgiou/attmask, attmask.py and main_attmask.py: the attention of the CLS token to
each patch in the last layer of the teacher, averaged over the heads; "high" hides the most attended patches, "low" the
least, "hint" the most attended but for some of them, which stay visible as hints.

The attention is that of the encoder that a method deploys: the teacher of a method that trains one, as in the paper,
otherwise the encoder in training. Without a CLS token: the mean attention that a patch gets from all patches.

Differs from the paper: every image is masked (there half of them are, `--masking_prob 0.5`), and by the ratio asked for
(there drawn from 0.1 to 0.5). Hints: there a share of the most attended tenth (`--show_max 0.1`) as large as the
ratio of the image; here `shown`, by default the mean of those ratios, so that one ranking serves every ratio. What
they free is filled up by the next most attended, so that the count stays exact.
"""

from typing import Annotated, Literal

import torch

from mimlab.errors import Refused
from mimlab.layers import resampled


def score(images, grid, *, method):
    """How much each patch is attended to: (B, N) float, from images (B, 3, H, W) in [0, 1]; refuses another grid."""
    encoder = method.deployed
    last = encoder.depth - 1
    weights = encoder.attention(fit(images, encoder, grid), [last])[last].float().mean(dim=1)  # (B, T, T)
    return (weights[:, 0] if encoder.has_cls else weights.mean(dim=1))[:, encoder.prefix :]


def fit(images, encoder, grid):
    """Images at the size that `encoder` sees, (B, 3, H, W); refuses a grid that is not the encoder's."""
    if tuple(grid) != encoder.grid:
        own, asked = (" x ".join(str(side) for side in sides) for sides in (encoder.grid, grid))
        raise Refused(f"grid = {asked}: the model that is asked has {own} patches; use its image_size and patch_size")
    size = tuple(side * encoder.patch for side in encoder.grid)
    if images.shape[2:] == size:
        return images
    return resampled(images, size, "bilinear")


def rank(
    batch,
    grid,
    generator,
    *,
    scores,
    hide: Literal["high", "hint", "low"] = "high",
    top: Annotated[float, (0.01, 1.0)] = 0.1,
    shown: Annotated[float, (0.0, 1.0)] = 0.3,
):
    """The place of each patch in the order of attention: (batch, N) float; equal `scores` go in random order.

    `hide`: "high" (most attended first), "low" (least first), or "hint" (as "high", but of the `top` share of
    patches the share `shown`, drawn at random, is hidden last).
    """
    order = torch.rand(scores.shape, generator=generator).argsort(dim=1)  # random, for ties
    ids = order.gather(1, scores.gather(1, order).argsort(dim=1, stable=True))  # least attended first
    place = torch.arange(scores.shape[1], dtype=torch.float32).expand(batch, -1)
    place = torch.empty(scores.shape).scatter_(1, ids, place)
    if hide == "low":
        return -place
    if hide == "hint":
        pool = int(top * scores.shape[1] + 1e-9)
        drawn = torch.rand(batch, pool, generator=generator).argsort(dim=1)[:, : int(shown * pool + 1e-9)]
        hints = ids[:, scores.shape[1] - pool :].gather(1, drawn)
        place.scatter_add_(1, hints, torch.full(hints.shape, -float(scores.shape[1])))
    return place
