import numpy as np
import pytest
import torch
from plotly.colors import sample_colorscale, unlabel_rgb

from mimlab.errors import Refused
from mimlab.figures.reconstructions import branches, by_distance, leaking, own, panel, sweep

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


def test_the_loss_has_its_own_column_and_scale(mask, decode):
    loss = torch.arange(32.0).view(2, 16)
    figure = panel(grey(0.2), mask, GRID, grey(0.8), loss=loss)
    assert [a.text for a in figure.layout.annotations][-1] == "loss of a patch"
    bars = [trace.marker for trace in figure.data if trace.marker.showscale]
    assert [bar.colorbar.title.text for bar in bars] == ["absolute error", "loss"]
    assert bars[0].cmax == pytest.approx(0.6) and bars[1].cmax == 31
    assert bars[1].colorbar.x > 1.02 and figure.layout.margin.r > 150
    picture = decode(figure.layout.images[11].source)
    assert tuple(picture[95, 95]) == (253, 231, 37)  # patch 15 of image 1, the highest: viridis at 1
    assert tuple(picture[0, 0]) == (226, 226, 226)  # visible
    alone = panel(grey(0.2), mask, GRID, None, loss=loss, note="no picture")
    assert [a.text for a in alone.layout.annotations] == ["image", "visible", "loss of a patch"]
    assert panel(grey(0.2), None, GRID, note="hides nothing").layout.annotations[0].text == "hides nothing"


def test_a_leaking_picture_is_labelled_and_one_that_does_not_exist_is_said(mask):
    figure = leaking(grey(0.2), mask, GRID, grey(0.8))
    assert "Leaking" in figure.layout.title.text and "given away" in figure.layout.title.subtitle.text
    assert "nothing leaks" in leaking(grey(0.2), mask, GRID, None).layout.annotations[0].text
    assert branches(grey(0.2), None, None, GRID, None, None, note="none").layout.annotations[0].text == "none"


def test_a_methods_own_pictures_and_numbers_on_one_scale(mask, decode):
    chance = torch.full((2, 16), 0.25)
    chance[0, 0] = float("nan")
    figure = own(grey(0.2), GRID, {"corrupted": grey(0.6), "replaced": mask, "chance": chance})
    assert [a.text for a in figure.layout.annotations] == ["image", "corrupted", "replaced", "chance"]
    _, corrupted, replaced, found = (decode(i.source) for i in figure.layout.images[:4])
    assert corrupted.mean() == 153
    assert tuple(replaced[0, 0]) == (253, 231, 37) and tuple(replaced[95, 95]) == (68, 1, 84)
    assert tuple(found[0, 0]) == (226, 226, 226)
    (colour,) = sample_colorscale("Viridis", [64 / 255])
    assert np.abs(found[95, 95] - np.array(unlabel_rgb(colour))).max() < 3
    assert own(grey(0.2), GRID, {"error": chance * 4}).data[-1].marker.cmax == 1.0
    assert "no further" in own(grey(0.2), GRID, {}).layout.annotations[0].text


def test_a_sweep_has_a_column_a_ratio_and_each_psnr_on_its_picture(mask, mean):
    figure = sweep(grey(0.2), GRID, [0.3, 0.8], [mask, ~mask], [grey(0.6), grey(1.0)], [[10.0, 20.0], [5.0, 6.25]])
    texts = [a.text for a in figure.layout.annotations]
    assert texts[:2] == ["30%", "80%"] and texts[-4:] == ["10.0 dB", "20.0 dB", "5.0 dB", "6.2 dB"]
    assert (figure.layout.annotations[-1].x, figure.layout.annotations[-1].y) == (1.5, 3.95)
    visible, more, filled, fuller = figure.layout.images[:4]  # two rows of the first image
    for cell in range(16):
        hidden = bool(mask[0, cell])
        assert (mean(visible, cell), mean(filled, cell)) == ((128, 153) if hidden else (51, 51))
        assert (mean(more, cell), mean(fuller, cell)) == ((51, 51) if hidden else (128, 255))
    assert sweep(grey(0.2), GRID, [], [], [], [], "no pixels").layout.annotations[0].text == "no pixels"


def test_quality_by_distance_has_intervals_and_counts():
    rows = [
        {"distance": 1, "mean": 20.0, "error": 0.5, "patches": 900},
        {"distance": 2, "mean": 10.0, "error": None, "patches": 3},
    ]
    figure = by_distance({"PSNR in dB": {"filled in": rows, "mean colour": rows}, "loss": {"of the method": rows}})
    lines = [trace for trace in figure.data if trace.type == "scatter"]
    assert [line.name for line in lines] == ["filled in", "mean colour", "of the method"]
    assert tuple(lines[0].y) == (20.0, 10.0) and tuple(lines[0].error_y.array) == (0.5, 0)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert [tuple(bar.y) for bar in bars] == [(900, 3)] * 2
    assert {"PSNR in dB", "loss"} <= {a.text for a in figure.layout.annotations}
    assert by_distance({}, "nothing").layout.annotations[0].text == "nothing"
