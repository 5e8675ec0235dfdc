"""Figures of speeds: numbers where they belong."""

import pytest

from mimlab.errors import Refused
from mimlab.figures import bench

MACHINE = {"at": "32px", "threads": 2, "machine": {"processor": "a processor"}}


def row(method, asked, speed, ratio, **parts):
    return {
        "method": method,
        "asked": asked,
        "who": asked,
        "images_per_s": speed,
        "ratio": ratio,
        "parts_ms": parts,
        "of_replay": 0.7,
    }


RESULT = MACHINE | {
    "rows": [
        row("mae", "mimlab", 100.0, 1.0, data=10, forward=60, backward=120, optimiser=20),
        row("mae", "plain", 80.0, 1.25, forward=80, backward=120, optimiser=40),
        row("beit", "mimlab", 50.0, 1.0, forward=1, backward=2, optimiser=1),
        row("beit", "lightly", 25.0, 2.0, forward=2, backward=4, optimiser=2),
    ]
}


def test_others_stand_beside_mimlab_by_the_rounds_ratios():
    bars = {bar.name: dict(zip(bar.x, bar.y, strict=True)) for bar in bench.speeds(RESULT).data}
    assert bars == {"plain": {"mae": 0.8}, "lightly": {"beit": 0.5}}
    assert "32px" in bench.speeds(RESULT).layout.title.text


def test_parts_are_shares_of_the_step():
    figure = bench.steps(RESULT)
    shares = {bar.name: bar.y for bar in figure.data}
    assert shares["forward"] == (30.0, 25.0) and shares["data"] == (5.0, 0.0) and shares["backward"] == (60.0, 50.0)
    assert shares["matrix products alone"] == (70.0, 70.0)


def test_nothing_measured_is_refused():
    with pytest.raises(Refused, match="no rows"):
        bench.speeds(MACHINE | {"rows": []})
