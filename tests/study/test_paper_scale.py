"""`--scale paper`: the recipes of each study, at their full size, take one step on a handful of images (-m slow)."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mimlab
from mimlab.config import Pretrain
from mimlab.study import plan, spec

ROOT = Path(mimlab.__file__).parent.parent
STUDIES = [path for path in sorted((ROOT / "notebooks" / "studies").glob("*.yaml")) if "\n  paper:" in path.read_text()]


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """Two classes of two images, of ImageNet's usual size, in its folders."""
    folder = tmp_path_factory.mktemp("imagenet")
    for split in ("train", "val"):
        for name in ("n01440764", "n01443537"):
            (folder / split / name).mkdir(parents=True)
            for k in range(2):
                pixels = np.random.default_rng(k).integers(0, 255, (375, 500, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{k}.jpg")
    return folder


def first_of_each_method(jobs):
    """One job for each method and set of its options, as the full recipe has it."""
    found = {}
    for job in jobs:
        found.setdefault(f"{job.settings['method']} {job.settings['method_args']}", job)
    return list(found.values())


@pytest.mark.slow
@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_each_recipe_takes_a_step(path, imagenet, tmp_path, monkeypatch):
    """All but the images, their number a step, and how many steps, is as in the file: encoder, method, tokens, optimiser."""
    monkeypatch.setenv("MIMLAB_HOME", str(tmp_path / "home"))
    jobs = [job for job in plan.plan(spec.read(path, "paper")) if job.varied[0].get("method") != "none"]
    for job in first_of_each_method(jobs):
        small = {
            "data": "folder",
            "data_args": {"path": str(imagenet)},
            "fraction": 1.0,
            "batch_size": 2,
            "updates": "1",
        }
        here = {"workers": 0, "device": "cpu", "out": str(tmp_path), "run": job.name, "log_every": 1, "film": 0}
        given = Pretrain.read(job.settings).replace(**small, **here)
        if given.tokenizer == "kmeans":
            given = given.replace(vocab=64)  # four images have no 8192 patches
        run = mimlab.pretrain(given)
        (row,) = [row for row in run.metrics() if "loss" in row]
        assert np.isfinite(row["loss"]) and run.finished
        written = run.settings
        assert (written.image_size, written.patch_size, written.precision) == (224, 16, "bf16")
        recipe = ("lr", "weight_decay", "warmup_epochs", "drop_path", "mask_ratio", "beta2", "clip", "schedule")
        assert [getattr(written, name) for name in recipe] == [job.settings[name] for name in recipe]
