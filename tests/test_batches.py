"""What one step trains on is the same in whatever process it is made."""

import pickle

import numpy as np
import torch

import mimlab
from mimlab import batches, data
from mimlab.data.augment import Augment
from mimlab.detection import data as annotated
from mimlab.detection import task, training


def test_batches_keep_their_rows_in_a_process_of_no_group(monkeypatch):
    """As a loader's worker that is not forked has them; a mask that cannot be sent does not matter there."""
    images = data.open("emoji", "train", size=32)
    cfg = mimlab.Pretrain(batch_size=8, mask=lambda batch, grid, generator: torch.rand(batch, grid[0] * grid[1]))
    monkeypatch.setattr(batches, "mine", lambda batch: slice(4, 8))  # of the second of two processes
    made = batches.Batches(images, Augment(32), cfg, len(images) // 8)
    monkeypatch.undo()
    views, labels, rows = pickle.loads(pickle.dumps(made))[3]
    assert len(rows) == 8 and np.array_equal(labels, images.labels[rows[4:].numpy()])
    again, *_ = made[3]
    assert torch.equal(views[0], again[0]) and len(views[0]) == 4


def test_so_do_those_of_detection(monkeypatch):
    pictures = annotated.open("scenes", "train", {"train": 6, "test": 2})
    cfg = mimlab.Detect(batch_size=4)
    monkeypatch.setattr(training, "world", lambda: 2)
    made = training.Batches(pictures, task.target, cfg, task.augmented)
    monkeypatch.undo()
    first, targets = pickle.loads(pickle.dumps(made))[0]
    whole, _ = training.Batches(pictures, task.target, cfg, task.augmented)[0]
    assert len(whole) == 4 and len(first) == len(targets) == 2
    assert all(torch.equal(one, other) for one, other in zip(first, whole, strict=False))
