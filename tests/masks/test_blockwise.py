"""Block-wise masks against a plain loop over the rule, and against the official generators' statistics."""

import math
import random
import time

import numpy as np
import pytest
import torch
from oracle_cases import cases, load
from scipy import ndimage, stats

from mimlab import masks
from mimlab.errors import Refused
from mimlab.find import options, ranges
from mimlab.masks import blockwise


def statistics(drawn):
    """The oracle's statistics of masks (M, h, w), 0 or 1: one number per mask (or pair of masks) each."""
    drawn = drawn.astype(bool)
    hidden = [ndimage.label(mask) for mask in drawn]  # 4-connected
    pairs = [drawn[:, 1:] == drawn[:, :-1], drawn[:, :, 1:] == drawn[:, :, :-1]]
    return {
        "count": drawn.sum((1, 2)),
        "components": np.array([n for _, n in hidden]),
        "visible_components": np.array([ndimage.label(~mask)[1] for mask in drawn]),
        "same_neighbour": np.concatenate([p.reshape(len(drawn), -1) for p in pairs], 1).mean(1),
        "largest_component": np.array([np.bincount(labels.ravel())[1:].max(initial=0) for labels, _ in hidden]),
        "pair_overlap": (drawn[1:] & drawn[:-1]).sum((1, 2)),
    }


def compare(drawn, stored, config, few=1.0):
    """Means within 6 sqrt(2) standard errors, cell frequencies and histograms as cases.md says.

    `few` widens the bounds for samples that are smaller than the stored ones by that factor.
    """
    got = statistics(drawn)
    for key, error in config["standard_error_of_means"].items():
        name = key.removesuffix("_mean")
        off, bound = abs(got[name].mean() - float(stored[key])), 6 * math.sqrt(1 + few) * error + 1e-9
        print(f"{key}: off by {off / bound:.3g} of the tolerance")
        assert off <= bound, f"{key} = {got[name].mean()}, stored {stored[key]}"
    difference = drawn.mean(0) - stored["cell_frequency"]
    assert np.abs(difference).max() <= 0.07 * math.sqrt(few)
    assert np.sqrt((difference**2).mean()) <= 0.022 * math.sqrt(few)
    for name in got:  # deviations, by the error of a deviation
        values = got[name].astype(float)
        deviation = values.std()
        error = math.sqrt(max(0.0, ((values - values.mean()) ** 4).mean() - deviation**4) / len(values))
        bound = 6 * math.sqrt(1 + few) * error / max(2 * deviation, 1e-12) + 1e-9
        assert abs(deviation - float(stored[f"{name}_std"])) <= bound, f"{name}_std"
    for name in ("count", "components"):
        want = stored[f"{name}_hist"]
        have = np.bincount(got[name], minlength=len(want))
        table = np.stack([have[: len(want)], want])
        rare = table.sum(0) < 10  # taken together, as the test of homogeneity wants it
        table = np.concatenate([table[:, ~rare], table[:, rare].sum(1, keepdims=True)], 1)
        table = table[:, table.sum(0) > 0]
        chance = stats.chi2_contingency(table).pvalue if table.shape[1] > 1 else 1.0
        print(f"{name}_hist: p = {chance:.3g}")
        assert chance > 1e-7 and len(have) == len(want)
    low, high = int(stored["count_min"]), int(stored["count_max"])
    most = 20 * (1 + few)  # as many of as many lie beyond the extremes with a chance below 1e-8
    assert (got["count"] < low).sum() <= most and (got["count"] > high).sum() <= most


def consistent(stored, config):
    """What is stored of the same masks fits together: moments and ends of the histograms, the frequency of cells."""
    for name in ("count", "components"):
        seen = np.repeat(np.arange(len(stored[f"{name}_hist"])), stored[f"{name}_hist"].astype(int))
        assert len(seen) == config["n_masks"]
        assert float(stored[f"{name}_mean"]) == pytest.approx(seen.mean(), rel=1e-9)
        assert float(stored[f"{name}_std"]) == pytest.approx(seen.std(), rel=1e-6, abs=1e-9)
    ends = np.flatnonzero(stored["count_hist"])
    assert (float(stored["count_min"]), float(stored["count_max"])) == (ends[0], ends[-1])
    assert stored["cell_frequency"].sum() == pytest.approx(float(stored["count_mean"]), rel=1e-6)
    for name, value in config["means"].items():
        assert float(stored[name]) == pytest.approx(value, rel=1e-9)


