import math

import numpy as np
import pytest

from mimlab.errors import Refused
from mimlab.figures.curves import MOST, curves, grid, keep, overview, smoothed


def rows(count, **more):
    return [{"step": k, "loss": 5 - k / count, **more} for k in range(count)]


def test_every_run_is_a_line_with_its_name():
    figure = curves({"a": rows(10), "b": rows(20)})
    assert [trace.name for trace in figure.data] == ["a", "b"]
    assert list(figure.data[1].x) == list(range(20)) and figure.data[0].y[0] == 5
    assert figure.data[0].line.color != figure.data[1].line.color
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("step", "loss")


def test_smoothing_keeps_the_raw_curve_faint_behind():
    figure = curves({"a": rows(100)}, smooth=0.9)
    raw, smooth = figure.data
    assert raw.opacity < 0.5 and list(raw.y) == [row["loss"] for row in rows(100)]
    expected = [np.average(raw.y[: k + 1], weights=0.9 ** np.arange(k, -1, -1)) for k in range(100)]
    assert np.allclose(smooth.y, expected)
    assert smooth.line.color == raw.line.color


def test_smoothing_passes_over_nan():
    out = smoothed(np.array([1.0, np.nan, 1.0]), 0.9)
    assert out[0] == 1 and math.isnan(out[1]) and out[2] == pytest.approx(1)


def test_long_runs_are_thinned_and_keep_their_spikes():
    long = rows(50_000)
    long[31_234]["loss"] = 99.0
    trace = curves({"a": long}).data[0]
    assert MOST / 2 < len(trace.x) <= MOST
    assert (trace.x[0], trace.x[-1], max(trace.y)) == (0, 49_999, 99.0)
    assert len(curves({"a": long}).to_json()) < 100_000


def test_thinning_again_and_again_keeps_the_density_even():
    xs = np.arange(0)
    for start in range(0, 40_000, 1000):
        xs = np.concatenate([xs, np.arange(start, start + 1000)])
        xs = xs[keep(xs, np.sin(xs * 7.0), 2000)]
    first, second = (xs < 20_000).sum(), (xs >= 20_000).sum()
    assert 0.8 < first / second < 1.25


def test_nan_is_a_gap_and_missing_rows_are_left_out():
    logged = [
        {"step": 0, "loss": 1.0},
        {"step": 1},
        {"step": 2, "loss": float("nan")},
        {"step": 3, "loss": 2.0},
    ]
    trace = curves({"a": logged}).data[0]
    assert list(trace.x) == [0, 2, 3] and math.isnan(trace.y[1])


def test_baselines_are_dashed_and_named():
    figure = curves({"a": rows(5)}, baseline={"uniform guess ln V": math.log(512)})
    assert figure.layout.shapes[0].y0 == math.log(512) and figure.layout.shapes[0].line.dash == "dash"
    assert figure.layout.annotations[0].text == "uniform guess ln V (6.238)"


def test_an_unknown_quantity_is_refused_with_the_nearest_and_all():
    with pytest.raises(Refused, match=r"'los' .did you mean 'loss'.*loss, step"):
        curves({"a": rows(3)}, y="los")
    with pytest.raises(Refused, match="empty dict"):
        curves({})
    with pytest.raises(Refused, match="smooth = 1"):
        curves({"a": rows(3)}, smooth=1)


def test_a_run_that_logged_nothing_gives_a_figure_that_says_so():
    figure = curves({"a": []})
    assert not figure.data and figure.layout.annotations[0].text == "nothing logged yet"


def test_grid_has_one_plot_a_quantity_and_one_legend():
    figure = grid({"a": rows(5, lr=0.1), "b": rows(5, lr=0.2)}, ["loss", "lr"])
    assert [a.text for a in figure.layout.annotations] == ["loss", "lr"]
    assert [trace.xaxis for trace in figure.data] == ["x", "x", "x2", "x2"]
    assert [trace.showlegend for trace in figure.data] == [True, True, False, False]


def test_overview_has_what_is_logged_beside_what_guessing_reaches():
    rows = [
        {"step": k, "loss": 5.0 - k, "loss_uniform": 6.0, "token_accuracy": 0.1, "token_majority": 0.3} for k in (1, 2)
    ]
    figure = overview({"beit": rows})
    assert [a.text for a in figure.layout.annotations if "(" not in a.text] == ["loss", "token_accuracy"]
    assert {a.text for a in figure.layout.annotations if "(" in a.text} == {
        "uniform guess (6)",
        "most frequent token (0.3)",
    }
    both = [row | {"loss_match": 1.0, "loss_inpaint": 4.0 - row["step"]} for row in rows]
    texts = [a.text for a in overview({"splitmask": both}).layout.annotations]
    assert texts.count("uniform guess (6)") == 1  # beside the inpainting loss, not beside the sum
