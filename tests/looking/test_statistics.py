import math
import time

import numpy as np
import pytest
import torch

from mimlab import masks
from mimlab.errors import Refused
from mimlab.looking.statistics import UNITS, often, on_grid, spectrum, summary

GRID = (3, 4)
CHECKERBOARD = (np.indices((4, 4)).sum(0) % 2).astype(bool).reshape(1, -1)
LEFT = np.broadcast_to(np.arange(4) < 2, (4, 4)).reshape(1, -1)  # two of four columns
BLOCK = np.zeros((5, 5), bool)
BLOCK[1:4, 1:4] = True
BLOCK = BLOCK.reshape(1, -1)


def drawn(strategy, count, grid, ratio=0.5, **options):
    return masks.sample(strategy, count, grid, ratio, torch.Generator().manual_seed(0), **options)


def test_a_corner_and_a_single_patch_counted_by_hand():
    mask = torch.tensor([[1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1]], dtype=torch.bool)
    found = summary(mask, GRID)  # a corner of three (0, 1 and 4) and the single patch 11
    away = np.hypot(*np.meshgrid([-1, 0, 1], [-1.5, -0.5, 0.5, 1.5], indexing="ij")).ravel()
    expected = {
        "ratio": 4 / 12,
        "hidden": 4,
        "regions": 2,
        "region size": 2,
        "largest region": 3 / 4,
        "hidden neighbours": 4 / (2 + 3 + 3 + 2),
        "distance to visible": (math.sqrt(2) + 1 + 1 + 1) / 4,
        "farthest": math.sqrt(2),
        "distance to centre": away[[0, 1, 4, 11]].mean() / away.mean(),
        "agreement": math.nan,  # one mask has no next
        "kappa": math.nan,
    }
    assert found == pytest.approx(expected, nan_ok=True) and list(found) == list(UNITS)


def test_a_checkerboard_and_its_complement():
    found = summary(np.concatenate([CHECKERBOARD, ~CHECKERBOARD]), (4, 4))
    assert (found["regions"], found["region size"], found["largest region"]) == (8, 1, 1 / 8)
    assert (found["hidden neighbours"], found["distance to visible"], found["farthest"]) == (0, 1, 1)
    assert found["distance to centre"] == pytest.approx(1)
    assert (found["agreement"], found["kappa"]) == (0, -1)  # nowhere alike, though chance would give half
    same = summary(np.concatenate([CHECKERBOARD, CHECKERBOARD]), (4, 4))
    assert (same["agreement"], same["kappa"]) == (1, 1)


def test_half_a_plane():
    found = summary(LEFT, (4, 4))
    assert (found["regions"], found["region size"], found["largest region"]) == (1, 8, 1)
    # the border column has 10 neighbours, the inner one 14, of which 4 are visible
    assert found["hidden neighbours"] == pytest.approx(20 / 24)
    assert (found["distance to visible"], found["farthest"]) == (1.5, 2)
    assert found["distance to centre"] == pytest.approx(1)


def test_a_block_in_the_middle_and_its_complement():
    away = np.hypot(*np.indices((5, 5)) - 2)
    inner, outer = summary(BLOCK, (5, 5)), summary(~BLOCK, (5, 5))
    assert inner["distance to visible"] == pytest.approx((2 + 8 * 1) / 9) and inner["farthest"] == 2
    assert outer["distance to visible"] == pytest.approx((12 * 1 + 4 * math.sqrt(2)) / 16)
    assert outer["farthest"] == pytest.approx(math.sqrt(2))
    assert inner["hidden neighbours"] == pytest.approx(24 / 36)  # 12 of the 36 lead outside
    assert inner["distance to centre"] == pytest.approx((4 + 4 * math.sqrt(2)) / 9 / away.mean())
    assert (outer["regions"], outer["region size"]) == (1, 16)


def test_means_are_over_masks_and_regions_over_regions():
    four = np.zeros((1, 16), bool)
    four[0, [0, 5, 10, 15]] = True  # a diagonal: four regions of one
    found = summary(np.concatenate([LEFT, four]), (4, 4))
    assert (found["ratio"], found["hidden"]) == (12 / 32, 6)
    assert (found["regions"], found["region size"]) == (5 / 2, 12 / 5)
    assert found["largest region"] == (8 + 1) / 12
    assert (found["distance to visible"], found["farthest"]) == ((8 * 1.5 + 4 * 1) / 12, 1.5)
    assert found["agreement"] == 8 / 16  # two of the diagonal lie in the left half: 6 hidden there alone, 2 here alone
    chance = (12 / 32) ** 2 + (20 / 32) ** 2
    assert found["kappa"] == pytest.approx((8 / 16 - chance) / (1 - chance))


def test_regions_do_not_connect_across_masks_and_full_masks_have_no_distance():
    full = torch.ones(3, 12, dtype=torch.bool)
    found = summary(full, GRID)
    assert (found["regions"], found["hidden neighbours"], found["largest region"]) == (1, 1, 1)
    assert math.isnan(found["distance to visible"]) and math.isnan(found["farthest"]) and math.isnan(found["kappa"])
    most = summary(torch.cat([full, ~full[:1]]), GRID)
    assert most["regions"] == 3 / 4 and math.isnan(most["distance to visible"])
    one = torch.cat([full, torch.arange(12)[None] == 0])  # of four masks only the last has a distance
    assert summary(one, GRID)["distance to visible"] == 1
    none = summary(~full, GRID)
    assert (none["hidden"], none["regions"]) == (0, 0)
    assert all(math.isnan(none[name]) for name in ("region size", "largest region", "hidden neighbours", "farthest"))