def settings(config):
    """Grid, goal and options of a stored case."""
    given = config["arguments"]
    size = given["input_size"]
    grid = (size, size) if isinstance(size, int) else tuple(size)
    aspect = given.get("min_aspect") or config.get("defaults", {}).get("min_aspect", 0.3)
    return (
        grid,
        given["num_masking_patches"],
        {
            "min_block": given.get("min_num_patches", 4),  # the official default
            "max_block": given.get("max_num_patches"),
            "aspect": (aspect, given.get("max_aspect") or 1 / aspect),
        },
    )


@pytest.mark.parametrize("name", cases("beit_masks") + cases("cae_masks"))
def test_statistics_of_the_official_generators(name):
    _, stored, config = load(name)
    grid, goal, given = settings(config)
    sampler = name.split("_")[0]
    assert stored["cell_frequency"].shape == grid

    few = config["n_masks"] / len(stored["masks"])
    consistent(stored, config)
    compare(stored["masks"].astype(float), stored, config, few)  # the statistics themselves, on stored masks

    generator = torch.Generator().manual_seed(7)
    drawn = blockwise.blocks(config["n_masks"], grid, goal, generator, sampler=sampler, **given)
    assert drawn.dtype == torch.bool and drawn.shape == (config["n_masks"], grid[0] * grid[1])
    counts = drawn.sum(1)
    assert (counts <= goal).all() if sampler == "beit" else (counts == goal).all()
    compare(drawn.view(-1, *grid).numpy().astype(float), stored, config)


@pytest.mark.parametrize("name", cases("cae_masks"))
@pytest.mark.parametrize("sampler", ["beit", "cae"])
def test_sampled_masks_follow_the_exact_rule(name, sampler):
    _, stored, config = load(name)
    grid, goal, given = settings(config)
    generator = torch.Generator().manual_seed(8)
    rank = blockwise.rank(config["n_masks"], grid, generator, goal=goal, sampler=sampler, **given)
    compare(masks.cut(rank, goal).view(-1, *grid).numpy().astype(float), stored, config)


@pytest.mark.parametrize("grid", [(4, 9), (9, 4)])
def test_no_block_spans_the_grid(grid):
    given = {"max_block": 16, "aspect": (1.0, 1.0)}
    square = blockwise.blocks(50, grid, 9, torch.Generator().manual_seed(0), min_block=9, **given).view(-1, *grid)
    rows, columns = square.any(2), square.any(1)
    assert (rows.sum(1) == 3).all() and (columns.sum(1) == 3).all()  # strictly smaller, but as large as that
    assert (square == (rows[:, :, None] & columns[:, None, :])).all()
    assert not blockwise.blocks(50, grid, 16, torch.Generator().manual_seed(0), min_block=16, **given).any()


