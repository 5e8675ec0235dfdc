"""Addresses, with fsspec's memory file system: parameters, presets, studies, data, notebooks, runs, what is sent away."""

import io
import json
import uuid
import zipfile
from pathlib import Path

import fsspec
import nbformat
import numpy as np
import pytest
from PIL import Image

import mimlab
from mimlab import data, preset, remote
from mimlab.__main__ import main
from mimlab.errors import Failed, Refused
from mimlab.settings import place
from mimlab.study import command, plan, results, spec


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """An empty place in memory, an empty cache and an empty current folder."""
    monkeypatch.setenv("MIMLAB_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MIMLAB_ROOT", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return f"memory://{uuid.uuid4().hex}"


def put(address, content):
    with fsspec.open(address, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())


def got(address):
    with fsspec.open(address, "rb") as file:
        return file.read()


def picture(seed):
    pixels, file = np.random.default_rng(seed).integers(0, 255, (12, 12, 3), np.uint8), io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def test_files_and_folders_are_fetched_once_and_again_when_changed(bucket):
    put(f"{bucket}/d/a/x.txt", "1")
    put(f"{bucket}/d/y.txt", "2")
    first = remote.here(f"{bucket}/d")
    assert {path.relative_to(first).as_posix() for path in first.rglob("*.txt")} == {"a/x.txt", "y.txt"}
    assert first == remote.here(f"{bucket}/d") and first.name == "d"
    put(f"{bucket}/d/y.txt", "3!")
    second = remote.here(f"{bucket}/d")
    assert second != first and (second / "y.txt").read_text() == "3!" and (first / "y.txt").read_text() == "2"
    assert remote.here(f"{bucket}/d/y.txt").read_text() == "3!"


@pytest.mark.parametrize(
    ("address", "said"), [("nosuch://b/x", "Protocol not known"), ("memory://nothing/there", "nothing is there")]
)
def test_what_cannot_be_read_is_one_line(bucket, address, said):
    with pytest.raises(Refused, match=f"cannot be read .*{said}") as error:
        remote.here(address)
    assert "\n" not in str(error.value)
    with pytest.raises(Refused, match="cannot be written"):
        remote.send(__file__, "nosuch://b/x")


def test_images_from_an_address_are_those_of_a_disk(bucket, tmp_path):
    (tmp_path / "photos").mkdir()
    pack = io.BytesIO()
    with zipfile.ZipFile(pack, "w") as file:
        for k in range(6):
            file.writestr(f"{k}.png", picture(k))
            (tmp_path / "photos" / f"{k}.png").write_bytes(picture(k))
            put(f"{bucket}/photos/{k}.png", picture(k))
        rows = [[f"{k}.png", f"class {k % 2}", "train"] for k in range(6)]
        file.writestr("index.json", json.dumps({"columns": ["file", "label", "split"], "rows": rows}))
    put(f"{bucket}/photos.zip", pack.getvalue())
    (tmp_path / "photos.zip").write_bytes(pack.getvalue())
    for name in ("photos", "photos.zip"):
        away, near = (
            data.open("folder", "train", size=8, holdout=0.0, path=path)
            for path in (f"{bucket}/{name}", str(tmp_path / name))
        )
        every = np.arange(len(near))
        assert len(near) == 6 and (away.get(every) == near.get(every)).all()


def test_presets_and_studies_with_their_presets_and_notebook(bucket):
    put(f"{bucket}/few.yaml", preset.text("random", 0.25, {}))
    assert mimlab.Pretrain(method="mae", preset=f"{bucket}/few.yaml").resolved().mask_ratio == 0.25
    tiny = "base: {data: emoji, image_size: 16, patch_size: 4, encoder_args: {dim: 24, depth: 1, heads: 2}}\n"
    put(f"{bucket}/s.yaml", tiny + "axes: {method: [mae]}\npresets: [few.yaml]\n")
    (job,) = plan.plan(spec.read(f"{bucket}/s.yaml"))
    assert job.settings["mask_ratio"] == 0.25
    put(f"{bucket}/s.yaml", tiny + "presets: [none.yaml]\n")
    with pytest.raises(Refused, match="none.yaml' cannot be read"):
        plan.plan(spec.read(f"{bucket}/s.yaml"))
    write(f"{bucket}/away.ipynb", "n = 1")
    put(f"{bucket}/n.yaml", f"notebook: {bucket}/away.ipynb\naxes: {{n: [1, 2]}}")
    assert [job.settings for job in plan.plan(spec.read(f"{bucket}/n.yaml"))] == [{"n": 1}, {"n": 2}]


def write(address, *cells):
    node = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    node.cells[0].metadata.tags = ["parameters"]
    put(address, nbformat.writes(node))


def test_notebook_parameters_and_output_at_addresses(bucket, capsys):
    """The command: -f, the notebook, --output; a failed copy goes to the same place."""
    write(f"{bucket}/n.ipynb", "n = 1\ntext = 'a'", "print(text * n)\nassert n < 5")
    put(f"{bucket}/p.yaml", "n: 3\ntext: b")
    call = ["run", f"{bucket}/n.ipynb", "-f", f"{bucket}/p.yaml", "--output", f"{bucket}/out/done.ipynb"]
    assert main([*call, "-p", "text", "c"]) == 0
    assert b"ccc" in got(f"{bucket}/out/done.ipynb") and f"{bucket}/out/done.ipynb" in capsys.readouterr().out
    with pytest.raises(Failed, match="AssertionError"):
        mimlab.execute(f"{bucket}/n.ipynb", {"n": 7}, output=f"{bucket}/out/bad.ipynb")
    assert b"AssertionError" in got(f"{bucket}/out/bad.failed.ipynb")
    put(f"{bucket}/p.yaml", "m: 3")
    assert main(call) == 2 and "no parameter 'm'" in capsys.readouterr().err


def test_run_sends_the_folder_of_its_output(bucket, capsys):
    write(f"{bucket}/n.ipynb", "n = 'a'", "print(n * 3)")
    call = ["run", f"{bucket}/n.ipynb", "-p", "n", "b", "--output", "done/it.ipynb", "--upload"]
    assert main([*call, f"{bucket}/out"]) == 0
    assert b"bbb" in got(f"{bucket}/out/done/it.ipynb")
    assert fsspec.url_to_fs(bucket)[0].find(f"{bucket}/out", withdirs=False) == [f"{bucket[8:]}/out/done/it.ipynb"]
    Path("done/it.ipynb").unlink()
    assert main([*call, "nosuch://b"]) == 2 and "'nosuch://b' cannot be written" in capsys.readouterr().err
    assert main([*call[:-2], f"{bucket}/it.ipynb", "--upload", f"{bucket}/out"]) == 2
    assert "sends the folder of the output" in capsys.readouterr().err
    assert not Path("done/it.ipynb").exists()
    with pytest.raises(Refused, match="'nosuch://b' cannot be written"):
        put(f"{bucket}/s.yaml", f"notebook: {bucket}/n.ipynb\naxes: {{n: [1, 2]}}")
        command.study(f"{bucket}/s.yaml", upload="nosuch://b", tell=print)
    assert not Path("studies").exists()


def test_runs_are_made_here_and_sent_when_done(bucket):
    with pytest.raises(Refused, match="on a disk of this machine; --upload"):
        mimlab.Pretrain(method="mae", out=f"{bucket}/runs").folder()
    tiny = {
        "data": "emoji",
        "image_size": 16,
        "patch_size": 4,
        "encoder_args": {"dim": 24, "depth": 1, "heads": 2},
        "knn_every": 0,
    }
    run = mimlab.pretrain(mimlab.Pretrain(method="simmim", updates="1", film=0, batch_size=16, **tiny))
    remote.send(run.path, f"{bucket}/runs/{run.path.name}")
    sent = fsspec.url_to_fs(bucket)[0].find(f"{bucket}/runs")
    names = {name.rpartition("/")[2] for name in sent}
    assert {"config.json", "metrics.jsonl", "encoder.safetensors"} <= names and "optimizer.bin" not in names
    back = mimlab.Run.find(f"{bucket}/runs/{run.path.name}")
    assert back.finished and back.path != run.path and back.settings == run.settings


def test_a_study_sends_its_table_page_and_runs_with_links_that_hold(bucket):
    write(f"{bucket}/n.ipynb", "n = 1")
    put(f"{bucket}/s.yaml", f"notebook: {bucket}/n.ipynb\naxes: {{n: [1, 2]}}")
    asked = spec.read(f"{bucket}/s.yaml")
    jobs = plan.plan(asked)
    for job in jobs:
        job.path.mkdir(parents=True)
        job.tasks[0].output.write_text("{}")
        (job.path / "result.json").write_text('{"seconds": 1}')
    results.keep(asked.folder, asked, jobs)
    assert command.study(f"{bucket}/s.yaml", upload=f"{bucket}/out", tell=lambda line: None) == 0
    assert b"done" in got(f"{bucket}/out/studies/s/results.csv")
    page = got(f"{bucket}/out/studies/s/report.html").decode()
    links = [part.partition('"')[0] for part in page.split('<a href="')[1:]]
    assert len(links) == 2
    for link in links:
        assert link.startswith("../../") and got(f"{bucket}/out/{link.removeprefix('../../')}") == b"{}"
    assert place("studies/s/results.csv").exists()
