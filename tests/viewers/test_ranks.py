"""What the browser gets to know about masks is what `masks.sample` hides."""

import base64
import json
from typing import Annotated, Literal

import numpy as np
import pytest
import torch

from mimlab import find, masks
from mimlab.distributed import generator_for
from mimlab.errors import Refused
from mimlab.viewers import ranks

GRIDS = [(14, 14), (4, 4), (7, 5), (1, 8)]


def shown(entry, count, percent):
    """A mask as mask_explorer.js reads it, list of 0 and 1; written for this test alone."""
    if "order" in entry:
        raw = base64.b64decode(entry["order"])
        places = [raw[k] + 256 * raw[k + 1] for k in range(0, len(raw), 2)]
        return [int(place < count) for place in places]
    raw = base64.b64decode(entry["bits"])
    row = len(raw) // 101
    return [raw[percent * row + (p >> 3)] >> (p & 7) & 1 for p in range(8 * row)]


def rows_first(batch, grid, generator):
    """Whole rows first. And a second sentence."""
    return torch.rand(batch, grid[0], 1, generator=generator).expand(-1, -1, grid[1]).flatten(1)


def jumpy(batch, grid, generator, *, goal=None, shift: Annotated[int, (0, 3)] = 0):
    """Another mask at every count."""
    return torch.rand(batch, grid[0] * grid[1], generator=generator).roll(goal + shift, 1)


def called(value):
    """The same in each process: a function's text holds its address."""
    return getattr(value, "__name__", str(value))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("strategy", [*find.names("masks"), rows_first, jumpy], ids=called)
def test_every_ratio_and_seed_is_what_sample_hides(strategy, grid):
    n = grid[0] * grid[1]
    scores = torch.rand(1, n, generator=torch.Generator().manual_seed(5)) if masks.looks(strategy) else None
    counts = ranks.counts(n)
    for seed in (0, 1, 123456789):
        entry = ranks.entry(strategy, seed, grid, {}, scores)
        for percent in (1, 7, 25, 40, 50, 51, 75, 88, 99) if grid != (14, 14) or seed else range(101):
            if counts[percent] is None:
                continue
            generator = generator_for(seed, 0, "mask")
            want = masks.sample(strategy, 1, grid, percent / 100, generator, scores=scores)[0]
            assert shown(entry, counts[percent], percent)[:n] == want.int().tolist(), (seed, percent)
            assert torch.equal(ranks.mask_in(entry, percent, n), want)
            assert torch.equal(ranks.mask_of(strategy, seed, grid, percent / 100, {}, scores), want)


@pytest.mark.parametrize(
    ("strategy", "args"),
    [
        ("blockwise", {"sampler": "cae", "max_block": 75 / 196}),
        ("blockwise", {"sampler": "rank"}),
        ("split", {"by": "quadrants"}),
        (jumpy, {"shift": 2}),
    ],
    ids=called,
)
def test_options_reach_the_strategy(strategy, args):
    entry = ranks.entry(strategy, 3, (14, 14), args)
    for percent in (10, 50, 75):
        want = ranks.mask_of(strategy, 3, (14, 14), percent / 100, args)
        assert torch.equal(ranks.mask_in(entry, percent, 196), want)
    assert entry != ranks.entry(strategy, 3, (14, 14))


def test_nested_masks_travel_as_places_and_others_as_bits():
    assert len(base64.b64decode(ranks.entry("random", 0, (14, 14))["order"])) == 2 * 196
    assert len(base64.b64decode(ranks.entry("blockwise", 0, (14, 14))["bits"])) == 101 * 25
    assert "order" in ranks.entry("blockwise", 0, (14, 14), {"sampler": "rank"})
    places = np.frombuffer(base64.b64decode(ranks.entry("random", 0, (7, 5))["order"]), "<u2")
    assert sorted(places) == list(range(35))


def test_rows_without_a_mask_are_empty():
    entry, counts = ranks.entry(jumpy, 0, (2, 2)), ranks.counts(4)
    assert counts[0] is None and counts[1] == 1 and counts[75] == 3 and counts[76] is None and len(counts) == 101
    assert [sum(shown(entry, None, percent)) for percent in (0, 1, 75, 76, 100)] == [0, 1, 3, 0, 0]


def test_a_strategy_that_fails_becomes_one_line():
    def short(batch, grid, generator):
        return torch.rand(batch, 3)

    def broken(batch, grid, generator):
        raise RuntimeError("no\nluck\n  today")

    assert "short" in ranks.entry(short, 0, (4, 4))["error"] and "(1, 3)" in ranks.entry(short, 0, (4, 4))["error"]
    assert ranks.entry(broken, 0, (4, 4)) == {"error": "RuntimeError: no luck today"}
    assert "no option 'by'" in ranks.entry("random", 0, (4, 4), {"by": 1})["error"]
    assert "from 0 to 3" in ranks.entry(jumpy, 0, (4, 4), {"shift": 9})["error"]
    with pytest.raises(Refused, match="no luck"):
        ranks.mask_in(ranks.entry(broken, 0, (4, 4)), 50, 16)