@pytest.mark.parametrize("grid", [(4, 4), (3, 9), (14, 14)])
def test_the_first_block_of_a_rank_is_a_rectangle_that_does_not_span(grid):
    n = grid[0] * grid[1]
    generator = torch.Generator().manual_seed(0)
    rank = blockwise.rank(3000, grid, generator, sampler="rank", min_block=max(1, n // 4), max_block=n)
    level = rank.floor()  # one whole number per block
    first = (level == level.amax(1, keepdim=True)).view(-1, *grid)
    rows, columns = first.any(2), first.any(1)
    assert (first == (rows[:, :, None] & columns[:, None, :])).all()
    assert rows.sum(1).max() == grid[0] - 1
    assert columns.sum(1).max() < grid[1]


def one_by_one(h, w, goal, low, high, rng):
    """BEiT's rule as a plain loop, written from the words of the module."""
    mask = np.zeros((h, w), bool)
    while mask.sum() < goal:
        cap = min(goal - mask.sum(), high)
        for _ in range(10):
            area, aspect = rng.uniform(low, cap), math.exp(rng.uniform(math.log(0.3), math.log(1 / 0.3)))
            bh, bw = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if bh < h and bw < w:
                top, left = rng.randint(0, h - bh), rng.randint(0, w - bw)
                new = bh * bw - mask[top : top + bh, left : left + bw].sum()
                if 0 < new <= cap:
                    mask[top : top + bh, left : left + bw] = True
                    break
        else:
            return mask
    return mask


@pytest.mark.parametrize(
    ("grid", "goal", "low", "high"),
    [
        ((7, 12), 40, 8, 20),
        pytest.param((8, 8), 26, 5, 26, marks=pytest.mark.slow),
        pytest.param((14, 14), 98, 16, 75, marks=pytest.mark.slow),
    ],
)
def test_batched_is_the_same_distribution_as_one_by_one(grid, goal, low, high):
    rng = random.Random(0)
    loop = np.stack([one_by_one(*grid, goal, low, high, rng) for _ in range(1500)])
    batched = blockwise.blocks(4000, grid, goal, torch.Generator().manual_seed(0), min_block=low, max_block=high)
    batched = batched.view(-1, *grid).numpy()
    want, got = statistics(loop), statistics(batched)
    for key in want:
        error = math.sqrt(want[key].var() / len(loop) + got[key].var() / len(batched)) * (2 if "overlap" in key else 1)
        assert abs(want[key].mean() - got[key].mean()) < 4.5 * error + 1e-9, key
    spread = np.sqrt(loop.mean(0) * (1 - loop.mean(0)) * (1 / len(loop) + 1 / len(batched))) + 1e-3
    assert (np.abs(loop.mean(0) - batched.mean(0)) / spread).max() < 4.5


def test_beit_falls_short_as_published_and_the_rank_does_not():
    short = blockwise.blocks(5000, (14, 14), 75, torch.Generator().manual_seed(0), min_block=16).sum(1)
    assert 0.64 < (short == 75).float().mean() < 0.70  # papers: 67 to 68 % of draws reach the goal
    assert short.max() == 75 and short.min() >= 60


@pytest.mark.parametrize("grid", [(1, 8), (8, 1), (2, 2), (2, 9)])
def test_cae_is_exact_where_blocks_cannot_be(grid):
    n = grid[0] * grid[1]
    for goal in range(1, n):
        drawn = blockwise.blocks(8, grid, goal, torch.Generator().manual_seed(0), min_block=1, sampler="cae")
        assert (drawn.sum(1) == goal).all()


@pytest.mark.parametrize("sampler", ["beit", "cae", "rank"])
def test_masks_are_blocks_not_dust(sampler):
    drawn = masks.sample("blockwise", 300, (14, 14), 0.4, torch.Generator().manual_seed(0), sampler=sampler)
    got = statistics(drawn.view(-1, 14, 14).numpy())
    assert got["components"].mean() < 3 and got["same_neighbour"].mean() > 0.85


def test_one_rank_may_be_cut_anywhere():
    rank = blockwise.rank(200, (14, 14), torch.Generator().manual_seed(0), sampler="rank")
    before = torch.zeros(200, 196, dtype=torch.bool)
    for hidden in (10, 60, 98, 147, 180):
        mask = masks.cut(rank, hidden)
        assert (mask.sum(1) == hidden).all() and (before <= mask).all()
        before = mask
    first = masks.cut(rank, 12).view(-1, 14, 14).numpy()  # inside the first block: one piece
    assert (statistics(first)["components"] == 1).mean() > 0.95


def test_a_block_is_cut_along_a_side_drawn_at_random():
    rank = blockwise.rank(2000, (14, 14), torch.Generator().manual_seed(0), sampler="rank")
    first, second = rank.argsort(dim=1, descending=True)[:, :2].T
    steps, times = (second - first).unique(return_counts=True)
    assert steps.tolist() == [-14, -1, 1, 14]  # up, left, right, down
    assert times.min() > 400  # 500 expected, standard deviation 19


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"sampler": "bait"}, "did you mean 'beit'.*cae, rank"),
        ({"min_block": 99}, "min_block = 99.*98"),
        ({"min_block": 20, "max_block": 10}, "min_block = 20.*max_block = 10"),
        ({"min_block": 0}, "min_block = 0"),
        ({"max_block": 2.5}, "max_block = 2.5"),
        ({"aspect": 0}, "aspect = 0"),
        ({"aspect": 3.0}, "aspect = 3.0"),
    ],
)
def test_impossible_settings_are_refused(given, says):
    with pytest.raises(Refused, match=says):
        masks.sample("blockwise", 2, (14, 14), 0.5, torch.Generator(), **given)


@pytest.mark.parametrize("aspect", ["wide", None, 0, 1.5, math.nan, (0.5,), (2.0, 0.5), (0.5, math.inf), (0.5, "wide")])
def test_an_aspect_is_a_ratio_or_a_rising_pair(aspect):
    with pytest.raises(Refused, match="aspect = .* is not a ratio in .* or a pair"):
        blockwise.rank(2, (14, 14), torch.Generator(), goal=98, aspect=aspect)


