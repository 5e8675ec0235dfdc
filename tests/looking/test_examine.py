"""What notebook 11 shows of a run: every part, or one line; and the notebook itself."""

import json
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

import mimlab
from mimlab.errors import Refused
from mimlab.figures import features
from mimlab.looking.examine import Examined
from mimlab.viewers.correspondence import Correspondence
from mimlab.viewers.feature_map import FeatureMap

ROOT = Path(mimlab.__file__).parent.parent
PARTS = {
    "components": features.components,
    "correspondence": Correspondence,
    "neighbours": features.neighbours,
    "plane": FeatureMap,
    "similarity": features.similarity,
    "similarity_to_other": features.similarity,
    "ranks": features.ranks,
    "accuracies": features.accuracies,
}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(out):
    """Name -> the folder of a run of two epochs, made when first asked for."""
    small = {"dim": 16, "depth": 2, "heads": 2}
    settings = {
        "mae": {"method": "mae", "encoder_args": small, "keep_weights": True, "checkpoint_every": 1},
        "dino": {"method": "dino", "encoder_args": small},
        "splitmask": {"method": "splitmask", "encoder_args": small, "tokenizer": "kmeans", "vocab": 16},
        "xcit": {"method": "simmim", "encoder": "xcit", "encoder_args": small, "image_size": 32, "patch_size": 8},
        "resnet": {"method": "supervised", "encoder": "resnet18", "encoder_args": {"output_stride": 32}, "epochs": 1},
    }
    settings["dino"]["method_args"] = {"out_dim": 64, "head_dim": 16, "bottleneck_dim": 8}
    settings["mae"]["method_args"] = {"decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2}

    def made(name):
        base = {"data": "emoji", "fraction": 0.1, "image_size": 16, "patch_size": 4, "epochs": 2, "batch_size": 32}
        if not (out / name).exists():
            mimlab.pretrain(mimlab.Pretrain(run=name, out=str(out), **(base | {"knn_every": 0} | settings[name])))
        return str(out / name)

    return made


def shown(found):
    """Part -> the one line in its place, or None where it is there."""
    said = {}
    for name, figure in PARTS.items():
        try:
            figure(**getattr(found, name)())
            said[name] = None
        except Refused as reason:
            said[name] = str(reason)
    return said


@pytest.mark.parametrize(
    "name", ["mae", "xcit", *(pytest.param(n, marks=pytest.mark.slow) for n in ("dino", "splitmask", "resnet"))]
)
def test_every_part_of_every_kind_of_run(run, name):
    found = Examined(mimlab.Features(run=run(name), other=run("mae"), samples=24, images=3))
    assert shown(found) == dict.fromkeys(PARTS)


def test_numbers_of_a_run(run):
    found = Examined(mimlab.Features(run=run("mae"), samples=40, images=2, pool="cls", layer=1))
    assert list(found.sample.layers) == [0, 1, "output"] and found.cells.shape == (2, 4, 4, 16)
    own = found.similarity()["values"]
    torch.testing.assert_close(own.diagonal(), torch.ones(3, dtype=torch.float64))
    rows = found.ranks()["rows"]
    assert {len(many) for many in rows.values()} == {3}
    assert all(1 <= row["rank"] <= row["most"] * (1 + 1e-3) for many in rows.values() for row in many)
    judged = found.accuracies()
    assert judged["layers"] == [0, 1, "output"] and "40 train and 40 test" in judged["note"]
    assert "other = None" in shown(found)["similarity_to_other"]
    whole = Examined(mimlab.Features(run=run("mae"), samples=40)).sample
    with torch.no_grad():
        expected = mimlab.Run.open(run("mae")).encoder().features(whole.images / 255)
    torch.testing.assert_close(whole.layers["output"], expected, atol=1e-4, rtol=1e-4)


def test_a_checkpoint_and_another_size_of_image(run):
    first = min(mimlab.Run.open(run("mae")).weights())
    early = Examined(mimlab.Features(run=run("mae"), step=first, samples=8, images=1, image_size=24))
    late = Examined(mimlab.Features(run=run("mae"), samples=8, images=1, image_size=24))
    assert early.cells.shape == (1, 6, 6, 16) and str(first) in early.title
    assert not torch.equal(early.cells, late.cells)


def test_a_file_of_weights_and_its_folder(run, tmp_path):
    file = Path(run("mae")) / "encoder.safetensors"
    cfg = mimlab.Features(run=str(file), samples=6, images=1, out=str(tmp_path), data="emoji")
    assert cfg.folder() == tmp_path / "looked" / "encoder"
    assert mimlab.Features(run=run("mae")).folder() == Path(run("mae"))
    assert shown(Examined(cfg))["accuracies"] is None


def test_one_grey_image_without_labels(run, tmp_path):
    for name in ("a", "b"):
        Image.fromarray(np.full((20, 20), 128, np.uint8)).save(tmp_path / f"{name}.png")
    given = {"data": "folder", "data_args": {"path": str(tmp_path)}, "split": "train", "samples": 1, "images": 1}
    said = shown(Examined(mimlab.Features(run=run("mae"), **given)))
    assert [name for name, line in said.items() if line is None] == ["components", "correspondence", "ranks"]
    assert "one image has no neighbour" in said["neighbours"] and "4 or more" in said["similarity"]
    photographs = Examined(mimlab.Features(run=run("mae"), data="photographs", samples=6))
    said = shown(photographs)
    assert said["neighbours"] is None and "no labels" in said["accuracies"]
    assert "labels" not in photographs.neighbours()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"layer": 7}, "layers 0 to 1"),
        ({"layer": -1}, "count from 0"),
        ({"pool": "max"}, "mean, cls"),
        ({"project": "som"}, "pca, tsne, umap"),
        ({"project": "tsne", "samples": 5000}, "2,000"),
        ({"images": 0}, "between 1 and 32"),
        ({"image_size": 17}, "no whole number"),
        ({"split": "validation"}, "train, test"),
        ({"data_args": {"path": "x"}}, "Give `data` too"),
        ({"load": {"heads": 2}}, "files of weights"),
        ({"step": 999}, "no checkpoint of step 999"),
        ({"run": "nowhere"}, "no run folder"),
        ({"other": "nowhere.pth"}, "no such file"),
    ],
)
def test_what_cannot_be_is_refused(run, given, said):
    with pytest.raises(Refused, match=said):
        Examined(mimlab.Features(**({"run": run("mae")} | given)))


def test_class_tokens_where_there_are_none(run):
    for name, said in (("resnet", "no class token"), ("xcit", "comes after its blocks")):
        with pytest.raises(Refused, match=said):
            Examined(mimlab.Features(run=run(name), pool="cls"))


@pytest.mark.slow
def test_the_notebook(run):
    given = {"run": run("mae"), "other": run("dino"), "samples": 30, "images": 2}
    path = mimlab.execute(ROOT / "notebooks" / "11_features.ipynb", given, progress=False)
    assert path == Path(run("mae")) / "features.ipynb"
    found = [out.data for cell in nbformat.read(path, as_version=4).cells for out in cell.get("outputs", ())]
    found = [data for data in found if "text/html" in data or "application/vnd.plotly.v1+json" in data]
    assert len([data for data in found if "application/vnd.plotly.v1+json" in data]) == 6
    assert len([data for data in found if "mimlab-like" in data.get("text/html", "")]) == 1
    assert len([data for data in found if "mimlab-map" in data.get("text/html", "")]) == 1
    own = [data for data in found if "mimlab-" in data.get("text/html", "") or len(data) == 1]
    assert max(len(json.dumps(data)) for data in own) < 1_000_000
