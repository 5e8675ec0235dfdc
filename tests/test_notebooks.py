"""Every notebook: stripped, thin, in step with its settings, and executed as a user would, tiny."""

import ast
import functools
import json
import re
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.sign import NotebookNotary

import mimlab
from mimlab import config
from mimlab.errors import Refused
from mimlab.run import Run

ROOT = Path(mimlab.__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TINY = {
    "encoder_args": {"dim": 24, "depth": 1, "heads": 2},
    "fraction": 0.016,
    "patch_size": 7,
    "vocab": 32,
    "batch_size": 32,
    "epochs": 2,
    "knn_every": 1,
    "device": "cpu",
}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_outputs_are_stripped(notebook):
    assert all(not cell.outputs and cell.execution_count is None for cell in code(notebook))
    assert set(notebook.metadata) == {"kernelspec", "language_info", "mimlab"}


def test_the_parameters_cell_is_its_dataclass(notebook):
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    settings = getattr(config, notebook.metadata["mimlab"]["config"])
    assert cell.source == settings.cell()
    values = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(cell.source).body}
    assert values == settings.defaults()
    assert settings.read(values) == settings()


def test_cells_hold_no_logic(notebook):
    for cell in code(notebook):
        if {"parameters", "yours"} & set(cell.metadata.get("tags", [])):  # "yours" shows how a user extends it
            continue
        assert len(cell.source.splitlines()) <= 8, cell.source
        assert not re.search(r"^\s*(def|class|for|while|try|if|!|%)", cell.source, re.M), cell.source
        choices = [
            node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, (ast.IfExp, ast.comprehension))
        ]
        assert not choices, cell.source
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")


def outputs(path):
    """MIME types of each output of an executed notebook."""
    return [out.get("data", {}) for cell in code(nbformat.read(path, as_version=4)) for out in cell.outputs]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A tokenizer, whose pictures there are or (`random_projection`, the paper's) not -> 03 executed with it."""
    out = tmp_path_factory.mktemp("runs")

    @functools.cache
    def executed(tokenizer):
        given = TINY | {"out": str(out), "tokenizer": tokenizer, "run": tokenizer}
        return mimlab.execute(ROOT / "notebooks" / "03_pretrain.ipynb", given)

    return executed


@pytest.mark.parametrize("tokenizer", ["kmeans", pytest.param("random_projection", marks=pytest.mark.slow)])
def test_pretrain(runs, tokenizer):
    path = runs(tokenizer)
    assert path.name == "pretrain.ipynb" and path.parent.name == tokenizer
    assert len([data for data in outputs(path) if "application/vnd.plotly.v1+json" in data]) >= 5
    assert mimlab.Run.open(path.parent).finished
    text = json.dumps(nbformat.read(path, as_version=4))
    assert ("predicts no picture" in text) == (tokenizer != "kmeans") and "Error displaying widget" not in text


def test_reconstructions_and_evaluation_of_the_run(runs):
    run = str(runs("kmeans").parent)
    path = mimlab.execute(
        ROOT / "notebooks" / "04_reconstructions.ipynb", {"run": run, "mask_ratio": "0.6", "images": 2}
    )
    assert path == Path(run) / "reconstructions.ipynb"
    assert "psnr_hidden" in path.read_text()
    given = {"run": run, "evaluation_args": {"epochs": 1, "batch": 16}, "seeds": 1}
    path = mimlab.execute(ROOT / "notebooks" / "06_evaluate.ipynb", given)
    assert "from scratch" in path.read_text() and (Path(run) / "evals" / "finetune.json").exists()
    given = {"run": run, "evaluation": "knn", "evaluation_args": {"k": 5}, "seeds": 1}
    mimlab.execute(ROOT / "notebooks" / "06_evaluate.ipynb", given)
    assert set(mimlab.Run.open(run).evaluations()) == {"finetune", "knn"}


@pytest.mark.slow
def test_two_processes_from_a_notebook_parameter(tmp_path):
    """The same first loss as one process, training followed from the kernel."""
    given = TINY | {"out": str(tmp_path), "epochs": 1, "drop_path": 0.0, "log_every": 1, "vocab": 16}
    first = []
    for processes in (1, 2):
        given |= {"processes": processes, "run": f"with_{processes}"}
        path = mimlab.execute(ROOT / "notebooks" / "03_pretrain.ipynb", given)
        first.append([row["loss"] for row in mimlab.Run.open(path.parent).metrics() if "loss" in row])
    assert first[0] == pytest.approx(first[1], rel=1e-3)
    assert "splitmask: step 5 of 5" in path.read_text()


def test_interrupting_the_cell_saves_and_running_it_again_goes_on(tmp_path):
    """As the stop button of JupyterLab does it: a real kernel, interrupted while it trains."""
    from jupyter_client.manager import start_new_kernel

    given = TINY | {
        "out": str(tmp_path),
        "run": "r",
        "epochs": 400,
        "knn_every": 0,
        "log_every": 1,
        "tokenizer": "kmeans",
    }
    code = f"import mimlab\ncfg = mimlab.Pretrain(**{given!r})\nrun = mimlab.pretrain(cfg)"
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        run = Run.at(tmp_path / "r")
        asked = client.execute(code)
        until(lambda: len(run.metrics()) > 20)
        manager.interrupt_kernel()
        reply = client.get_shell_msg(timeout=60)
        while reply["parent_header"]["msg_id"] != asked:  # a slow start leaves answers to "are you there"
            reply = client.get_shell_msg(timeout=60)
        assert reply["content"]["ename"] == "KeyboardInterrupt" and "go on" in reply["content"]["evalue"]
        (saved,) = run.checkpoints()
        assert saved >= 20 and not run.finished
        # for a moment after an error a kernel aborts what it is sent, so that cells queued behind the failed one do not run
        until(lambda: client.execute("", reply=True, timeout=60)["content"]["status"] == "ok")
        client.execute(code)
        until(lambda: run.metrics()[-1]["step"] > saved + 5)
        steps = [row["step"] for row in run.metrics() if "loss" in row]
        assert steps == list(range(1, len(steps) + 1))  # nothing twice, nothing left out
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def until(condition, patience=90):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)