def test_one_aspect_is_the_pair_with_its_inverse():
    drawn = [
        blockwise.rank(8, (14, 14), torch.Generator().manual_seed(0), goal=98, aspect=aspect)
        for aspect in (0.25, (0.25, 4.0), (0.25, 1.0))
    ]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_a_goal_is_needed_or_the_sampler_that_needs_none():
    with pytest.raises(Refused, match="'rank' does not"):
        blockwise.rank(2, (14, 14), torch.Generator())


GRIDS = [
    (4, 4), (7, 7), (1, 8), (2, 9), *(pytest.param(grid, marks=pytest.mark.slow) for grid in [(14, 14), (14, 10), (16, 16)])
]  # fmt: skip


@pytest.mark.parametrize("given", [{"sampler": "beit"}, {"sampler": "cae", "max_block": 75 / 196}, {"sampler": "rank"}])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_all_counts_from_one_draw_are_the_samples_at_each_count(grid, given):
    n = grid[0] * grid[1]
    for seed in range(3):
        found = blockwise.goals(grid, torch.Generator().manual_seed(seed), torch.arange(1, n), **given)
        assert found.dtype == torch.bool and found.shape == (n - 1, n)
        assert found.sum(1).tolist() == list(range(1, n))
        for count in {1, 2, n - 2, n - 1, *range(3 + seed, n, max(1, n // 12))}:
            generator = torch.Generator().manual_seed(seed)
            assert torch.equal(found[count - 1], masks.sample("blockwise", 1, grid, count / n, generator, **given)[0])


def test_counts_that_blocks_cannot_reach_are_filled_alike():
    given = {"min_block": 1, "aspect": (4.0, 4.0)}  # area 1 is no cell wide, so that one missing cell is never covered
    drawn = blockwise.blocks(99, (7, 7), 24, torch.Generator().manual_seed(0), **given).sum(1)
    assert (drawn == 23).sum() > 9
    found = blockwise.goals((7, 7), torch.Generator().manual_seed(0), torch.arange(1, 49), **given)
    for goal in range(20, 49, 4):
        alone = blockwise.rank(1, (7, 7), torch.Generator().manual_seed(0), goal=goal, **given)
        assert torch.equal(found[goal - 1], masks.cut(alone, goal)[0])


@pytest.mark.parametrize("sampler", ["beit", "cae", "rank"])
def test_a_row_does_not_depend_on_the_other_counts(sampler):
    every, some = (
        blockwise.goals((14, 14), torch.Generator().manual_seed(0), counts, sampler=sampler)
        for counts in (torch.arange(1, 196), torch.tensor([150, 7, 98, 98]))
    )
    assert torch.equal(some, every[[149, 6, 97, 97]])


def test_a_count_below_min_block_gets_smaller_blocks():
    given = {"min_block": 0.3, "aspect": 0.9}
    found = blockwise.goals((14, 14), torch.Generator().manual_seed(0), torch.arange(1, 196), **given)
    assert found.sum(1).tolist() == list(range(1, 196))
    with pytest.raises(Refused, match="min_block = 59 is more than the 58"):
        masks.sample("blockwise", 1, (14, 14), 58 / 196, torch.Generator(), **given)
    with pytest.raises(Refused, match="min_block = 59 is more than the 58"):
        blockwise.goals((14, 14), torch.Generator(), torch.tensor([20, 58]), **given)


def test_all_counts_cost_few_samples():
    generator, counts = torch.Generator().manual_seed(0), torch.arange(1, 196)
    one = fastest(lambda: masks.sample("blockwise", 1, (14, 14), 0.5, generator))
    every = fastest(lambda: blockwise.goals((14, 14), generator, counts))
    assert every < 40 * one  # one by one: 195


def fastest(call):
    """The least seconds of ten calls."""
    times = []
    for _ in range(10):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def test_the_options_say_what_a_slider_needs():
    found = ranges(blockwise.rank)
    assert found["sampler"].choices == ("beit", "cae", "rank")
    for name in ("min_block", "max_block"):
        assert (found[name].kind, found[name].low, found[name].high) == (float, 0.02, 0.6)
        assert found[name].none and found[name].mixed
    assert (found["aspect"].kind, found["aspect"].low, found["aspect"].high) == (float, 0.1, 1.0)
    assert options(blockwise.goals) == {k: v for k, v in options(blockwise.rank).items() if k != "goal"}


def test_a_share_of_the_grid_is_that_many_patches():
    drawn = [
        masks.sample("blockwise", 4, (14, 14), 0.5, torch.Generator().manual_seed(0), **given)
        for given in ({"min_block": 16, "max_block": 75}, {"min_block": 16 / 196, "max_block": 75 / 196}, {})
    ]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
