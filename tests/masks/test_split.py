"""The regular splits: which sides they hide."""

import pytest
import torch

from mimlab import masks
from mimlab.errors import Refused

GRID = (4, 6)
ROW = torch.arange(4)[:, None].expand(4, 6)
COLUMN = torch.arange(6).expand(4, 6)
SIDES = {
    "columns": COLUMN < 3,
    "rows": ROW < 2,
    "checkerboard": (ROW + COLUMN) % 2 == 0,
    "quadrants": (ROW < 2) == (COLUMN < 3),
}


@pytest.mark.parametrize("by", SIDES)
def test_half_is_one_of_two_sides_each_as_often(by):
    mask = masks.sample("split", 400, GRID, 0.5, torch.Generator().manual_seed(0), by=by).view(-1, *GRID)
    first = (mask == SIDES[by]).flatten(1).all(1)
    second = (mask == ~SIDES[by]).flatten(1).all(1)
    assert (first | second).all()
    assert 140 < first.sum() < 260


def test_other_ratios_take_a_part_of_the_side():
    mask = masks.sample("split", 50, GRID, 0.25, torch.Generator().manual_seed(0), by="rows").view(-1, *GRID)
    assert (mask[:, 0].all(1) | mask[:, 3].all(1)).all()


def test_an_unknown_split_is_refused_with_the_choices():
    with pytest.raises(Refused, match=r"did you mean 'columns'.*quadrants"):
        masks.sample("split", 1, GRID, 0.5, torch.Generator(), by="colums")
