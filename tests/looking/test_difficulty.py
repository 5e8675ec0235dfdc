import math

import numpy as np
import pytest
import torch

from mimlab import data, masks
from mimlab.errors import Refused
from mimlab.looking import difficulty
from mimlab.looking.difficulty import covariance, linear, mean_colour, nearest, score, small


@pytest.fixture(scope="module")
def emoji():
    return data.open("emoji", "test", size=56).get(np.arange(16)).float() / 255


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def drawn(strategy, batch, grid, ratio=0.5, **options):
    return masks.sample(strategy, batch, grid, ratio, torch.Generator().manual_seed(0), **options)


def row(*patches, hidden, grid, side=2):
    """One image of constant patches in raster order, and its mask."""
    image = torch.tensor(patches).view(1, 1, *grid).repeat_interleave(side, 2).repeat_interleave(side, 3)
    mask = torch.zeros(1, len(patches), dtype=torch.bool)
    mask[0, hidden] = True
    return image.expand(-1, 3, -1, -1).contiguous(), mask


def test_nearest_copies_the_nearest_patch_and_of_two_the_first():
    image, mask = row(0.1, 0.2, 0.3, 0.4, 0.5, hidden=[1, 2, 3], grid=(1, 5))
    assert nearest(image, mask, (1, 5))[0, 0, 0, ::2].tolist() == pytest.approx([0.1, 0.1, 0.1, 0.5, 0.5])
    image, mask = row(*(k / 10 for k in range(9)), hidden=[4], grid=(3, 3))
    assert nearest(image, mask, (3, 3))[0, 0, 2, 2] == pytest.approx(0.1)  # of 1, 3, 5 and 7
    image, mask = row(*(k / 10 for k in range(9)), hidden=[4, 1, 3, 5, 7], grid=(3, 3))
    assert nearest(image, mask, (3, 3))[0, 0, 2, 2] == 0  # a corner; ends of rows are no neighbours


