"""Tokens that are kept, against those made anew."""

import torch

from mimlab.tokenizers._memory import Memory


def mean(images, grid):
    """A token that tells images apart; notes what it was asked."""
    seen.append(len(images))
    return (images.mean(dim=(1, 2, 3)) * 1000).long()[:, None].expand(-1, grid[0] * grid[1])


seen = []


def test_an_image_is_asked_once_for_each_grid():
    seen.clear()
    images, memory = torch.rand(6, 3, 4, 4), Memory(mean, 100, 2000)
    assert torch.equal(memory(images, (2, 2)), mean(images, (2, 2)))
    some = images[[3, 3, 0]].clone()
    assert torch.equal(memory(some, (2, 2)), mean(some, (2, 2)))
    assert seen == [6, 6, 3] and memory(images, (1, 2)).shape == (6, 2)
    assert memory(some + 1e-6, (2, 2)).dtype == torch.int64 and seen[-1] == 2  # other pixels, two of them equal


def test_no_more_than_so_many_are_kept():
    seen.clear()
    images, memory = torch.rand(6, 3, 4, 4), Memory(mean, 4, 100_000)
    for _ in range(2):
        assert torch.equal(memory(images, (2, 2)), mean(images, (2, 2)))
    assert seen == [6, 6, 2, 6] and len(memory.kept) == 4
