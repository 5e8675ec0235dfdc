"""Every notebook that looks at a run, on a run of every method: its cells in one shell, and (slow) through papermill.

By default a few kinds of runs stand for all: two branches, nothing hidden, a method with pictures of its own, odd sizes.
"""

import json
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

import mimlab
from mimlab import config
from mimlab.errors import Refused
from mimlab.find import names
from mimlab.report import report

NOTEBOOKS = Path(mimlab.__file__).parent.parent / "notebooks"
SMALL = {
    "mae": {"method_args": {"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2}},
    "cae": {"method_args": {"regressor_depth": 1, "decoder_depth": 1}},
    "cim": {"method_args": {"generator_dim": 24, "generator_heads": 2}},
    "dino": {"method_args": {"out_dim": 64, "head_dim": 32, "bottleneck_dim": 16}, "augment": {"local_crops": 2}},
}
RUNS = {name: {"method": name} | SMALL.get(name, {}) for name in names("methods")}
RUNS |= {
    "revdet": {"method": "cim", "method_args": SMALL["cim"]["method_args"] | {"objective": "revdet"}},
    "mae_tokens": {
        "method": "mae",
        "tokenizer": "kmeans",
        "method_args": SMALL["mae"]["method_args"] | {"target": "tokens"},
    },
    "mae_pca": {"method": "mae", "method_args": SMALL["mae"]["method_args"] | {"target": "pca"}},
    "simmim_coarser": {"method": "simmim", "method_args": {"head": "blocks", "coarser": 7}},
    "xcit": {"method": "beit", "encoder": "xcit", "image_size": 32, "patch_size": 8},
    "resnet": {"method": "supervised", "encoder": "resnet18", "encoder_args": {}},
    "one_head": {"method": "beit", "encoder_args": {"dim": 24, "depth": 1, "heads": 1}, "patch_size": 14},
}
TINY = {"encoder_args": {"dim": 24, "depth": 2, "heads": 2}, "fraction": 0.016, "patch_size": 7, "vocab": 32}
TINY |= {"batch_size": 32, "epochs": 1, "knn_every": 0, "device": "cpu"}
QUICK = {"splitmask", "dino", "revdet", "one_head"}
LOOKS = {
    "04_reconstructions": {"images": 2},
    "05_attention": {"images": 2},
    "06_evaluate": {"evaluation": "knn", "evaluation_args": {"k": 5}, "seeds": 1},
    "07_compare": {"images": 2},
    "11_features": {"images": 4},
}
WITHOUT = {  # what has no such picture, and the words that say so
    ("dino", "04_reconstructions"): "reconstructs nothing",
    ("supervised", "04_reconstructions"): "reconstructs nothing",
    ("resnet", "04_reconstructions"): "reconstructs nothing",
    ("resnet", "05_attention"): "no attention",
}


@pytest.fixture(scope="module", params=RUNS)
def trained(request, tmp_path_factory):
    """(name, path of its run), trained for an epoch of tiny settings."""
    out = tmp_path_factory.mktemp(request.param)
    return request.param, mimlab.pretrain(mimlab.Pretrain(**TINY | RUNS[request.param], out=str(out), run="r")).path


def told(name, notebook, run):
    """Parameters of a notebook that looks at the run."""
    if notebook == "07_compare":
        return LOOKS[notebook] | {"runs": str(run)}
    return LOOKS[notebook] | {"run": str(run)}


def run_cells(notebook, told, capsys):
    """Run the code cells of a notebook in one shell, as in batch execution; returns what they printed and showed."""
    from IPython.core.interactiveshell import InteractiveShell

    shell, shown = InteractiveShell(), ""
    for cell in nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", as_version=4).cells:
        if cell.cell_type != "code":
            continue
        given = "parameters" in cell.metadata.get("tags", [])
        source = cell.source + "".join(f"\n{k} = {v!r}" for k, v in told.items()) * given
        result = shell.run_cell(source)
        assert result.success, f"{source}\n{result.error_in_exec or result.error_before_exec}"
        said = capsys.readouterr()  # what fails while a result is shown is printed, not raised
        assert "Traceback" not in said.out + said.err, f"{source}\n{said.out}{said.err}"
        shown += said.out
    return shown


@pytest.mark.parametrize("trained", sorted(QUICK), indirect=True)
@pytest.mark.parametrize("notebook", LOOKS)
def test_its_cells_run_on_kinds_of_runs(trained, notebook, monkeypatch, capsys):
    name, run = trained
    monkeypatch.setenv("MIMLAB_BATCH", "1")
    run_cells(notebook, told(name, notebook, run), capsys)


def test_one_grey_image_without_labels_film_or_test_split(tmp_path, monkeypatch, capsys):
    """Every picture that there is, and a line for each that there is not."""
    monkeypatch.setenv("MIMLAB_BATCH", "1")
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.arange(30 * 40, dtype=np.uint8).reshape(30, 40)).save(tmp_path / "photos" / "grey.png")
    given = TINY | RUNS["mae"] | {"data": "folder", "data_args": {"path": str(tmp_path / "photos")}, "fraction": 1.0}
    given |= {"encoder_args": {"dim": 24, "depth": 1, "heads": 1}, "image_size": 32, "patch_size": 8, "batch_size": 1}
    run = mimlab.pretrain(mimlab.Pretrain(**given, film=0, checkpoint_every=0, out=str(tmp_path), run="r")).path
    said = "train images of folder, since there is no test split"
    assert said in run_cells("04_reconstructions", {"run": str(run)}, capsys)
    for notebook in ("05_attention", "07_compare", "11_features"):
        run_cells(notebook, told("mae", notebook, run), capsys)
    page = report([str(run)]).read_text()
    assert said in page and "kept neither a film" in page and page.count("data-plotly role") >= 5


@pytest.mark.slow
@pytest.mark.parametrize("notebook", LOOKS)
def test_papermill_executes_it_on_every_method(trained, notebook, tmp_path):
    name, run = trained
    path = mimlab.execute(NOTEBOOKS / f"{notebook}.ipynb", told(name, notebook, run))
    text = path.read_text()
    assert path.stat().st_size < 3_000_000 and "Error displaying widget" not in text
    if (name, notebook) in WITHOUT:
        assert WITHOUT[name, notebook] in text


def test_what_is_looked_at_is_what_there_is():
    """A notebook whose settings have a run to look at is in the list above."""
    with_run = set()
    for path in NOTEBOOKS.glob("*.ipynb"):
        settings = getattr(config, nbformat.read(path, as_version=4).metadata["mimlab"]["config"])
        if {"run", "runs"} & set(settings.defaults()) and path.stem not in ("03_pretrain", "10_detection"):
            with_run.add(path.stem)
    assert with_run - {"01_masks"} == set(LOOKS), json.dumps(sorted(with_run))


@pytest.mark.slow
def test_an_encoder_without_its_method_and_a_run_without_weights(tmp_path):
    """A file with an encoder alone has attention and features, and no reconstruction; a run without weights is refused."""
    cfg = mimlab.Pretrain(**TINY | RUNS["mae"], film=0, checkpoint_every=0, out=str(tmp_path), run="r")
    run = mimlab.pretrain(cfg).path
    file = shutil.copy(run / "encoder.safetensors", tmp_path / "alone.safetensors")  # no config.json beside it
    alone = {"run": str(file), "load": {"heads": 2}, "images": 3, "out": str(tmp_path)}
    for notebook in ("05_attention", "11_features"):
        assert '"image/png"' in mimlab.execute(NOTEBOOKS / f"{notebook}.ipynb", alone).read_text()
    with pytest.raises(Refused, match="an encoder alone"):
        mimlab.execute(NOTEBOOKS / "04_reconstructions.ipynb", alone)
    (run / "method.safetensors").unlink()
    for notebook in ("04_reconstructions", "05_attention", "11_features"):
        with pytest.raises(Refused, match="no weights at"):
            mimlab.execute(NOTEBOOKS / f"{notebook}.ipynb", {"run": str(run)})
