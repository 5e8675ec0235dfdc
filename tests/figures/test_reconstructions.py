import numpy as np
import pytest
import torch
from plotly.colors import sample_colorscale, unlabel_rgb

from mimlab.errors import Refused
from mimlab.figures.reconstructions import branches, panel

GRID = (4, 4)


def grey(value, batch=2):
    return torch.full((batch, 3, 96, 96), value)


@pytest.fixture
def mean(decode):
    """Mean value of one patch of a picture."""

    def of(picture, cell):
        row, column = divmod(cell, 4)
        return decode(picture.source)[row * 24 : row * 24 + 24, column * 24 : column * 24 + 24].mean()

    return of


@pytest.fixture
def mask():
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[0, :6] = mask[1, 9:] = True
    return mask


def test_panel_columns_hold_what_their_titles_say(mask, mean):
    figure = panel(grey(0.2), mask, GRID, grey(0.8), note="leaks the answer")
    titles = [a.text for a in figure.layout.annotations]
    assert titles == ["image", "visible", "filled in", "visible + filled in", "error"]
    assert figure.layout.title.subtitle.text == "leaks the answer"
    for row in range(2):
        image, visible, filled, both, _ = figure.layout.images[row * 5 : row * 5 + 5]
        for cell in range(16):
            hidden = bool(mask[row, cell])
            assert (mean(image, cell), mean(filled, cell)) == (51, 204)
            assert mean(visible, cell) == (128 if hidden else 51)
            assert mean(both, cell) == (204 if hidden else 51)


def test_the_error_is_on_one_scale_for_all_rows(mask, decode):
    filled = torch.cat([grey(0.2, 1), grey(0.7, 1)])
    figure = panel(grey(0.2), mask, GRID, filled)
    low, high = (decode(figure.layout.images[k].source)[0, 0] for k in (4, 9))
    top = figure.data[-1].marker.cmax
    assert 0.5 <= top <= 0.55
    assert tuple(low) == (68, 1, 84)  # viridis at 0
    (colour,) = sample_colorscale("Viridis", [127 / 255 / top])
    assert np.abs(high - np.array(unlabel_rgb(colour))).max() < 3
    same = panel(grey(0.2), mask, GRID, grey(0.2))  # no error at all is no division by zero
    assert tuple(decode(same.layout.images[4].source)[0, 0]) == (68, 1, 84)


def test_a_target_gets_its_column_and_the_error(mask, decode):
    figure = panel(grey(0.2), mask, GRID, grey(0.8), target=grey(0.8))
    assert [a.text for a in figure.layout.annotations][1] == "target"
    assert tuple(decode(figure.layout.images[5].source)[0, 0]) == (68, 1, 84)


def test_branches_merge_each_patch_from_the_branch_that_did_not_see_it(mask, mean):
    figure = branches(grey(0.2), mask, ~mask, GRID, grey(0.6), grey(1.0))
    for row in range(2):
        _, a_sees, a_full, b_sees, b_full, merged = figure.layout.images[row * 6 : row * 6 + 6]
        for cell in range(16):
            hidden = bool(mask[row, cell])
            assert (mean(a_sees, cell), mean(b_sees, cell)) == ((128, 51) if hidden else (51, 128))
            assert (mean(a_full, cell), mean(b_full, cell)) == ((153, 51) if hidden else (51, 255))
            assert mean(merged, cell) == (153 if hidden else 255)


def test_branches_that_overlap_share_and_uncovered_patches_stay(mean):
    a, b = torch.zeros(1, 16, dtype=torch.bool), torch.zeros(1, 16, dtype=torch.bool)
    a[0, :2] = b[0, 1:3] = True
    merged = branches(grey(0.2, 1), a, b, GRID, grey(0.6, 1), grey(1.0, 1)).layout.images[5]
    assert [mean(merged, cell) for cell in range(4)] == [153, 204, 255, 51]


def test_what_does_not_fit_is_refused(mask):
    with pytest.raises(Refused, match="filled: 2 of 48 x 48"):
        panel(grey(0.2), mask, GRID, torch.zeros(2, 3, 48, 48))
    with pytest.raises(Refused, match="filled: some values are NaN"):
        panel(grey(0.2), mask, GRID, grey(float("nan")))
    with pytest.raises(Refused):
        panel(grey(0.2), mask[:1], GRID, np.zeros((2, 3, 96, 96)))
