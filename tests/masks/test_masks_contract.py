"""The mask type: how many, which, and the forms derived from it."""

import re
import sys
import time

import pytest
import torch

from mimlab import masks
from mimlab.errors import Refused
from mimlab.find import find, names

GRIDS = [(2, 2), (3, 3), (14, 14), (4, 7), (1, 8), (8, 1), (10, 24)]
MORE = [(s, s) for s in range(4, 33) if s != 14] + [(14, 10), (3, 11), (2, 3)]


def grids(some, more):
    """The default grids, and those of the slow tests."""
    return pytest.mark.parametrize("grid", [*some, *(pytest.param(g, marks=pytest.mark.slow) for g in more)], ids=str)


CHOICES = {  # options that select another way of ranking
    "centre": [{"inverse": i} for i in (False, True)],
    "grid": [{"by": b} for b in ("units", "windows", "lattice")],
    "multiblock": [{"inverse": i} for i in (False, True)],
    "noise": [{"colour": c} for c in ("green", "blue", "red", "purple")],
    "stripes": [
        {"direction": d, "order": o}
        for d in ("horizontal", "vertical", "diagonal", "random")
        for o in ("even", "random")
    ],
    "attention": [{"hide": h} for h in ("high", "hint", "low")],
    "loss": [{"hide": h} for h in ("hardest", "easiest")],
    "blockwise": [{"sampler": s} for s in ("beit", "cae", "rank")],
    "split": [{"by": b} for b in ("random", "columns", "rows", "checkerboard", "quadrants")],
}
STRATEGIES = [(name, given) for name in names("masks") for given in CHOICES.get(name, [{}])]
every_strategy = pytest.mark.parametrize(("name", "given"), STRATEGIES, ids=str)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def draw(name, batch, grid, ratio, given, seed=0):
    """A sample; strategies that look get random scores."""
    scores = torch.rand(batch, grid[0] * grid[1], generator=seeded(seed + 1000))
    return masks.sample(name, batch, grid, ratio, seeded(seed), scores=scores, **given)


@pytest.mark.parametrize(
    ("n", "ratio", "hidden"),
    [(196, 0.75, 147), (196, 0.5, 98), (196, 0.4, 79), (49, 0.5, 25), (10, 0.9, 9), (10, 0.1, 1), (64, 0.6, 39)],
)
def test_count_keeps_the_floor_of_the_visible_share(n, ratio, hidden):
    assert masks.count(n, ratio) == hidden


@pytest.mark.parametrize("ratio", [0, 1, -0.1, 1.5, float("nan"), "0.5", None, True])
def test_count_refuses_what_is_no_share(ratio):
    with pytest.raises(Refused, match="mask_ratio"):
        masks.count(196, ratio)


def test_count_refuses_to_hide_everything():
    with pytest.raises(Refused, match="hides 4 of 4"):
        masks.count(4, 0.9)


@every_strategy
@grids(GRIDS, MORE)
def test_exact_counts_on_every_grid(name, given, grid):
    n = grid[0] * grid[1]
    for ratio in (0.15, 0.4, 0.5, 0.75):
        if 0 < n - int(n * (1 - ratio) + 1e-9) < n:
            mask = draw(name, 3, grid, ratio, given)
            assert mask.dtype == torch.bool and mask.shape == (3, n)
            assert mask.sum(1).tolist() == [masks.count(n, ratio)] * 3


