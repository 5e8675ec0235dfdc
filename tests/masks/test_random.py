"""MAE's masks."""

import torch

from mimlab import masks
from mimlab.masks import random


def test_the_rank_is_the_noise_so_maes_noise_gives_maes_mask():
    noise = random.rank(3, (4, 4), torch.Generator().manual_seed(0))
    kept = noise.argsort(dim=1)[:, : int(16 * (1 - 0.75))]  # models_mae.py: smallest noise is kept
    official = torch.ones(3, 16).scatter_(1, kept, 0).bool()
    assert torch.equal(masks.cut(noise, masks.count(16, 0.75)), official)


def test_every_patch_is_as_likely():
    share = masks.sample("random", 20000, (4, 5), 0.75, torch.Generator().manual_seed(0)).float().mean(0)
    assert (share - 0.75).abs().max() < 5 * (0.75 * 0.25 / 20000) ** 0.5
