"""Notebook 10, executed as a user would, tiny; and what it compares."""

import json
from pathlib import Path

import nbformat
import pytest

import mimlab
from mimlab.detection import show
from mimlab.errors import Refused

NOTEBOOK = Path(mimlab.__file__).parent.parent / "notebooks" / "10_detection.ipynb"
TINY = {
    "encoder_args": {"dim": 16, "depth": 2, "heads": 2},
    "data_args": {"size": 64, "train": 4, "test": 2, "classes": "any"},
    "image_size": 64,
    "channels": 8,
    "hidden": 16,
    "regions": 8,
    "proposals": 20,
    "epochs": 1,
    "batch_size": 2,
    "log_every": 1,
    "device": "cpu",
}


def figures(path):
    cells = nbformat.read(path, as_version=4).cells
    return [
        out
        for cell in cells
        for out in cell.get("outputs", [])
        if "application/vnd.plotly.v1+json" in out.get("data", {})
    ]


@pytest.mark.parametrize("task", ["detect", pytest.param("segment", marks=pytest.mark.slow)])
def test_detection_and_segmentation(task, tmp_path):
    path = mimlab.execute(NOTEBOOK, TINY | {"out": str(tmp_path), "run": task, "task": task})
    assert path == tmp_path / task / "detection.ipynb" and len(figures(path)) == 6
    assert (tmp_path / task / "evals" / f"{task}.json").is_file()


def test_only_what_shares_data_and_schedule_is_compared(tmp_path):
    cfg = mimlab.Detect(out=str(tmp_path), run="own", **TINY).resolved()
    with pytest.raises(Refused, match="no result yet"):
        show.compared(cfg)
    for name, changes, init in (
        ("own", {}, "fresh weights"),
        ("after", {"init": "mae", "seed": 0, "workers": 3}, "mae"),
        ("again", {"init": "mae"}, "mae"),
        ("longer", {"epochs": 2}, "fresh weights"),
        ("other_task", {"task": "segment"}, "fresh weights"),
    ):
        (tmp_path / name / "evals").mkdir(parents=True)
        result = {"init": init, "seed": 0, "config": cfg.dict() | changes | {"run": name}}
        result |= {"numbers": {"box_ap": 60.0 if init == "mae" else 50.0}, "intervals": {"box_ap": [48.0, 52.0]}}
        (tmp_path / name / "evals" / "detect.json").write_text(json.dumps(result))
    assert list(show.compared(cfg)) == ["fresh weights, seed 0", "mae, seed 0", "mae, seed 0 (again)"]


def test_a_difference_is_said_to_be_noise_or_not(tmp_path):
    cfg = mimlab.Detect(out=str(tmp_path), run="own", **TINY).resolved()
    for name, init, value in (("own", "fresh weights", 50.0), ("near", "mae", 52.0), ("far", "beit", 58.0)):
        (tmp_path / name / "evals").mkdir(parents=True)
        result = {"init": init, "seed": 0, "config": cfg.dict() | {"run": name}, "numbers": {"box_ap": value}}
        result |= {"intervals": {"box_ap": [value - 3, value + 3]}}
        (tmp_path / name / "evals" / "detect.json").write_text(json.dumps(result))
    said = str(show.answers(cfg).to_dict())
    assert "within noise" in said and "beit is ahead" in said and "box AP" in said and "test images" in said