@every_strategy
@grids([(7, 5)], [(14, 14), (8, 8)])
def test_the_complement_is_a_mask_too(name, given, grid):
    n = grid[0] * grid[1]
    mask = draw(name, 4, grid, 0.5, given)
    assert mask.sum(1).tolist() == [(n + 1) // 2] * 4
    assert (~mask).sum(1).tolist() == [n // 2] * 4


@every_strategy
def test_the_seed_decides(name, given):
    first, again, other = (draw(name, 8, (14, 14), 0.5, given, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@every_strategy
@grids([(4, 4), (14, 10), (1, 8)], [(7, 7), (14, 14), (16, 16), (4, 7)])
def test_every_patch_is_hidden_sometimes_and_seen_sometimes(name, given, grid):
    share = draw(name, 2000, grid, 0.5, given).float().mean(0)
    assert share.min() > 0 and share.max() < 1, share.view(grid)


@every_strategy
def test_wrong_options_are_refused_with_the_choices(name, given):
    with pytest.raises(Refused, match="no option 'nonsense'"):
        draw(name, 2, (4, 4), 0.5, given | {"nonsense": 1})
    with pytest.raises(Refused, match="goal"):
        draw(name, 2, (4, 4), 0.5, given | {"goal": 3})


def test_an_unknown_strategy_is_refused_with_the_nearest():
    with pytest.raises(Refused, match=r"did you mean 'blockwise'.*random"):
        masks.sample("blokwise", 2, (4, 4), 0.5, seeded())


def left_first(batch, grid, generator, *, scores=None, flip=False):
    column = torch.arange(grid[1]).repeat(grid[0]).float()
    return (column if flip else -column).expand(batch, -1)


def test_a_function_of_ones_own():
    mask = masks.sample(left_first, 2, (3, 4), 0.5, seeded())
    assert mask[0].view(3, 4).tolist() == [[True, True, False, False]] * 3
    mask = masks.sample(left_first, 2, (3, 4), 0.5, seeded(), flip=True)
    assert mask[1].view(3, 4).tolist() == [[False, False, True, True]] * 3


def test_a_module_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "own_masks").mkdir()
    (tmp_path / "own_masks" / "__init__.py").write_text("")
    (tmp_path / "own_masks" / "top.py").write_text(
        "import torch\n"
        "def rank(batch, grid, generator, *, goal=None, scores=None):\n"
        "    assert goal == 4\n"
        "    return -torch.arange(8.0).expand(batch, 8)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    mask = masks.sample("own_masks.top", 1, (2, 4), 0.5, seeded())
    assert mask[0].tolist() == [True] * 4 + [False] * 4
    sys.modules.pop("own_masks.top"), sys.modules.pop("own_masks")


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (torch.rand(2, 15), r"\(2, 15\)"),
        (torch.rand(16), r"\(16,\)"),
        (torch.ones(2, 16, dtype=torch.long), "int64"),
        ([[0.0] * 16] * 2, "list"),
        (torch.full((2, 16), float("nan")), "not finite"),
        (torch.full((2, 16), float("inf")), "not finite"),
    ],
)
def test_a_wrong_rank_is_refused_by_name(made, says):
    def mine(batch, grid, generator):
        return made

    with pytest.raises(Refused, match=f"mine.*{says}"):
        masks.sample(mine, 2, (4, 4), 0.5, seeded())


def test_cut_hides_the_highest_and_breaks_ties_in_raster_order():
    rank = torch.tensor([[0.1, 0.9, 0.5, 0.9], [1.0, 1.0, 1.0, 1.0]])
    assert masks.cut(rank, 2).tolist() == [[False, True, False, True], [True, True, False, False]]


def test_ids_take_and_put_agree_with_boolean_indexing():
    mask = draw("random", 5, (4, 7), 0.6, {})
    hidden = masks.count(28, 0.6)
    x = torch.rand(5, 28, 3)
    seen, unseen = masks.visible_ids(mask, 28 - hidden), masks.hidden_ids(mask, hidden)
    assert (seen.diff() > 0).all() and (unseen.diff() > 0).all()  # raster order
    assert torch.equal(masks.take(x, seen), x[~mask].view(5, -1, 3))
    assert torch.equal(masks.take(x, unseen), x[mask].view(5, -1, 3))
    filled = masks.put(masks.take(x, seen), seen, torch.zeros_like(x))
    assert torch.equal(filled, x * ~mask[..., None])


@every_strategy
@grids([(7, 5), (1, 8)], [(4, 4), (14, 14)])
def test_every_count_of_one_draw_is_what_sample_gives(name, given, grid):
    n = grid[0] * grid[1]
    scores = torch.rand(1, n, generator=seeded(5))
    table = masks.every(name, grid, seeded(3), scores, **given)
    assert table.shape == (n - 1, n) and table.dtype == torch.bool
    assert table.sum(1).tolist() == list(range(1, n))
    for ratio in (0.15, 0.3, 0.5, 0.62, 0.75, 0.9):
        if 0 < n - int(n * (1 - ratio) + 1e-9) < n:
            one = masks.sample(name, 1, grid, ratio, seeded(3), scores, **given)
            assert torch.equal(table[masks.count(n, ratio) - 1], one[0])


def test_every_count_of_a_users_strategy_that_knows_its_goal():
    def mine(batch, grid, generator, *, goal):
        noise = torch.rand(batch, grid[0] * grid[1], generator=generator)
        return noise.roll(goal, 1)

    table = masks.every(mine, (3, 4), seeded(1))
    for hidden in range(1, 12):
        ratio = hidden / 12
        assert torch.equal(table[masks.count(12, ratio) - 1], masks.sample(mine, 1, (3, 4), ratio, seeded(1))[0])


@pytest.mark.parametrize(
    ("shape", "at", "share"),
    [("linear", 0.25, 0.3), ("cosine", 0.5, 0.4), ("cosine", 0.25, 0.2 + 0.4 * (1 - 2**-0.5) / 2), ("steps", 0.19, 0.2),
     ("steps", 0.2, 0.3), ("steps", 0.99, 0.6), ("linear", 1.0, 0.6)],
)  # fmt: skip
def test_a_ratio_that_changes(shape, at, share):
    assert masks.ratio(at, 0.2, end=0.6, shape=shape) == pytest.approx(share)
    assert masks.ratio(at, 0.2) == 0.2


def looking(batch, grid, generator, *, scores, upside=False):
    return -scores if upside else scores


def brightness(images, grid):
    return torch.nn.functional.adaptive_avg_pool2d(images.mean(1, keepdim=True), grid).flatten(1)


def test_a_strategy_that_looks_gets_the_images():
    looking.score = brightness
    images = torch.zeros(2, 3, 8, 8)
    images[0, :, :4] = 1
    images[1, :, :, :4] = 1
    mask = masks.sample(looking, 2, (2, 2), 0.5, seeded(), images=images)
    assert mask.tolist() == [[True, True, False, False], [True, False, True, False]]
    dark = masks.sample(looking, 2, (2, 2), 0.5, seeded(), images=images, upside=True)
    assert torch.equal(dark, ~mask)
    with pytest.raises(Refused, match="looks at the images; give `images`"):
        masks.sample(looking, 2, (2, 2), 0.5, seeded())
    masks.check(looking, (2, 2), 0.5, {"upside": True})
    assert masks.looks(looking) and not masks.asks(looking) and list(masks.arguments(looking)) == ["upside"]


def test_a_strategy_that_asks_gets_the_model_in_eval_mode():
    method = torch.nn.Dropout()

    def asking(batch, grid, generator, *, scores):
        return scores

    def score(images, grid, *, method):
        assert not method.training and not torch.is_grad_enabled()
        return method(images[:, 0].flatten(1))

    asking.score = score
    images = torch.rand(2, 3, 2, 2)
    mask = masks.sample(asking, 2, (2, 2), 0.5, seeded(), images=images, method=method)
    assert method.training and torch.equal(mask, masks.cut(images[:, 0].flatten(1), 2))
    with pytest.raises(Refused, match="mask = 'asking' asks a model"):
        masks.sample(asking, 2, (2, 2), 0.5, seeded(), images=images)


def test_put_passes_gradients_to_both():
    mask = draw("random", 2, (2, 3), 0.5, {})
    x, base = torch.rand(2, 3, 4, requires_grad=True), torch.rand(2, 6, 4, requires_grad=True)
    masks.put(x, masks.visible_ids(mask, 3), base).sum().backward()
    assert torch.equal(x.grad, torch.ones(2, 3, 4))
    assert torch.equal(base.grad, mask[..., None].float().expand(2, 6, 4))


def test_pixels_repeats_each_patch():
    mask = draw("random", 2, (2, 3), 0.5, {})
    large = masks.pixels(mask, (2, 3), (8, 12))
    assert large.shape == (2, 1, 8, 12) and large.dtype == torch.bool
    assert torch.equal(large, mask.view(2, 1, 2, 3).repeat_interleave(4, 2).repeat_interleave(4, 3))
    assert masks.pixels(mask, (2, 3), (5, 7)).shape == (2, 1, 5, 7)


LIMIT = 5e-3  # s for 256 masks of 14 x 14, of the fastest of many


@pytest.mark.slow  # seconds, so on a quiet machine
@every_strategy
def test_a_batch_of_masks_costs_next_to_nothing(name, given):
    """Processor time of the fastest of many, which other work on the machine hardly changes; looking costs extra."""
    if masks.looks(name):
        return
    generator, times = seeded(), []
    for _ in range(200):
        start = time.thread_time()
        masks.sample(name, 256, (14, 14), 0.5, generator, **given)
        times.append(time.thread_time() - start)
        if min(times) < LIMIT:
            break
    assert min(times) < LIMIT, f"{min(times) * 1e3:.1f} ms"


def test_every_file_names_its_source():
    for name in names("masks"):
        assert re.search(r"arXiv \d{4}\.\d{5}|section|doi 10\.", find("masks", name).__doc__), name
