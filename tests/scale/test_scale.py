"""Exponents, lines, and the arithmetic of many GPUs."""

import pytest

import mimlab
from mimlab.errors import Refused
from mimlab.figures import scale as figures
from mimlab.scale import cluster, line, power, step
from mimlab.scale.cluster import LATENCY, Machine
from mimlab.scale.memory import largest, row
from mimlab.scale.step import cost, flops, kept


def test_power_and_line():
    assert power([1, 10, 100], [3, 300, 30_000]) == pytest.approx((3, 2))
    assert line([2, 4, 10], [107, 114, 135]) == pytest.approx((100, 3.5))


def test_ring_by_hand():
    machine = Machine(node=8, inside=100, between=10)
    assert cluster.ring(1e9, 1, machine) == 0
    assert cluster.ring(1e9, 8, machine) == pytest.approx(2 * 7 / 8 / 100 + LATENCY)
    assert cluster.ring(1e9, 64, machine) == pytest.approx(2 * 7 / 8 / 100 + 2 * 7 / 8 / 10 + 2 * LATENCY)
    assert cluster.gathered(1e9, 4, machine) == pytest.approx(3 * 4 / 100 + LATENCY)
    assert cluster.gathered(1e9, 16, machine) == pytest.approx(7 * 4 / 100 + 8 * 4 / 10 + 2 * LATENCY)


def test_a_step_hides_what_fits_behind_the_backward_pass():
    fast, slow = Machine(tflops=100, between=1000), Machine(tflops=100, between=1)
    one = cluster.step(1e11, 1e8, 64, 1, fast)
    assert one["efficiency"] == 1 and one["sent_ms"] == 0 and one["compute_ms"] == pytest.approx(64.0)
    hidden, shown = cluster.step(1e11, 1e8, 64, 64, fast), cluster.step(1e11, 1e8, 64, 64, slow)
    assert hidden["efficiency"] > 0.98 and shown["efficiency"] < 0.2
    assert hidden["sent_mb"] == pytest.approx(2 * 63 / 64 * 400)
    half = cluster.step(1e11, 1e8, 64, 64, slow._replace(bytes=2))
    assert half["sent_mb"] == pytest.approx(hidden["sent_mb"] / 2) and half["efficiency"] > shown["efficiency"]
    more = cluster.step(1e11, 1e8, 640, 64, slow)
    assert more["efficiency"] > shown["efficiency"] and more["sent_mb"] == hidden["sent_mb"]
    gathers = cluster.step(1e11, 1e8, 64, 64, fast, extra=1e6, returned=True)
    assert gathers["waits_ms"] > hidden["waits_ms"] and gathers["efficiency"] < hidden["efficiency"]


def tiny(**given):
    return mimlab.Scale(methods="mae, beit", encoder_args={"dim": 24, "depth": 1, "heads": 2}).run("mae", **given)


def test_memory_for_backward_is_in_proportion_to_the_batch():
    found = [kept(step.step(tiny(batch_size=batch))) for batch in (4, 8, 16)]
    assert power([4, 8, 16], found)[1] == pytest.approx(1, abs=0.05)
    row = cost(tiny(batch_size=4), rounds=1)
    assert row["ms"] > 0 and row["mb"] == pytest.approx(found[0] / 2**20)


def test_flops_do_not_depend_on_the_batch():
    assert flops(tiny(batch_size=2)) == flops(tiny(batch_size=4)) > 1e6


def test_the_largest_batch():
    # 1,000 MiB and 10 MiB an image; 4 GB are 3,814 MiB, of which a tenth is left alone
    assert largest([10, 20], [1100, 1200], 4) == (3814.697265625 * 0.9 - 1000) // 10
    assert largest([10, 20], [9100, 9200], 4) == 0


def test_a_row_is_a_line_through_two_peaks(monkeypatch):
    """What a process says of its memory is tested with the benchmark."""
    asked = []

    def ask(cfg, who, threads):
        asked.append((cfg.method, cfg.encoder_args["depth"], cfg.batch_size, who, threads))
        return {"imports_mb": 500.0, "peak_mb": 100 + 2.5 * cfg.batch_size}

    monkeypatch.setattr(step, "ask", ask)
    found = row("32px", "mae", {"encoder_args": {"depth": 2}})
    assert asked == [("mae", 2, 32, "mimlab", 1), ("mae", 2, 96, "mimlab", 1)]
    assert found == {"at": "32px", "method": "mae", "fixed_mb": 600, "mb_per_image": 2.5} | {
        f"{gb} GB": largest((0, 1), (600, 602.5), gb) for gb in (4, 16, 80)
    }


def test_settings_are_refused():
    for field, value, said in (
        ("methods", "mea", "did you mean 'mae'"),
        ("sizes", "32", "2 or more"),
        ("sizes", "30, 32", "patch_size|divide|multiple"),
        ("batches", "4, many", "whole numbers"),
        ("ratios", "0.5, 1.5", "ratios = 1.5"),
        ("gradient_bytes", 3, "neither"),
        ("tflops", 0, "tflops"),
    ):
        with pytest.raises(Refused, match=said):
            mimlab.Scale(**{field: value}).resolved()


def test_the_figure_tells_the_exponent():
    rows = [{"method": "mae", "n": n, "ms": n * n, "mb": n} for n in (1, 2, 4)]
    figure = figures.growth(rows, "n", {"ms": "ms", "mb": "MB"})
    assert [trace.name for trace in figure.data] == ["mae: n<sup>2.00</sup>", "mae: n<sup>1.00</sup>"]
    assert {figure.layout.xaxis.type, figure.layout.yaxis2.type} == {"log"}
    assert len(figures.growth(rows, "n", {"ms": "ms"}, ideal=True).data) == 2
    with pytest.raises(Refused, match="two or more"):
        figures.growth(rows[:1], "n", {"ms": "ms"})
