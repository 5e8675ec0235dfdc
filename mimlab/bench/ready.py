"""Inputs of a step, made beforehand: what is left to time is forward, backward and the optimiser."""

from typing import NamedTuple

import torch

from mimlab import masks, tokenizers
from mimlab.distributed import generator_for
from mimlab.layers import PIXELS

CLASSES = 10


class Ready(NamedTuple):
    """One batch. `views`: (B, 3, H, W) in [0, 1], first the images, then further crops; `seen`: the same less ImageNet's
    mean over its deviation, for implementations that want it done; `mask` bool (B, N) or None; `noise` (B, N);
    `visible`: patches that the mask leaves; `ids` int64 (B, N) below the vocabulary; `labels` int64 (B,).
    """

    views: tuple
    seen: tuple
    mask: torch.Tensor | None
    noise: torch.Tensor | None
    visible: int | None
    ids: torch.Tensor
    labels: torch.Tensor


def inputs(cfg, method, device):
    """`Ready` of settings: random pixels through the method's own views, its mask, random tokens and labels.

    No data set is read, so that what is measured does not depend on one.
    """
    generator = generator_for(cfg.seed, 0, "bench")
    side, n = cfg.cache_size, method.encoder.grid[0] * method.encoder.grid[1]
    raw = torch.randint(256, (cfg.batch_size, 3, side, side), generator=generator).to(torch.uint8)
    views = method.views(cfg.image_size, **cfg.augment)
    views = views.apply(raw, views.draw(cfg.batch_size, generator))
    views = tuple(view.to(device) for view in (views if isinstance(views, tuple) else (views,)))
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in PIXELS["imagenet"])
    seen = tuple((view - mean) / std for view in views)
    mask, noise, visible = None, None, None
    if cfg.mask != "none":
        ratio = masks.ratio(0.0, cfg.mask_ratio, **cfg.mask_schedule)
        scores = torch.rand(cfg.batch_size, n, generator=generator) if masks.looks(cfg.mask) else None
        mask = masks.sample(cfg.mask, cfg.batch_size, method.encoder.grid, ratio, generator, scores, **cfg.mask_args)
        noise = torch.rand(mask.shape, generator=generator).to(device)
        mask, visible = mask.to(device), n - masks.count(n, ratio)
    ids = torch.randint(cfg.vocab, (cfg.batch_size, n), generator=generator).to(device)
    labels = torch.randint(CLASSES, (cfg.batch_size,), generator=generator).to(device)
    return Ready(views, seen, mask, noise, visible, ids, labels)


class Known(tokenizers.Base):
    """A tokenizer that has its answer ready: `ids` (B, N) for any images. It decodes as the one that it stands for."""

    def __init__(self, real):
        super().__init__(real.vocab, real.patch)
        self.real, self.ids = real, None

    @property
    def can_decode(self):
        return self.real.can_decode

    def forward(self, images, grid):
        return self.ids

    def decode(self, ids, grid):
        return self.real.decode(ids, grid)