def options(batch, grid, generator, *, by: Literal["a", "b"] = "a", share: Annotated[float, (0.1, 2.0, 0.1)] = 1.0,
            most: Annotated[int | None, (1, 9)] = None, deep=False, word="x", any=None):  # fmt: skip
    return torch.rand(batch, grid[0] * grid[1], generator=generator)


def test_keys_by_hand():
    strategy = ranks.named([options], options)["options"]
    assert ranks.key(strategy, 0, {}) == "options|0|{}"
    assert ranks.key(strategy, 7, {"share": 1, "by": "a", "most": None, "deep": False}) == "options|7|{}"
    assert ranks.key(strategy, 7, {"share": 0.5, "by": "b"}) == 'options|7|{"by":"b","share":0.5}'
    assert ranks.key(strategy, 1, {"most": 3.0, "deep": True}) == 'options|1|{"deep":true,"most":3}'
    assert ranks.key(strategy, 1, {"share": 1e-05, "word": "é\n"}) == 'options|1|{"share":0.00001,"word":"é\\n"}'
    assert ranks.key(strategy, 1, {"share": 1e-07, "any": (0.3, 2.0)}) == 'options|1|{"any":[0.3,2],"share":1e-7}'
    plain = {"by": "b", "share": 0.25, "most": 4}
    text = json.dumps(plain, separators=(",", ":"), sort_keys=True)
    assert ranks.key(strategy, 2, plain) == f"options|2|{text}"


def test_the_menu_describes_every_option():
    strategies = ranks.named([options, "random", "attention"], "split")
    found = {item["name"]: item for item in ranks.menu(strategies)}
    assert list(found) == ["options", "random", "attention", "split"]
    assert found["options"]["options"] == [
        {"name": "by", "kind": "choice", "low": None, "high": None, "step": None, "choices": ["a", "b"], "default": "a", "none": False},
        {"name": "share", "kind": "float", "low": 0.1, "high": 2.0, "step": 0.1, "choices": [], "default": 1, "none": False},
        {"name": "most", "kind": "int", "low": 1, "high": 9, "step": 1, "choices": [], "default": None, "none": True},
        {"name": "deep", "kind": "bool", "low": None, "high": None, "step": None, "choices": [], "default": False, "none": False},
        {"name": "word", "kind": "text", "low": None, "high": None, "step": None, "choices": [], "default": "x", "none": False},
    ]  # fmt: skip
    assert found["options"]["function"] and not found["random"]["function"]
    assert found["attention"]["looks"] and not found["random"]["looks"]
    assert "run" in found["attention"]["blocked"] and found["random"]["blocked"] is None
    assert not any(item["blocked"] for item in ranks.menu(strategies, method=True))
    assert found["random"]["about"] == "Uniform random masking: every set of patches is equally likely."
    assert ranks.menu(ranks.named([rows_first], rows_first))[0]["about"] == "Whole rows first."
    json.dumps(ranks.menu(ranks.named(None, "random")), allow_nan=False)


def test_strategies_are_named_by_list_text_and_function():
    assert set(ranks.named(None, "random")) == set(ranks.named("all", "random")) == set(find.names("masks"))
    assert list(ranks.named("random, split", "blockwise")) == ["random", "split", "blockwise"]
    assert list(ranks.named(["random", rows_first], rows_first)) == ["random", "rows_first"]
    assert list(ranks.named(rows_first, "random")) == ["rows_first", "random"]


def test_strategies_that_cannot_be_named_are_refused():
    def random(batch, grid, generator):
        return torch.rand(batch, grid[0] * grid[1], generator=generator)

    with pytest.raises(Refused, match="two are called 'random'"):
        ranks.named(["random", random], "split")
    with pytest.raises(Refused, match="did you mean 'random'"):
        ranks.named("randon", "split")
    with pytest.raises(Refused, match="__name__"):
        ranks.named([torch.nn.Identity()], "split")


@pytest.mark.parametrize("n", [1, 8, 16, 35, 196])
def test_packed_and_unpacked_are_inverse(n):
    mask = torch.rand(n, generator=torch.Generator().manual_seed(n)) < 0.5
    assert len(base64.b64decode(ranks.packed(mask))) == -(-n // 8)
    assert torch.equal(ranks.unpacked(ranks.packed(mask), n), mask)