@pytest.mark.slow
def test_compare(runs):
    path = mimlab.execute(ROOT / "notebooks" / "07_compare.ipynb", {"out": str(runs("kmeans").parent.parent)})
    assert path.parent.name == "compared" and path.stat().st_size < 3_000_000
    assert sum("application/vnd.plotly.v1+json" in data for data in outputs(path)) >= 7


@pytest.mark.slow
def test_tokenizers(tmp_path):
    given = {"out": str(tmp_path), "image_size": 28, "patch_size": 7, "vocab": 32, "samples": 30, "images": 2}
    given |= {"tokenizers": "random_projection, kmeans, dvae", "tokenizer_args": {"dvae": {"steps": 2}}}
    path = mimlab.execute(ROOT / "notebooks" / "02_tokenizers.ipynb", given)
    assert path == tmp_path / "tokens" / "tokenizers.ipynb"
    assert sum("application/vnd.plotly.v1+json" in data for data in outputs(path)) == 6


def test_masks(tmp_path):
    given = {
        "out": str(tmp_path),
        "data": "fashion_mnist",
        "image_size": 28,
        "patch_size": 4,
        "samples": 50,
        "mask_ratio": 0.4,
    }
    path = mimlab.execute(ROOT / "notebooks" / "01_masks.ipynb", given)
    assert path == tmp_path / "masks" / "masks.ipynb"
    found = outputs(path)
    assert sum("application/vnd.plotly.v1+json" in data for data in found) == 7
    explorers = [data for data in found if "image/png" in data]
    assert len(explorers) == 2  # each alive without a kernel, and a picture where scripts are stripped
    for data in explorers:
        assert "<img" in data["text/html"] and "mimlab-masks" in data["text/html"] and not _links(data["text/html"])
        assert len(json.dumps(data)) < 500_000
        assert not any("widget" in kind for kind in data)  # a widget without its kernel is an error message
    node = nbformat.read(path, as_version=4)
    assert NotebookNotary().check_signature(node)  # so JupyterLab shows it alive


@pytest.mark.slow
def test_scale(tmp_path):
    given = {"out": str(tmp_path), "methods": "mae", "encoder_args": {"dim": 24, "depth": 1, "heads": 2}, "rounds": 1}
    given |= {"sizes": "16, 32", "batches": "2, 4", "batch_size": 2, "ratios": "0.5, 0.75", "images": "1000, 4000"}
    path = mimlab.execute(ROOT / "notebooks" / "12_scale.ipynb", given | {"processes": "", "gpus": "1, 8"})
    assert path == tmp_path / "scale" / "scale.ipynb"
    assert sum("application/vnd.plotly.v1+json" in data for data in outputs(path)) == 7
    text = path.read_text()
    assert "two or more numbers show how it grows" in text and text.count("<sup>") >= 8  # processes; exponents


def _links(html):
    """Everything that a browser would fetch."""
    return re.findall(r"(?:src|href)=.(http[^\"' ]*)|import\(.(http[^\"']*)", html)


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("03_pretrain", {"mask_ration": 0.5}, "no parameter 'mask_ration' .did you mean 'mask_ratio'"),
        ("03_pretrain", {"epochs": "2.5"}, "not a whole number"),
        ("03_pretrain", {"mask": "blokwise"}, "did you mean 'blockwise'"),
        ("04_reconstructions", {"run": "nowhere"}, "is no run folder"),
        ("02_tokenizers", {"tokenizers": "kmean"}, "did you mean 'kmeans'"),
        ("05_attention", {"run": "nowhere"}, "is no run folder"),
        ("05_attention", {"query": "middle"}, "neither cls nor a patch"),
        ("06_evaluate", {"run": "nowhere"}, "is no run folder"),
        ("11_features", {"run": "nowhere"}, "is no run folder"),
        ("11_features", {"project": "som"}, "pca, tsne, umap"),
        ("06_evaluate", {"evaluation": "finetun"}, "evaluation_args|did you mean 'finetune'"),
        ("01_masks", {"patch_size": 5}, "does not divide"),
        ("12_scale", {"methods": "mea"}, "did you mean 'mae'"),
    ],
)
def test_a_wrong_parameter_is_refused_before_a_kernel_starts(name, given, said, tmp_path, monkeypatch):
    import papermill

    monkeypatch.setattr(papermill, "execute_notebook", lambda *a, **k: pytest.fail("a kernel was started"))
    with pytest.raises(Refused, match=said):
        mimlab.execute(ROOT / "notebooks" / f"{name}.ipynb", {"out": str(tmp_path)} | given)
    assert not list(tmp_path.iterdir())


def test_the_readme_names_every_notebook():
    text = (ROOT / "README.md").read_text()
    assert [path.name for path in NOTEBOOKS if path.name not in text] == []
