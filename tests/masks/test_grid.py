"""Units are whole, windows balanced and lattices regular, at every count."""

import pytest
import torch
from oracle_cases import cases, load

from mimlab import masks
from mimlab.errors import Refused
from mimlab.masks import grid as strategy


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def cells(grid, unit):
    """Indices of the patches of every unit, in raster order of the units."""
    h, w = grid
    place = torch.arange(h * w).view(h, w)
    return [
        place[top : top + unit, left : left + unit].flatten() for top in range(0, h, unit) for left in range(0, w, unit)
    ]


def hidden_in(mask, units):
    """(B, U) how many patches of each unit are hidden."""
    inside = torch.stack([torch.zeros(mask.shape[1]).index_fill(0, unit, 1.0) for unit in units], dim=1)
    return mask.float() @ inside


@pytest.mark.parametrize(("grid", "unit"), [((14, 14), 2), ((14, 14), 3), ((7, 5), 2), ((9, 12), 4), ((1, 8), 3)])
def test_units_hide_as_a_whole_but_for_one(grid, unit):
    rank, units = strategy.rank(20, grid, seeded(), unit=unit), cells(grid, unit)
    sizes = torch.tensor([len(one) for one in units])
    found = torch.stack([hidden_in(masks.cut(rank, hidden), units) for hidden in range(1, grid[0] * grid[1])])
    assert (((found > 0) & (found < sizes)).sum(2) <= 1).all()


def test_any_two_of_four_units_are_equally_likely():
    mask = masks.sample("grid", 6000, (4, 6), 0.5, seeded(), unit=3)  # two by two units of 2 x 3, as 3 exceeds half
    first = torch.stack([mask.view(-1, 4, 6)[:, top, left] for top in (0, 2) for left in (0, 3)])
    seen = torch.bincount((first * torch.tensor([1, 2, 4, 8])[:, None]).sum(0), minlength=16)
    pairs = seen[torch.tensor([3, 5, 6, 9, 10, 12])]
    assert pairs.sum() == 6000 and ((pairs - 1000.0) ** 2 / 1000).sum() < 20.5  # chi-square, 5 df, p = 0.001


@pytest.mark.parametrize("name", cases("simmim_masks"))
def test_masks_of_the_official_generator(name):
    _, stored, config = load(name)
    given = config["arguments"]
    side, unit = given["input_size"] // given["model_patch_size"], given["mask_patch_size"] // given["model_patch_size"]
    rank = strategy.rank(2000, (side, side), seeded(), unit=unit)
    drawn = masks.cut(rank, config["cells_masked"])
    official = torch.from_numpy(stored["masks"]).bool().flatten(1)
    assert official.sum(1).unique().tolist() == [config["cells_masked"]]
    for mask in (drawn, official):
        assert all((mask[:, i] == mask[:, i[:1]]).all() for i in cells((side, side), unit))
    frequency = torch.from_numpy(stored["cell_frequency"]).flatten()
    assert (drawn.float().mean(0) - frequency).abs().max() < 0.07

    def neighbours(mask):  # units that hide together with the one to their right
        small = mask.view(-1, side, side)[:, ::unit, ::unit].float()
        return (small[:, :, 1:] * small[:, :, :-1]).mean((1, 2))

    ours, theirs = neighbours(drawn), neighbours(official)
    error = (ours.var() / len(ours) + theirs.var() / len(theirs)).sqrt()
    assert (ours.mean() - theirs.mean()).abs() < 4 * error


@pytest.mark.parametrize(("grid", "unit"), [((14, 14), 2), ((12, 9), 3), ((8, 8), 4), ((1, 8), 2)])
def test_windows_hide_equally_many_at_every_count(grid, unit):
    rank = strategy.rank(20, grid, seeded(), by="windows", unit=unit)
    high = min(unit, (grid[0] + 1) // 2)
    inside = [i for i in cells(grid, unit) if len(i) == high * unit]
    each = torch.stack([hidden_in(masks.cut(rank, hidden), inside) for hidden in range(1, grid[0] * grid[1])])
    assert (each.amax(2) - each.amin(2) <= 1).all()


def test_um_mae_keeps_one_patch_of_each_window_anywhere_in_it():
    mask = masks.sample("grid", 500, (14, 14), 0.75, seeded(), by="windows")
    kept = torch.stack([(~mask)[:, i] for i in cells((14, 14), 2)])  # (49, 500, 4)
    assert (kept.sum(2) == 1).all()
    places = kept.sum((0, 1))
    assert ((places - 6125.0) ** 2 / 6125).sum() < 16.3  # chi-square, 3 df, p = 0.001
    together = (kept[1:] & kept[:-1]).any(2).float().mean()  # windows choose independently of each other
    assert 0.23 < together < 0.27


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("by", ["units", "windows", "lattice"])
def test_ragged_borders_hide_as_often_as_the_rest(by, ratio):
    often = masks.sample("grid", 6000, (7, 7), ratio, seeded(), by=by).float().mean(0)
    assert (often - masks.count(49, ratio) / 49).abs().max() < 0.05, often.view(7, 7)


def test_a_lattice_is_the_same_in_every_window_but_for_one_place():
    rank = strategy.rank(60, (6, 9), seeded(), by="lattice", unit=3)
    for hidden in range(1, 54):
        windows = torch.stack([masks.cut(rank, hidden)[:, i] for i in cells((6, 9), 3)])  # (6, 60, 9)
        mixed = (windows != windows[:1]).any(0).sum(1)
        assert (mixed == (hidden % 6 > 0)).all()
    assert len(masks.cut(rank, 6)[:, cells((6, 9), 3)[0]].unique(dim=0)) == 9  # every place comes first for some image


@pytest.mark.parametrize("by", ["units", "windows", "lattice"])
@pytest.mark.parametrize("grid", [(4, 4), (7, 7), (14, 10), (16, 16), (1, 2)], ids=str)
def test_every_patch_hides_sometimes_whatever_the_unit(grid, by):
    for unit in (1, 2, 16):
        share = masks.sample("grid", 500, grid, 0.5, seeded(), by=by, unit=unit).float().mean(0)
        assert share.min() > 0.3 and share.max() < 0.7, (unit, share.view(grid))


@pytest.mark.parametrize(
    ("given", "says"),
    [({"by": "window"}, "did you mean 'windows'"), ({"unit": 0}, "unit = 0.*1 to 16"), ({"unit": 17}, "17")],
)
def test_impossible_settings_are_refused(given, says):
    with pytest.raises(Refused, match=says):
        masks.sample("grid", 2, (14, 14), 0.5, seeded(), **given)
