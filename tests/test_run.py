"""The run folder: atomic files, damaged files, finding runs."""

import json

import pytest
from run_cases import finish

import mimlab
from mimlab.errors import Refused
from mimlab.run import Run, write


def fake(path, finished=True):
    path.mkdir(parents=True)
    settings = mimlab.Pretrain(out=str(path.parent)).resolved().dict()
    (path / "config.json").write_text(json.dumps({"settings": settings, "data_fingerprint": "x"}))
    if finished:
        finish(path)
    return Run.at(path)


def test_newest_finished_run(tmp_path):
    fake(tmp_path / "a")
    fake(tmp_path / "b")
    fake(tmp_path / "c", finished=False)
    assert Run.find("newest", tmp_path).path == tmp_path / "b"
    assert Run.find("a", tmp_path).path == tmp_path / "a"
    assert Run.find(str(tmp_path / "c"), "elsewhere").path == tmp_path / "c"
    with pytest.raises(Refused, match="no finished run"):
        Run.find("newest", tmp_path / "empty")
    with pytest.raises(Refused, match="is no run folder"):
        Run.find("d", tmp_path)


def test_relative_folders_lie_under_mimlab_root(tmp_path, monkeypatch):
    """A notebook in a sub-folder finds the runs of the project."""
    run = fake(tmp_path / "runs" / "a")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    with pytest.raises(Refused, match="no finished run"):
        Run.find("newest")
    monkeypatch.setenv("MIMLAB_ROOT", str(tmp_path))
    assert Run.find("newest").path == Run.find("a").path == Run.find("runs/a").path == run.path
    assert mimlab.Pretrain(run="b").folder() == tmp_path / "runs" / "b"
    assert mimlab.Pretrain(run="b", out=str(tmp_path / "c")).folder() == tmp_path / "c" / "b"


def test_settings_come_back(tmp_path):
    run = fake(tmp_path / "a")
    assert run.settings == mimlab.Pretrain(out=str(tmp_path)).resolved()
    assert repr(run) == f"Run('{tmp_path}/a', finished)"


def test_a_damaged_config_is_refused(tmp_path):
    run = fake(tmp_path / "a")
    (run.path / "config.json").write_text('{"settings": {')
    with pytest.raises(Refused, match=r"config.json is damaged"):
        Run.open(run.path)


def test_a_line_cut_by_a_crash_is_left_out(tmp_path):
    run = fake(tmp_path / "a")
    for step in (1, 2, 3):
        run.append({"step": step, "loss": 1.0 / step})
    with open(run.path / "metrics.jsonl", "a") as handle:
        handle.write('{"step": 4, "lo')
    assert [row["step"] for row in run.metrics()] == [1, 2, 3]
    run.forget_after(2)
    assert [row["step"] for row in run.metrics()] == [1, 2]
    run.append({"step": 3})
    assert [row["step"] for row in run.metrics()] == [1, 2, 3]


def test_checkpoints_are_whole_or_not_there(tmp_path):
    run = fake(tmp_path / "a")
    run.save(5, lambda folder: (folder / "state").write_text("5"))
    run.save(10, lambda folder: (folder / "state").write_text("10"))
    assert list(run.checkpoints()) == [10]
    (run.path / "checkpoint" / "00000015.part").mkdir()
    (run.path / "checkpoint" / "00000015.part" / "state").write_text("1")
    assert list(run.checkpoints()) == [10]

    def fails(folder):
        (folder / "state").write_text("2")
        raise OSError(28, "No space left on device")

    with pytest.raises(Refused, match="step 20.*No space left on device; the last good checkpoint is step 10"):
        run.save(20, fails)
    assert (run.path / "checkpoint" / "00000010" / "state").read_text() == "10"


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    from pathlib import Path

    path = tmp_path / "x.json"
    write(path, "old")

    def full(self, text):
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(Refused, match="cannot write .*x.json: No space left on device"):
        write(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match=r"out = .*file"):
        mimlab.pretrain(mimlab.Pretrain(out=str(tmp_path / "file"), method="mae"))


def test_no_checkpoint_to_look_at(tmp_path):
    with pytest.raises(Refused, match="no checkpoint yet"):
        fake(tmp_path / "a", finished=False).method()


