import math

import numpy as np
import pytest

from mimlab.errors import Refused
from mimlab.figures.curves import MOST, band, curves, grid, guesses, keep, overview, smoothed


def rows(count, **more):
    return [{"step": k, "loss": 5 - k / count, **more} for k in range(count)]


def test_every_run_is_a_line_with_its_name():
    figure = curves({"a": rows(10), "b": rows(20)})
    assert [trace.name for trace in figure.data] == ["a", "b"]
    assert list(figure.data[1].x) == list(range(20)) and figure.data[0].y[0] == 5
    assert figure.data[0].line.color != figure.data[1].line.color
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("step", "loss")
    assert figure.layout.title.text == "Loss by step" and not figure.layout.title.subtitle.text


def test_what_lines_are_is_said_where_it_is_so():
    said = curves({"a": [rows(100), rows(100)]}, smooth=0.9).layout.title.subtitle.text
    assert "weight 0.9" in said and "lowest to highest" in said
    assert not curves({"a": rows(10)}, smooth=0.9).layout.title.subtitle.text  # too few points to be smoothed
    assert curves({str(k): rows(5) for k in range(20)}).layout.height > 500  # a legend that needs no scrolling


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
    assert [a.text for a in figure.layout.annotations] == ["loss", "learning rate"]
    assert [trace.xaxis for trace in figure.data] == ["x", "x", "x2", "x2"]
    assert [trace.showlegend for trace in figure.data] == [True, True, False, False]


def test_overview_has_what_is_logged_beside_what_guessing_reaches():
    rows = [
        {"step": k, "loss": 5.0 - k, "loss_uniform": 6.0, "token_accuracy": 0.1, "token_majority": 0.3} for k in (1, 2)
    ]
    figure = overview({"beit": rows})
    assert [a.text for a in figure.layout.annotations if "guess" not in a.text and "most" not in a.text] == [
        "loss",
        "token_accuracy (share)",
    ]
    assert {a.text for a in figure.layout.annotations if "guess" in a.text or "most" in a.text} == {
        "uniform guess (6)",
        "most frequent token (0.3)",
    }
    both = [row | {"loss_match": 1.0, "loss_inpaint": 4.0 - row["step"]} for row in rows]
    texts = [a.text for a in overview({"splitmask": both}).layout.annotations]
    assert texts.count("uniform guess (6)") == 1  # beside the inpainting loss, not beside the sum


def seed(values, xs=None):
    return [{"step": x, "loss": y} for x, y in zip(xs or range(len(values)), values, strict=True)]


def test_seeds_are_a_mean_with_the_range_as_a_band():
    figure = curves({"mae (2 seeds)": [seed([4.0, 2.0]), seed([2.0, 1.0])]})
    *faint, edge, mean = figure.data
    assert [list(trace.y) for trace in faint] == [[4, 2], [2, 1]] and all(trace.opacity < 0.5 for trace in faint)
    assert list(mean.y) == [3, 1.5] and mean.customdata.tolist() == [[2, 4], [1, 2]]
    assert edge.fill == "toself" and list(edge.y) == [4, 2, 1, 2] and list(edge.x) == [0, 1, 1, 0]
    assert "mean of 2 seeds" in mean.hovertemplate


def test_a_band_spans_only_what_all_seeds_have_reached():
    xs, mean, low, high = band(
        [(np.array([0.0, 2, 4]), np.array([0.0, 2, 4])), (np.array([1.0, 3]), np.array([1.0, 5]))]
    )
    assert xs.tolist() == [1, 2, 3]
    assert (low.tolist(), mean.tolist(), high.tolist()) == ([1, 2, 3], [1, 2.5, 4], [1, 3, 5])
    apart = curves({"a": [seed([1.0, 2.0]), seed([3.0, 4.0], [5, 6])]})
    assert [list(trace.x) for trace in apart.data] == [[0, 1], [5, 6]]  # nothing in common: each by itself


def test_a_seed_that_lies_between_its_points_is_interpolated_after_smoothing():
    long = [[{"step": k, "loss": float(k % 2)} for k in range(first, 100)] for first in (0, 1)]
    mean = curves({"a": long}, smooth=0.9).data[-1]
    assert mean.x[0] == 1 and np.std(mean.y[50:]) < 0.1 and abs(np.mean(mean.y[50:]) - 0.5) < 0.02


def test_names_with_angle_brackets_stay_text():
    figure = curves({"a<b>": rows(3), "c & d": rows(3)}, baseline={"<i>": 1.0})
    assert [trace.name for trace in figure.data] == ["a&lt;b&gt;", "c &amp; d"]
    assert figure.layout.annotations[0].text == "&lt;i&gt; (1)"


def test_reference_lines_belong_to_their_runs():
    def logged(uniform, **more):
        return [{"step": k, "loss": 1.0, "loss_uniform": uniform, **more} for k in range(3)]

    assert guesses({"a": logged(6.0), "b": logged(6.05)}, "loss") == [("uniform guess", pytest.approx(6.025), None)]
    apart = guesses({"a": logged(6.0), "b": logged(4.0), "mae": rows(3)}, "loss")
    assert apart == [("uniform guess, a", 6.0, 0), ("uniform guess, b", 4.0, 1)]
    assert guesses({"sum": logged(6.0, loss_inpaint=0.5)}, "loss") == []
    assert guesses({"sum": logged(6.0, loss_inpaint=0.5)}, "loss_inpaint") == [("uniform guess", 6.0, None)]
    match = [{"step": 1, "loss_match": 3.0, "match_chance": 1 / 64}]
    assert guesses({"a": match}, "loss_match") == [("chance", pytest.approx(math.log(64)), None)]


def test_many_runs_stay_light():
    many = {f"run {k}": rows(20_000) for k in range(20)}
    figure = curves(many, smooth=0.9)
    assert len(figure.to_json()) < 1_500_000
    assert (
        len({(trace.line.color, trace.line.dash) for trace in figure.data if trace.name and trace.opacity is None})
        == 20
    )


def test_axes_have_units():
    logged = [{"step": k, "hours": k / 10, "images_per_s": 100.0} for k in range(3)]
    figure = curves({"a": logged}, "images_per_s", "hours")
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("hours of training", "images/s")


def test_names_of_dashed_lines_never_overlap():
    near = {f"guess {k}": 5 + 0.01 * k for k in range(6)} | {"far": 0.0}
    figure = curves({"a": [{"step": k, "loss": 5.0 - k} for k in range(6)]}, baseline=near)
    pixels, low, high = figure.layout.height - 130, 0.0, 5.05
    at = sorted(float(s.y0) for s in figure.layout.shapes)
    shown = [(y - low) / (high - low) * pixels + a.yshift for y, a in zip(at, figure.layout.annotations, strict=True)]
    assert np.diff(shown).min() > 13 and max(shown) <= pixels + 1
    assert figure.layout.annotations[0].yshift == 0  # where there is room, at its line


def test_titles_are_spelt_as_the_quantity_is():
    assert curves({"a": rows(3, knn_top1=1.0)}, "knn_top1").layout.title.text == "k-NN top-1 (%) by step"
    assert curves({"a": rows(3)}).layout.title.text == "Loss by step"


def test_the_number_of_seeds_is_told_also_of_one_label():
    figure = curves({"mae (2 seeds)": [seed([4.0, 2.0]), seed([2.0, 1.0])]})
    assert figure.data[-1].showlegend and figure.data[-1].name == "mae (2 seeds)"
    assert not curves({"mae": seed([4.0, 2.0])}).data[-1].showlegend
