"""Results of a study as figures and tables: what is drawn is what was measured, and a thousand runs are quick."""

import math
import time

import pytest

from mimlab.figures import studies

ROWS = [
    {
        "method": method,
        "lr": 1e-3 if method == "mae" else 2e-3,
        "fraction": share,
        "seed": seed,
        "run": f"{method}{share}{seed}",
    }
    | {
        "state": "done",
        "hours": 0.5,
        "evaluation": "finetune-aa",
        "start": "after x",
        "values": None,
        "top1": top1 + seed,
    }
    for method, top1 in (("mae", 50.0), ("beit", 60.0))
    for share in (0.1, 1.0)
    for seed in (0, 1, 2)
]
SCRATCH = [
    ROWS[0] | {"method": "none", "fraction": None, "run": f"s{k}", "start": "scratch", "top1": 40.0, "seed": k}
    for k in (0, 1)
]
FAILED = [ROWS[0] | {"run": "f", "state": "failed", "top1": None, "seed": 3}]


def test_a_line_is_the_mean_and_the_bar_its_interval():
    figure = studies.against(
        [*ROWS, *SCRATCH, *FAILED], "fraction", reference={"dino": ((0.1, 1.0), (70, 71))}, scratch=30
    )
    lines = {trace.name: trace for trace in figure.data if trace.mode == "lines+markers"}
    assert list(lines) == ["mae", "beit", "dino, the paper"]
    assert [at for _, at in lines["mae"].customdata] == [0.1, 1.0] and list(lines["mae"].y) == [51.0, 51.0]
    assert list(lines["mae"].x) == pytest.approx([0.1, 1.0], abs=0.01) and max(lines["mae"].x) < min(
        lines["beit"].x[1:]
    )
    assert list(figure.layout.xaxis.tickvals) == [0.1, 1.0]
    half = 4.302652729911275 * 1.0 / math.sqrt(3)  # t of 2 degrees of freedom, of 50, 51, 52
    assert list(lines["mae"].error_y.array) == pytest.approx([half, half])
    points = next(trace for trace in figure.data if trace.mode == "markers" and trace.legendgroup == "beit")
    assert sorted(points.y) == [60, 60, 61, 61, 62, 62]
    assert [shape.y0 for shape in figure.layout.shapes] == [40.0, 30]
    assert "n = 2" in figure.layout.annotations[0].text


def test_values_of_one_row_are_each_a_value_and_evaluations_are_not_mixed():
    rows = [ROWS[0] | {"values": "1.0;2.0;6.0", "top1": 3.0}, ROWS[0] | {"evaluation": "knn-bb", "top1": 99.0}]
    (row,) = studies.summary(studies.measured(rows, evaluation="finetune"))
    assert (row["n"], row["mean"], row["evaluation"]) == (3, 3.0, "finetune-aa")
    assert row["deviation"] == pytest.approx(math.sqrt(7)) and row["hours"] == 0.5
    assert [row["mean"] for row in studies.summary(rows)] == [3.0, 99.0]
    assert studies.interval([1.0, 2.0]) is None


def test_what_another_column_determines_is_left_out():
    assert studies.varied(ROWS) == ["method", "fraction"]  # lr goes with the method
    assert list(studies.summary(ROWS)[0])[:2] == ["method", "fraction"]


def test_bars_stand_beside_each_other():
    rows = [row | {"data_args.layout": "scene" if row["fraction"] == 1 else "object"} for row in ROWS]
    figure = studies.beside(rows + SCRATCH, "data_args.layout", reference={"mae": {"object": 70, "scene": 60}})
    bars = {trace.name: trace for trace in figure.data if trace.type == "bar"}
    assert list(bars) == ["object", "scene"] and list(bars["object"].x) == ["mae", "beit"]
    assert list(bars["scene"].y) == [51.0, 61.0]


def test_nothing_yet_says_so():
    for figure in (studies.against([], "fraction"), studies.beside([], "x"), studies.overview(FAILED)):
        assert "run the study" in figure.layout.annotations[0].text
    assert studies.summary([]) == [{"results": studies.NOTHING}]


def test_a_thousand_runs_are_read_and_drawn_in_three_seconds(tmp_path):
    """Read, figures and tables of one table; processor time, since others may use the machine."""
    from mimlab.figures import tables
    from mimlab.study import results

    rows = [row | {"run": f"r{k}", "fraction": (k % 83 + 1) / 83} for k, row in enumerate(ROWS * 84)][:1000]
    (tmp_path / "results.csv").write_text(
        "\n".join([",".join(rows[0]), *(",".join("" if v is None else str(v) for v in row.values()) for row in rows)])
        + "\n"
    )
    studies.interval([1.0, 2.0, 3.0])  # imports scipy
    began = time.process_time()
    read = results.read(tmp_path)
    assert read == rows
    drawn = [studies.against(read, "fraction"), studies.beside(read, "fraction"), studies.overview(read)]
    drawn += [tables.table(studies.summary(read)), tables.table(read)]
    size = [len(figure.to_json()) for figure in drawn]
    assert time.process_time() - began < 3.0
    assert min(size) > 5000


def test_a_run_that_stands_for_several_combinations_counts_once():
    twice = [row | {"fraction": share} for share in (0.1, 1.0) for row in SCRATCH]
    figures = studies.against([*ROWS, *twice], "fraction"), studies.beside([*ROWS, *twice], "fraction")
    for figure in figures:
        assert [note.text for note in figure.layout.annotations] == ["no pre-training (40.0, n = 2)"]
    figure = studies.beside(ROWS, "fraction", evaluation="finetune")
    assert "top-1" in figure.layout.title.text and figure.layout.title.subtitle.text.startswith("finetune")
