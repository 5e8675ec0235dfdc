"""Numbers of single patches, of images, and by distance."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from mimlab.looking import quality
from mimlab.methods import Filled, judged


def test_distance_to_the_nearest_visible_patch_by_hand():
    mask = torch.tensor([[False, True, True, True, True, True], [True, True, True, True, True, False]])
    found = quality.distance(mask, (2, 3))
    assert torch.allclose(found[0], torch.tensor([0, 1, 2, 1, 2**0.5, 5**0.5]))
    assert torch.allclose(found[1], torch.tensor([5**0.5, 2**0.5, 1, 2, 1, 0]))


def test_means_by_distance_have_intervals_from_the_spread_between_images():
    away = torch.tensor([[0.0, 1, 1, 2], [0, 1, 1.4, 0], [0, 1, 1, 1]])
    nan = math.nan
    values = torch.tensor([[nan, 1.0, 2, 7], [nan, 4, 2, nan], [nan, 3, 3, nan]])
    one, two = quality.by_distance(values, away)
    assert (one["distance"], one["patches"], one["mean"]) == (1, 6, 2.5)
    # images say 3 of 2, 6 of 2, 6 of 2 patches: residuals -2, 1, 1 about the mean of 2.5
    assert one["error"] == pytest.approx(1.96 * math.sqrt(6) / 6 * math.sqrt(3 / 2))
    assert two == {"distance": 2, "patches": 1, "mean": 7.0, "error": None}
    assert quality.by_distance(values, away * 0) == []


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Values that differ between images, not only between patches, which a naive interval would miss."""
    random, inside = np.random.default_rng(0), 0
    for _ in range(400):
        values = torch.from_numpy(random.normal(size=(60, 1)) + random.normal(size=(60, 8)))
        (row,) = quality.by_distance(values, torch.ones(60, 8))
        inside += abs(row["mean"]) <= row["error"]
    assert 0.91 < inside / 400 < 0.98


def test_ssim_is_scikit_images_patch_by_patch():
    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    others = (images + 0.1).clamp(0, 1)
    found = quality.ssim(images, others, (3, 3))
    how = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0, "channel_axis": 2}
    _, full = structural_similarity(*(x[1].permute(1, 2, 0).numpy() for x in (images, others)), full=True, **how)
    assert float(found[1, 5]) == pytest.approx(full[8:16, 16:24].mean(), abs=1e-5)
    assert torch.allclose(quality.ssim(images, images, (3, 3)), torch.ones(2, 9))
    assert quality.ssim(images[:, :, :8, :8], others[:, :, :8, :8], (2, 2)).isnan().all()


def test_values_of_patches_and_their_means():
    images, mask = torch.zeros(1, 3, 24, 24), torch.tensor([[True, False, True, False]])
    filled = images.clone()
    filled[:, :, :12, :12] = 0.1  # patch 0: squared error 0.01
    filled[:, :, 12:, 12:] = 1.0  # patch 3, which is visible
    logits = torch.zeros(1, 4, 8)
    logits[0, :, 2] = 1.0
    values = quality.of_patches(images, mask, (2, 2), Filled(filled, ""), judged(logits, torch.tensor([[2, 0, 7, 0]])))
    assert values["squared_error"][0].tolist() == pytest.approx([0.01, math.nan, 0.0, math.nan], nan_ok=True, abs=1e-8)
    assert values["right"][0].tolist() == pytest.approx([1, math.nan, 0, math.nan], nan_ok=True)
    row = quality.whole(values)
    assert row["psnr_hidden"] == pytest.approx(-10 * math.log10(0.005), abs=0.01) and row["psnr_mean_colour"] == 120
    assert row["token_accuracy"] == 0.5 and 0 < row["ssim_hidden"] < 1
    panels = quality.distances(values, quality.distance(mask, (2, 2)))
    assert list(panels) == ["PSNR in dB", "SSIM", "share of tokens", "loss"]
    assert panels["PSNR in dB"]["filled in"][0]["mean"] == pytest.approx(-10 * math.log10(0.005))
    assert quality.whole({}) == {} == quality.distances({}, quality.distance(mask, (2, 2)))