def test_truncated_weights_are_refused(tmp_path):
    run = fake(tmp_path / "a")
    (run.path / "method.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(Refused, match="truncated or no safetensors"):
        run.method()


def test_the_last_value_of_each_quantity(tmp_path):
    run = fake(tmp_path / "a")
    for row in ({"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "lr": 0.1}, {"step": 2, "knn_top1": 50.0}):
        run.append(row)
    assert run.last() == {"step": 2, "loss": 1.0, "lr": 0.1, "knn_top1": 50.0}


def test_rows_are_followed_from_where_they_were_read(tmp_path):
    run = Run.at(tmp_path)
    assert run.metrics_since(0) == ([], 0)
    run.append({"step": 1})
    rows, at = run.metrics_since(0)
    assert rows == [{"step": 1}] and run.metrics_since(at) == ([], at)
    run.append({"step": 2})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3')  # being written
    rows, at = run.metrics_since(at)
    assert rows == [{"step": 2}]
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write("}\n")
    assert run.metrics_since(at)[0] == [{"step": 3}]


TINY = {
    "encoder_args": {"dim": 16, "depth": 1, "heads": 2},
    "method": "mae",
    "method_args": {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2},
    "image_size": 8, "patch_size": 4, "batch_size": 8, "epochs": 1, "knn_every": 0, "film": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", ["r", None])
def test_a_run_goes_on_with_its_images_elsewhere_and_not_with_others(tmp_path, name):
    from PIL import Image

    from mimlab import data

    for i in range(20):
        (tmp_path / "photos" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 10 * i).save(tmp_path / "photos" / "ab"[i % 2] / f"{i}.bmp")
    (tmp_path / "photos" / "notes.txt").touch()

    def settings(folder, **more):
        args = {"path": str(tmp_path / folder)} | more
        return mimlab.Pretrain(data="folder", data_args=args, run=name, out=str(tmp_path / "runs"), **TINY)

    run = mimlab.pretrain(settings("photos"))
    assert run.config["about"]["left_out"] == {"files of other kinds": {".txt": 1}}
    assert run.config["about"]["images"] == {"train": 16, "test": 4}
    (run.path / "encoder.safetensors").unlink()  # as if it had been cut off
    (tmp_path / "photos").rename(tmp_path / "moved")
    again = mimlab.pretrain(settings("moved"))
    assert again.finished and again.path == run.path and len(list((tmp_path / "runs").iterdir())) == 1
    assert len(again.data()) == 16  # the folder of config.json is the new one
    file = tmp_path / "moved" / "a" / "0.bmp"
    file.write_bytes(file.read_bytes()[:-1] + b"\x99")  # the same size
    if name:
        with pytest.raises(Refused, match="have changed since it was begun"):
            mimlab.pretrain(settings("moved"))
        with pytest.raises(Refused, match="belongs to another configuration: data_args"):
            mimlab.pretrain(settings("moved", holdout=0.5))
    else:
        assert settings("moved", holdout=0.5).folder() != run.path
    assert data.location("folder", {"path": "x"}) == ("path",) and data.location("emoji", {}) == ()


@pytest.mark.parametrize("name", ["typo", "newest", "", "a\0b", "x" * 5000, "runs/typo"])
def test_what_is_no_run_is_refused_at_once_and_told_how_a_name_is_found(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused, match="is no run folder .*Run.find") as refused:
        Run(name)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400
    assert Run.at("typo").metrics() == [] and not Run.at("typo").finished


def test_a_log_is_read_and_cut_in_pieces_and_loses_nothing(tmp_path, monkeypatch, capsys):
    from mimlab import files, run

    monkeypatch.setattr(
        files.lines, "__defaults__", (0, 64)
    )  # bytes at once: a line of the log, and a part of the next
    rows = [{"step": k, "loss": 1.0 / (k + 1)} for k in range(40)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text(text[:500] + text[500:] + '{"step": 40, "lo')
    assert Run(tmp_path).metrics() == rows
    monkeypatch.setattr(run, "MOST_ROWS", 10)
    assert Run(tmp_path).metrics() == rows[:10] and "beyond 10 lines" in "".join(capsys.readouterr())
    Run(tmp_path).forget_after(29)
    assert list(Run(tmp_path).rows()) == rows[:30]