def test_random_masks_agree_by_chance_and_blocks_do_not():
    even, blocks = (summary(drawn(name, 1000, (14, 14)), (14, 14)) for name in ("random", "blockwise"))
    assert abs(even["kappa"]) < 0.02 and even["agreement"] == pytest.approx(0.5, abs=0.01)
    # of 196 exactly 98 hidden: a neighbour of a hidden patch is one of the 97 others
    assert even["hidden neighbours"] == pytest.approx(97 / 195, abs=0.005)
    assert even["distance to centre"] == pytest.approx(1, abs=0.01)
    assert blocks["kappa"] > 0.1 and blocks["distance to centre"] < 0.9  # they prefer the middle
    assert blocks["regions"] < even["regions"] / 5 and blocks["farthest"] > 2 * even["farthest"]


def test_often_counts_each_cell():
    mask = np.zeros((4, 12), bool)
    mask[:, 5] = mask[0, 11] = True
    expected = np.zeros(GRID)
    expected[1, 1], expected[2, 3] = 1, 0.25
    assert (often(torch.from_numpy(mask), GRID) == expected).all()


def test_random_masks_have_a_flat_spectrum_at_any_ratio_on_any_grid():
    for grid, ratio in (((14, 14), 0.5), ((14, 10), 0.75), ((4, 16), 0.25)):
        frequencies, power = spectrum(drawn("random", 3000, grid, ratio), grid)
        assert np.allclose(power, 1, atol=0.06)
        assert frequencies[0] < 1.5 / max(grid) and 0.66 < frequencies[-1] < 0.7072
        assert (np.diff(frequencies) > 0).all()


def test_a_checkerboard_lies_at_the_highest_frequency():
    board = (np.indices((8, 8)).sum(0) % 2).astype(bool).reshape(1, -1)
    frequencies, power = spectrum(board, (8, 8))
    assert frequencies[-1] == pytest.approx(math.sqrt(0.5)) and power[-1] == pytest.approx(63)
    assert np.allclose(power[:-1], 0)


def test_frequencies_count_patches_along_both_sides():
    """Stripes of a period of four patches have all their power at 1/4, on whichever side of whichever grid."""
    for grid in ((8, 8), (4, 16), (16, 4), (8, 12)):
        for axis in (0, 1):
            stripes = (np.indices(grid)[axis] // 2 % 2).astype(bool).reshape(1, -1)
            frequencies, power = spectrum(stripes, grid)
            peak = np.flatnonzero(power > 1e-9)
            assert len(peak) == 1 and abs(frequencies[peak[0]] - 0.25) < 0.5 / max(grid)
    # on 8 x 8, twelve frequencies share the ring: 4 of length 2/8 and 8 of length sqrt(5)/8
    stripes = (np.indices((8, 8))[0] // 2 % 2).astype(bool).reshape(1, -1)
    frequencies, power = spectrum(stripes, (8, 8))
    assert (frequencies[1], power[1]) == pytest.approx(((4 * 2 + 8 * math.sqrt(5)) / 96, 63 / 12))


def test_a_mask_and_its_complement_and_a_turned_grid_have_the_same_spectrum():
    mask = drawn("blockwise", 50, (6, 10))
    frequencies, power = spectrum(mask, (6, 10))
    turned = mask.view(-1, 6, 10).transpose(1, 2).reshape(50, -1)
    for other, grid in ((~mask, (6, 10)), (turned, (10, 6))):
        assert np.allclose(spectrum(other, grid), (frequencies, power))


def test_blocks_lie_above_random_masks_at_low_frequencies_and_below_at_high_ones():
    _, power = spectrum(drawn("blockwise", 500, (14, 14)), (14, 14))
    assert power[0] > 5 and power[1] > 1.5 and (power[-4:] < 0.3).all()


def test_masks_without_both_kinds_of_patch_have_no_spectrum():
    assert np.isnan(spectrum(np.ones((3, 12), bool), GRID)[1]).all()


@pytest.mark.slow  # seconds, so on a quiet machine
def test_a_thousand_masks_take_a_moment():
    mask, times = drawn("random", 1000, (14, 14)), []
    for _ in range(3):
        start = time.perf_counter()
        summary(mask, (14, 14)), spectrum(mask, (14, 14)), often(mask, (14, 14))
        times.append(time.perf_counter() - start)
    assert min(times) < 0.3


@pytest.mark.parametrize(
    "bad", [torch.zeros(2, 12), torch.zeros(2, 9, dtype=torch.bool), np.zeros((0, 12), bool), np.zeros(12, bool)]
)
def test_what_is_no_mask_is_refused(bad):
    for f in (summary, often, spectrum, on_grid):
        with pytest.raises(Refused, match=r"is not bool \(M, 12\)"):
            f(bad, GRID)
