"""What one step trains on: rows, views and labels, from the seed and the step alone."""

import torch
from torch.utils.data import Dataset

from mimlab.distributed import generator_for, mine


class Batches(Dataset):
    """Item `step`: this process's views of the images (a tuple) and labels, and the rows of the whole batch.

    A pure function of (seed, step), so neither workers nor a restart change anything. A loader's worker belongs to no
    process group unless it was forked, so whose rows these are is asked when this is made, not there.
    """

    def __init__(self, images, augment, cfg, each):
        self.images, self.augment, self.each = images, augment, each
        self.seed, self.batch_size = cfg.seed, cfg.batch_size  # not `cfg`, whose functions no worker could be sent
        self.here = mine(cfg.batch_size)
        self.order = None, None  # of the latest epoch: drawn at every step it would cost a million numbers each time

    def rows(self, step):
        """Rows of the whole batch of `step`: a permutation an epoch, its tail dropped."""
        epoch, place = divmod(step, self.each)
        if self.order[0] != epoch:
            generator = generator_for(self.seed, epoch, "order")
            self.order = epoch, torch.randperm(len(self.images), generator=generator)
        return self.order[1][place * self.batch_size : (place + 1) * self.batch_size].clone()

    def __getitem__(self, step):
        rows = self.rows(step)
        draws = self.augment.draw(len(rows), generator_for(self.seed, step, "augment"))
        draws = {name: value[self.here] for name, value in draws.items()}
        own = rows[self.here].numpy()
        views = self.augment.apply(self.images.get(own), draws)
        labels = None if self.images.labels is None else torch.from_numpy(self.images.labels[own])
        return views if isinstance(views, tuple) else (views,), labels, rows