def test_nearest_copies_whole_patches_and_keeps_what_is_visible():
    image, mask = uniform(3, 3, 8, 12), drawn("random", 3, (2, 3))
    filled = nearest(image, mask, (2, 3))
    hidden = masks.pixels(mask, (2, 3), (8, 12)).expand_as(image)
    assert (filled[~hidden] == image[~hidden]).all()
    patches = {
        tuple(image[b, :, y : y + 4, x : x + 4].flatten().tolist())
        for b in range(3)
        for y in (0, 4)
        for x in (0, 4, 8)
        if not mask[b, y // 4 * 3 + x // 4]
    }
    for b, n in mask.nonzero().tolist():
        y, x = n // 3 * 4, n % 3 * 4
        assert tuple(filled[b, :, y : y + 4, x : x + 4].flatten().tolist()) in patches


def test_covariance_is_the_mean_product_at_each_displacement():
    images = uniform(2, 3, 4, 5)
    found = covariance(images).view(4, 5, 4, 5)
    centred = (images - images.mean((2, 3), keepdim=True)).double().numpy()
    for down, across in ((0, 0), (1, 2), (3, -4), (-2, 1)):
        total = 0.0
        for y in range(4):
            for x in range(5):
                if 0 <= y + down < 4 and 0 <= x + across < 5:
                    total += (centred[:, :, y, x] * centred[:, :, y + down, x + across]).mean()
        y, x = (0 if down >= 0 else 3), (0 if across >= 0 else 4)
        assert float(found[y, x, y + down, x + across]) == pytest.approx(total / 20)


def test_covariance_is_positive_semi_definite_and_the_same_for_equal_displacements(emoji):
    found = covariance(small(emoji, (4, 4))[..., :20, :16])  # (320, 320)
    assert torch.allclose(found, found.T)
    assert float(torch.linalg.eigvalsh(found).min()) > -1e-9
    grid = found.view(20, 16, 20, 16)
    assert torch.allclose(grid[:-1, :, :-1], grid[1:, :, 1:]) and torch.allclose(
        grid[:, :-1, :, :-1], grid[:, 1:, :, 1:]
    )


def test_linear_prediction_solved_by_hand():
    images, mask = uniform(2, 3, 4, 6), torch.tensor([[1, 0, 0, 0, 1, 0], [0, 0, 1, 1, 1, 0]], dtype=torch.bool)
    shared = covariance(images).numpy()
    filled = linear(images, mask, (2, 3))
    for b in range(2):
        hidden = np.kron(mask[b].view(2, 3).numpy(), np.ones((2, 2))).astype(bool).ravel()
        x = images[b].double().numpy().reshape(3, -1)
        mean = x[:, ~hidden].mean(1, keepdims=True)
        inner = shared[np.ix_(~hidden, ~hidden)] + 1e-3 * shared[0, 0] * np.eye((~hidden).sum())
        expected = mean + (shared[np.ix_(hidden, ~hidden)] @ np.linalg.solve(inner, (x[:, ~hidden] - mean).T)).T
        assert np.allclose(filled[b].reshape(3, -1)[:, hidden], expected, atol=1e-5)
        assert (filled[b].reshape(3, -1)[:, ~hidden] == images[b].reshape(3, -1)[:, ~hidden]).all()


def test_linear_prediction_sees_no_hidden_pixel_but_in_the_covariance(emoji, monkeypatch):
    mask = drawn("blockwise", 16, (7, 7))
    hidden = masks.pixels(mask, (7, 7), (56, 56))
    other = torch.where(hidden, uniform(*emoji.shape), emoji)
    shared = covariance(small(emoji, (7, 7)))
    monkeypatch.setattr(difficulty, "covariance", lambda images: shared.clone())
    filled, reduced = linear(emoji, mask, (7, 7)), small(emoji, (7, 7))
    assert torch.equal(filled, linear(other, mask, (7, 7)))
    visible = ~masks.pixels(mask, (7, 7), (42, 42)).expand_as(filled)
    assert torch.equal(filled[visible], reduced[visible])
    assert torch.equal(mean_colour(emoji, mask, (7, 7)), mean_colour(other, mask, (7, 7)))
    assert torch.equal(nearest(other, mask, (7, 7)), nearest(emoji, mask, (7, 7)))


def test_images_without_detail_are_filled_exactly():
    images = uniform(2, 3, 1, 1).expand(2, 3, 8, 8).contiguous()
    mask = drawn("random", 2, (4, 4))
    assert torch.allclose(linear(images, mask, (4, 4)), images, atol=1e-6)
    assert all(value > 100 for value in score(images, mask, (4, 4)).values())


def test_small_averages_whole_pixels_of_one_patch():
    images = uniform(1, 3, 56, 84)  # 4 pixels a patch, 48 // 21 = 2 of them kept
    assert torch.allclose(small(images, (14, 21)), images.view(1, 3, 28, 2, 42, 2).mean((3, 5)))
    assert small(uniform(1, 3, 224, 224), (14, 14)).shape == (1, 3, 42, 42)
    assert small(uniform(1, 3, 64, 64), (64, 64)).shape == (1, 3, 64, 64)
    tiny = uniform(1, 3, 28, 42)
    assert torch.equal(small(tiny, (2, 3)), tiny)  # 48 // 3 pixels a patch would be more than its 14
    # 224 / 42 is no whole number, and still no pixel mixes a patch with its neighbour
    lone = torch.zeros(1, 3, 224, 224)
    lone[..., 16:32, 32:48] = 1
    reduced = small(lone, (14, 14))
    assert (reduced[..., 3:6, 6:9] == 1).all() and float(reduced.sum()) == 3 * 9


def test_scores_are_decibels_over_the_hidden_pixels():
    image, mask = row(0.0, 0.1, 0.0, 0.0, hidden=[1], grid=(2, 2))
    found = score(image, mask, (2, 2))
    assert found["psnr mean colour"] == pytest.approx(20) and found["psnr nearest"] == pytest.approx(20)
    image, mask = row(0.0, 0.4, 0.2, 0.4, hidden=[1], grid=(1, 4))
    found = score(image, mask, (1, 4))
    assert found["psnr mean colour"] == pytest.approx(-10 * math.log10(0.2**2))
    assert found["psnr nearest"] == pytest.approx(-10 * math.log10(0.4**2))
    guess = linear(image, mask, (1, 4))[0, 0, :, 2:4]
    assert found["psnr linear"] == pytest.approx(-10 * math.log10(float((guess - 0.4).square().mean())), abs=1e-3)


def test_on_real_images_prediction_beats_copying_and_copying_the_mean(emoji):
    for ratio in (0.5, 0.75):
        found = score(emoji, drawn("random", 16, (14, 14), ratio), (14, 14))
        assert found["psnr linear"] > found["psnr nearest"] + 2 > found["psnr mean colour"] + 2


def test_on_real_images_blocks_are_harder_than_random_masks_and_a_checkerboard_is_easier(emoji):
    easy, even, blocks = (
        score(emoji, drawn(name, 16, (14, 14), **options), (14, 14))
        for name, options in (("split", {"by": "checkerboard"}), ("random", {}), ("blockwise", {}))
    )
    for guess, apart in (("nearest", 0.2), ("linear", 1)):
        assert easy[f"psnr {guess}"] > even[f"psnr {guess}"] + apart
        assert even[f"psnr {guess}"] > blocks[f"psnr {guess}"] + apart


def test_more_visible_patches_make_it_easier(emoji):
    few, many = (score(emoji, drawn("random", 16, (7, 7), ratio), (7, 7)) for ratio in (0.9, 0.4))
    assert many["psnr linear"] > few["psnr linear"] + 2


def test_what_cannot_be_predicted_is_refused():
    images, mask = uniform(2, 3, 8, 8), torch.zeros(2, 16, dtype=torch.bool)
    for bad in (
        uniform(2, 3, 9, 9),
        uniform(2, 3, 8, 12),
        (images * 255).byte(),
        uniform(3, 8, 8),
        uniform(2, 1, 8, 8),
    ):
        with pytest.raises(Refused, match="square patches of whole pixels"):
            score(bad, mask, (4, 4))
    with pytest.raises(Refused, match="no patch is hidden"):
        score(images, mask, (4, 4))
    for f in (mean_colour, nearest, linear, score):
        with pytest.raises(Refused, match="at least one must be visible"):
            f(images, ~mask, (4, 4))
        with pytest.raises(Refused, match=r"is not bool \(2, 16\)"):
            f(images, mask.float(), (4, 4))
        with pytest.raises(Refused, match=r"is not bool \(2, 16\)"):
            f(images, mask[:1], (4, 4))
