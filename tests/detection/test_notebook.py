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


def test_detection_and_segmentation(tmp_path):
    for task in ("detect", "segment"):
        path = mimlab.execute(NOTEBOOK, TINY | {"out": str(tmp_path), "run": task, "task": task})
        assert path == tmp_path / task / "detection.ipynb" and len(figures(path)) == 5
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
        (tmp_path / name / "evals" / "detect.json").write_text(json.dumps(result))
    assert list(show.compared(cfg)) == ["fresh weights, seed 0", "mae, seed 0", "mae, seed 0 (again)"]
