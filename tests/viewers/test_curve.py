import json
import math
import time

import pytest

from mimlab.viewers.curve import MOST, Curve, columns, points, status


def rows(count):
    return [{"step": k, "steps": count, "loss": 5.0 - k / count} for k in range(count)]


def test_points_keep_ends_spikes_and_measurements():
    long = rows(30_000)
    long[12_345]["loss"] = 50.0
    long[20_001]["knn_top1"] = 33.0
    kept = points(long)
    assert len(kept) <= MOST + 1
    assert kept[0] is long[0] and kept[-1] is long[-1]
    assert long[12_345] in kept and long[20_001] in kept
    assert points(long[:10]) == long[:10] and points([]) == []


def test_points_survive_rows_without_a_loss():
    assert len(points([{"step": k, "knn_top1": 1.0 if k == 7 else None} for k in range(5000)])) <= MOST


def test_columns_can_travel_as_json():
    drawn = columns(
        [{"step": 1, "loss": math.nan}, {"step": 2, "loss": 2.0, "knn_top1": 40}, {"step": 3, "knn_top1": 41}]
    )
    assert drawn == {"step": [1, 2], "loss": [None, 2.0], "knn": [[2, 40.0], [3, 41.0]]}
    json.dumps(drawn, allow_nan=False)


def test_status_line():
    row = {"step": 1000, "steps": 5000, "epoch": 2, "loss": 3.21456, "images_per_s": 812.4, "knn_top1": 45.1}
    assert status(row, per_step=1.0) == (
        "step 1,000 of 5,000 · epoch 2 · loss 3.215 · 812 images/s · k-NN 45.1 · 1:06:40 left"
    )
    assert status({"step": 5, "steps": 5, "loss": math.nan}) == "step 5 of 5 · loss nan · done"
    assert status({"step": 5}) == "step 5"
    assert status(row | {"seconds_left": 61.4}, per_step=1.0).endswith("0:01:01 left")  # the trainer knows better


@pytest.fixture
def sent(monkeypatch):
    """Drawings that a Curve would send, in order."""
    monkeypatch.delenv("MIMLAB_BATCH", raising=False)
    return []


def test_a_burst_is_coalesced_and_its_last_row_still_drawn(sent):
    curve = Curve()
    curve.observe(lambda change: sent.append(change["new"]["step"][-1]), "series")
    for row in rows(500):
        curve(row)  # as the callback of pretrain
    time.sleep(0.5)
    assert sent[0] == 0 and sent[-1] == 499
    assert len(sent) <= 12
    assert curve.text.startswith("step 499 of 500")


def test_a_long_run_stays_bounded(sent):
    curve = Curve()
    for row in rows(3 * MOST):
        curve.add(row)
    time.sleep(0.3)
    assert len(curve.series["step"]) <= MOST + 1 and len(curve._rows) <= 2 * MOST
    assert curve.series["step"][-1] == 3 * MOST - 1


def test_live_it_is_a_widget_and_in_batch_a_line_of_text(sent, monkeypatch):
    curve = Curve()
    data = curve._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in (data[0] if isinstance(data, tuple) else data)
    monkeypatch.setenv("MIMLAB_BATCH", "1")
    curve.add({"step": 1, "loss": 1.0})
    assert list(curve._repr_mimebundle_()) == ["text/plain"]
    assert "\n" not in curve._repr_mimebundle_()["text/plain"]
    assert curve.series == {"step": [], "loss": [], "knn": []}  # nothing is sent where nobody looks


def test_the_module_is_self_contained():
    source = Curve()._esm
    assert "http" not in str(source).replace("http://www.w3.org/2000/svg", "") and "import " not in str(source)
