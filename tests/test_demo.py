"""The demo, as `make demo` runs it: minutes, so behind a marker."""

import math
import time
from pathlib import Path

import pytest

import mimlab
from mimlab.demo import RUN, demo
from mimlab.run import Run

ROOT = Path(mimlab.__file__).parent.parent


def test_the_demo_sees_every_image_twenty_times():
    cfg = mimlab.Pretrain(**RUN).resolved()
    steps, each = cfg.steps(3000)
    assert steps * cfg.batch_size / 3000 >= 19.6 and each == 3000 // cfg.batch_size  # the tail of an epoch is dropped


@pytest.mark.slow
def test_demo(tmp_path, capsys):
    began = time.monotonic()
    lines = demo(ROOT / "notebooks", str(tmp_path))
    assert time.monotonic() - began < 8 * 60
    run = Run.find("newest", tmp_path)
    last = [row for row in run.metrics() if "loss" in row][-1]
    assert last["loss_uniform"] == pytest.approx(math.log(512))
    assert last["loss_inpaint"] < 0.75 * last["loss_uniform"]
    assert last["token_accuracy"] > last["token_majority"] and last["match_accuracy"] > 10 * last["match_chance"]
    results = run.evaluations()["finetune"]["results"]
    after, scratch = results["after splitmask"], results["from scratch"]
    assert min(after["values"]) > max(scratch["values"]) > after["chance"]
    assert str(run.path) in "\n".join(lines)
    assert all((run.path / f"{name}.html").exists() for name in ("pretrain", "reconstructions", "evaluate"))
