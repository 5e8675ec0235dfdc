"""Files are written aside, never through links; what others wrote is kept; what is read may be anything."""

import json
import os
import zipfile

import pytest
import torch

import mimlab
from mimlab import checkpoints, files, remote, trusted
from mimlab.errors import Refused
from mimlab.run import Run, not_finite

OUTSIDE = ["../x", "a/../../x", "/x", "a//x", "a\\x", "C:/x", "a\0x", "a\nx", "..", ".", "", "a/./x", "x" * 300]


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_name_from_elsewhere_stays_below_its_folder(name):
    with pytest.raises(Refused):
        files.member(name)
    assert files.member("a b/ü.png") == ["a b", "ü.png"]


def test_an_archive_whose_names_climb_writes_nothing_outside(tmp_path, monkeypatch):
    monkeypatch.setenv("MIMLAB_HOME", str(tmp_path / "home"))
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("run/config.json", "{}")
        archive.writestr("run/../../../../OUT", "written")
    with pytest.raises(Refused, match="could lie outside"):
        remote.here(f"zip://run::{tmp_path / 'evil.zip'}")
    assert not list(tmp_path.rglob("OUT"))


@pytest.mark.parametrize(
    "name", ["lock", "config.json.part", "metrics.jsonl", "film/fixed.npz", "checkpoint", "evals/knn.json"]
)
def test_a_link_in_a_run_folder_is_not_written_through(folder, tmp_path, name):
    run, target = folder("a", finished=False), tmp_path / "mine.txt"
    target.write_text("mine")
    path = run.path / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)
    with pytest.raises(Refused, match="is a link"), run.lock():
        pass
    assert target.read_text() == "mine"


def test_a_run_folder_may_itself_be_a_link(folder, tmp_path):
    run = folder("a", finished=False)
    (tmp_path / "b").symlink_to(run.path)
    with Run.at(tmp_path / "b").lock():
        pass


def test_a_file_with_a_second_name_grows_alone(tmp_path):
    (tmp_path / "a").write_text("1\n")
    os.link(tmp_path / "a", tmp_path / "backup")
    files.append(tmp_path / "a", "2\n")
    assert (tmp_path / "a").read_text() == "1\n2\n" and (tmp_path / "backup").read_text() == "1\n"


@pytest.mark.parametrize(
    "name", ["..", ".", "", "../x", "/x", "a/b", "a\\b", "a\nb", "x" * 300, ".hidden", "\udce9", "C:x"]
)
@pytest.mark.parametrize("kind", [mimlab.Pretrain, mimlab.Detect])
def test_a_run_is_called_by_one_name(kind, name):
    with pytest.raises(Refused, match="run = "):
        kind(run=name)


DAMAGES = {
    "empty": b"",
    "cut": b'{"settings": {',
    "garbage": b"\xff\xfe\x00\x01",
    "list": b"[]",
    "deep": b"[" * 100_000,
    "types": b'{"settings": [], "results": 3, "format": "x", "step": "y"}',
    "newer": b'{"format": 99, "settings": {}}',
}


FILES = ["config.json", "metrics.jsonl", "evals/knn.json", "film/00000001.npz", "encoder.safetensors"]
EVERY = [(name, damage) for name in FILES for damage in [*DAMAGES, "folder", "pipe"]]


@pytest.mark.parametrize(  # each file and each damage once, and all with all where there is time
    ("name", "damage"),
    [pytest.param(*one, marks=[] if k % 7 == 0 else pytest.mark.slow) for k, one in enumerate(EVERY)],
)
def test_a_damaged_file_of_a_run_is_told_or_left_out(folder, tmp_path, name, damage):
    from mimlab import compare, verdicts
    from mimlab.looking import film

    run, path = folder("a", [{"step": 1, "loss": 1.0}]), tmp_path / "a" / name
    folder("whole")
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    if damage == "folder":
        path.mkdir()
    elif damage == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(DAMAGES[damage])
    for use in (Run.open, film.read, lambda path: compare.who([Run(path)]), lambda path: verdicts.results([Run(path)])):
        try:
            use(Run(run.path) if use is film.read else run.path)
        except Refused as error:
            assert "\n" not in str(error)
    told = [one.path.name for one in compare.select("*", folder.out)]
    assert "whole" in told and ("a" in told) == (name != "config.json")


def test_a_line_without_end_is_passed_over_in_parts(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"a\nb\nc" + b"x" * 20 + b"\nd\n")
    assert files.lines(path, 0, 6) == (b"a\nb", 4)
    assert files.lines(path, 4, 6) == (b"", 10)  # so many without an end of a line
    assert files.lines(path) == (b"a\nb\nc" + b"x" * 20 + b"\nd", path.stat().st_size)


def test_numbers_that_no_float_holds_are_left_out(folder):
    run = folder("a", evals={"knn": {"results": {"after mae": {"metric": "top1", "top1": 10**400}}}})
    rows = [{"step": 1, "loss": 10**400, "lr": 0.1}, {"step": 10**400}, {"step": 2, "loss": 1.0}]
    long = '{"step": 3, "name": "' + "x" * files.LINE + '"}\n'
    (run.path / "metrics.jsonl").write_text(long + "".join(json.dumps(row) + "\n" for row in rows))
    assert run.metrics() == [{"step": 1, "lr": 0.1}, {"step": 2, "loss": 1.0}]
    assert run.evaluations() == {}


def repacked(source, target, **pickled):
    """A file of torch.save with its entries deflated, or stored with another pickle."""
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w") as after:
        for entry in before.infolist():
            raw, way = before.read(entry), zipfile.ZIP_STORED if pickled else zipfile.ZIP_DEFLATED
            if entry.filename.endswith("data.pkl") and pickled:
                raw = pickled["pickle"]
            after.writestr(entry.filename, raw, compress_type=way)


def test_weights_that_unpack_to_more_or_hash_for_ever_are_refused(tmp_path):
    torch.save({"model": {"a": torch.zeros(1 << 16)}}, tmp_path / "a.pth")
    repacked(tmp_path / "a.pth", tmp_path / "bomb.pth")
    with pytest.raises(Refused, match="compressed entries"):
        checkpoints.contents(tmp_path / "bomb.pth")
    nested = b"".join(b"0h" + bytes([k - 1]) + b"h" + bytes([k - 1]) + b"\x86q" + bytes([k]) for k in range(2, 60))
    nested = b"\x80\x02}K\x01K\x01\x86q\x01" + nested + b"K\x01s."  # a tuple of itself twice, and so on, as a key
    repacked(tmp_path / "a.pth", tmp_path / "deep.pth", pickle=nested)
    (tmp_path / "old.pth").write_bytes(nested)
    for name in ("deep.pth", "old.pth"):
        with pytest.raises(Refused, match="nested too deep"):
            checkpoints.contents(tmp_path / name)
    torch.save({"a": torch.zeros(128)}, tmp_path / "older.pth", _use_new_zipfile_serialization=False)
    assert checkpoints.contents(tmp_path / "older.pth")["a"].shape == (128,)


def test_a_file_of_holes_larger_than_the_memory_is_refused(tmp_path):
    for name in ("a.pth", "a.safetensors"):
        with open(tmp_path / name, "wb") as file:
            file.truncate(1 << 42)
        with pytest.raises(Refused, match="more than this machine's memory"):
            checkpoints.contents(tmp_path / name)


def test_a_result_is_of_the_same_protocol_where_its_images_were_moved(tmp_path):
    import shutil

    import numpy as np
    from PIL import Image

    from mimlab.evals import described

    class Split(list):
        split = "test"

    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "one" / split / name).mkdir(parents=True)
            for k in range(2):
                pixels = np.full((4, 4, 3), 40 * k + len(split) + 100 * (name == "b"), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "one" / split / name / f"{k}.png")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    Image.new("RGB", (4, 4), "red").save(tmp_path / "other" / "test" / "a" / "0.png")
    said = {}
    for place in ("one", "two", "other"):
        cfg = mimlab.Evaluate(run="x", data="folder", data_args={"path": str(tmp_path / place)})
        said[place] = described(cfg, None, Split("ab"), Split("ab"))
    assert said["one"] == said["two"] != said["other"]


def test_a_module_that_only_a_run_names_is_not_imported(folder, tmp_path, monkeypatch):
    run = folder("evil")
    about = json.loads((run.path / "config.json").read_text())
    about["settings"]["mask"] = "payload_of_a_run.mask"
    (run.path / "config.json").write_text(json.dumps(about))
    monkeypatch.delenv(trusted.VARIABLE, raising=False)
    with pytest.raises(Refused, match="--trust payload_of_a_run.mask"):
        _ = Run.open(run.path).settings
    monkeypatch.setenv(trusted.VARIABLE, "payload_of_a_run")
    assert Run.open(run.path).settings.mask == "payload_of_a_run.mask"


def test_nothing_is_imported_from_a_run_folder(folder, tmp_path, monkeypatch):
    run = folder("run_of_somebody")
    (run.path / "payload.py").write_text("raise SystemExit('ran')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(Refused, match="lies in the run folder"):
        trusted.importable("run_of_somebody.payload")


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_weights_of_another_kind_are_refused(dtype):
    module = torch.nn.Linear(2, 2)
    state = {name: torch.zeros(value.shape).to(dtype) for name, value in module.state_dict().items()}
    with pytest.raises(Refused, match="numbers of another kind"):
        checkpoints.load(module, state, "here")
    assert checkpoints.load(module, {n: v.half() for n, v in module.state_dict().items()}, "here") == ([], [])


def test_numbers_that_are_not_finite_are_counted():
    bad = torch.tensor([1.0, float("nan"), float("inf")])
    assert int(not_finite({"a": [bad, {"b": bad.long()}]}, bad)) == 4 and int(not_finite({})) == 0


def test_what_somebody_else_wrote_is_kept(tmp_path):
    path = tmp_path / "x.html"
    path.write_text("mine")
    with pytest.raises(Refused, match="was not written by mimlab"):
        files.replaceable(path, "out", lambda raw: b"mimlab" in raw)
    files.replaceable(path, "out", lambda raw: b"mimlab" in raw, force=True)
    path.write_text("mimlab's")
    files.replaceable(path, "out", lambda raw: b"mimlab" in raw)


def test_a_run_of_the_earlier_format_is_found_by_its_settings(tmp_path):
    cfg = mimlab.Pretrain(method="mae", out=str(tmp_path)).resolved()
    new = cfg.folder()
    old = new.with_name(f"{new.name[:-16]}0a1b2c")
    old.mkdir()
    (old / "config.json").write_text(json.dumps({"settings": cfg.dict(), "data_fingerprint": "times"}))
    assert cfg.folder() == old and cfg.replace(seed=1).folder() != old and len(new.name.rpartition("-")[2]) == 16


def test_a_killed_process_leaves_kept_weights_that_are_made_again(tmp_path):
    from safetensors.torch import save_file

    run = Run.at(tmp_path / "a")
    run.save(3, lambda folder: save_file({"x": torch.ones(2)}, folder / "model.safetensors"), keep=True)
    kept = run.path / "weights" / "00000003.safetensors"
    kept.write_bytes(b"")
    (run.path / "weights" / "00000003.part").write_bytes(b"x")
    with run.lock():
        run.repair(True)
    assert files.whole(kept) and not list(run.path.rglob("*.part"))


def test_a_checkpoint_that_cannot_be_written_is_one_line(tmp_path):
    from safetensors import SafetensorError

    run = Run.at(tmp_path / "a")
    for error in (SafetensorError("full"), OSError(28, "No space left on device"), RuntimeError("")):

        def fails(folder, error=error):
            raise error

        with pytest.raises(Refused, match="cannot write the checkpoint of step 2 .*no earlier checkpoint"):
            run.save(2, fails)
    assert not list(run.path.rglob("*.part"))


TINY = {
    "method": "simmim", "data": "emoji", "fraction": 0.1, "image_size": 16, "patch_size": 4, "encoder_args": {"dim": 24, "depth": 1, "heads": 2},
    "batch_size": 16, "updates": "2", "epochs": 1, "warmup_epochs": 0, "log_every": 1, "knn_every": 0, "film": 0, "device": "cpu",
}  # fmt: skip


def squares(folder):
    """Eight images of two classes in each split."""
    import numpy as np
    from PIL import Image

    for split in ("train", "test"):
        for name in ("a", "b"):
            (folder / split / name).mkdir(parents=True)
            for k in range(4):
                pixels = np.full((16, 16, 3), 20 * k + len(split) + 100 * (name == "b"), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{k}.png")
    return folder


def test_an_interrupted_evaluation_goes_on_where_its_images_were_moved(tmp_path, monkeypatch):
    from functools import wraps

    from mimlab.evals import knn

    run = mimlab.pretrain(mimlab.Pretrain(**TINY, out=str(tmp_path)))
    first, seeds, evaluate = squares(tmp_path / "one"), [], knn.evaluate

    @wraps(evaluate)
    def counted(*given, **options):
        seeds.append(1)
        return evaluate(*given, **options)

    monkeypatch.setattr(knn, "evaluate", counted)

    def stop(row):
        raise KeyboardInterrupt

    cfg = {"run": str(run.path), "evaluation": "knn", "evaluation_args": {"k": 1}, "data": "folder", "seeds": 2}
    cfg |= {"baseline": False}
    with pytest.raises(KeyboardInterrupt):
        mimlab.evaluate(mimlab.Evaluate(**cfg, data_args={"path": str(first)}), stop)
    first.rename(tmp_path / "two")
    mimlab.evaluate(mimlab.Evaluate(**cfg, data_args={"path": str(tmp_path / "two")}))
    assert len(seeds) == 2  # one of each call


def stopped(cfg):
    """The run of `cfg`, of four steps an epoch, ended at its fifth."""

    def stop(row):
        if row["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mimlab.pretrain(cfg, stop)
    return Run.at(cfg.folder())


def test_a_resume_looks_at_what_it_reads(tmp_path):
    from safetensors.torch import load_file, save_file

    cfg = mimlab.Pretrain(**TINY | {"updates": "6", "checkpoint_every": 1}, out=str(tmp_path))
    run = stopped(cfg)
    (checkpoint,) = run.checkpoints().values()
    optimiser, model = checkpoint / "optimizer.bin", checkpoint / "model.safetensors"
    whole, state = optimiser.read_bytes(), load_file(model)
    (tmp_path / "whole.bin").write_bytes(whole)
    repacked(tmp_path / "whole.bin", optimiser)
    with pytest.raises(Refused, match="compressed entries"):
        mimlab.pretrain(cfg)
    optimiser.write_bytes(whole)
    save_file({name: torch.full_like(value, float("nan")) for name, value in state.items()}, model)
    with pytest.raises(Refused, match="not finite"):
        mimlab.pretrain(cfg)
    save_file(state, model)
    assert not run.finished and mimlab.pretrain(cfg).finished


def test_training_to_nan_is_told(tmp_path, monkeypatch):
    from mimlab import train

    kept = train.adamw

    def spoiling(*given):
        optimiser = kept(*given)
        step, count = optimiser.step, []

        def spoiled(*args, **options):
            step(*args, **options)
            count.append(1)
            if len(count) == 8:
                with torch.no_grad():
                    optimiser.param_groups[0]["params"][0].fill_(float("nan"))

        optimiser.step = spoiled
        return optimiser

    monkeypatch.setattr(train, "adamw", spoiling)
    cfg = mimlab.Pretrain(**TINY | {"updates": "8", "checkpoint_every": 1}, out=str(tmp_path))
    with pytest.raises(FloatingPointError, match="last good checkpoint: step 4, in"):
        mimlab.pretrain(cfg)
    run = Run.at(cfg.folder())
    assert not run.finished and list(run.checkpoints()) == [4]


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize("name", ["../OUT", "../../../../OUT", "a\\..\\OUT", "C:OUT", "C:/OUT"])
def test_members_of_archives_stay_inside(tmp_path, monkeypatch, kind, name):
    import io
    import tarfile

    monkeypatch.setenv("MIMLAB_HOME", str(tmp_path / "home" / "deep" / "deeper"))
    path = tmp_path / f"evil.{kind}"
    inside = {"run/config.json": b"{}", f"run/{name}": b"written"}
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for one, raw in inside.items():
                archive.writestr(one, raw)
    else:
        with tarfile.open(path, "w") as archive:
            for one, raw in inside.items():
                about = tarfile.TarInfo(one)
                about.size = len(raw)
                archive.addfile(about, io.BytesIO(raw))
    try:
        remote.here(f"{kind}://run::{path}")
    except Refused as error:
        assert "\n" not in str(error)
    assert not [one for one in tmp_path.rglob("*OUT*") if "remote" not in one.parts]


@pytest.mark.parametrize("kind", ["SYMTYPE", "LNKTYPE"])
def test_links_of_a_tar_bring_nothing_from_outside(tmp_path, monkeypatch, kind):
    import tarfile

    monkeypatch.setenv("MIMLAB_HOME", str(tmp_path / "home"))
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with tarfile.open(tmp_path / "evil.tar", "w") as archive:
        about = tarfile.TarInfo("run/link")
        about.type, about.linkname = getattr(tarfile, kind), str(secret)
        archive.addfile(about)
    try:
        found = remote.here(f"tar://run::{tmp_path / 'evil.tar'}")
    except Refused as error:
        assert "\n" not in str(error)
    else:
        assert not any(one.is_symlink() or one.read_bytes() == b"secret" for one in found.rglob("*") if one.is_file())
    assert secret.read_text() == "secret" and secret.stat().st_nlink == 1


@pytest.mark.parametrize("command", ["run", "report", "export", "bench", "data"])
def test_a_file_at_the_output_is_kept(folder, tmp_path, capsys, command, monkeypatch):
    from mimlab.__main__ import main

    run = folder("a", [{"step": 1, "loss": 1.0}])
    monkeypatch.chdir(tmp_path)
    ends = {"run": "ipynb", "report": "html", "bench": "json", "data": "html", "export": "x"}[command]
    mine = tmp_path / f"mine.{ends}"
    mine.write_text('{"mine": 1}')
    notebook = os.path.join(os.path.dirname(os.path.dirname(mimlab.__file__)), "notebooks", "01_masks.ipynb")
    given = {
        "run": [notebook, "--output", str(mine)],
        "report": [str(run.path), "--out", str(mine)],
        "export": [str(run.path), "--format", "timm", "--out", str(mine)],
        "bench": ["mae", "--out", str(mine)],
        "data": ["emoji", "--out", str(mine)],
    }
    assert main([command, *given[command]]) == 2
    assert mine.read_text() == '{"mine": 1}' and len(capsys.readouterr().err.strip().splitlines()) == 1


def test_every_file_that_a_run_leaves_may_be_a_link_and_nothing_is_written_outside(tmp_path):
    import shutil

    cfg = mimlab.Pretrain(
        **TINY | {"updates": "6", "film": 2, "knn_every": 1, "checkpoint_every": 1, "keep_weights": True},
        out=str(tmp_path),
    )

    stopped(cfg)
    path, mine = cfg.folder(), tmp_path / "mine"
    mine.write_text("mine")
    shutil.copytree(path, tmp_path / "clean")
    left = [one.relative_to(path) for one in path.rglob("*") if one.is_file()]
    for name in [*left, "pretrain.ipynb", "pretrain.running.ipynb", "evals/knn.json", "report.html"]:
        shutil.rmtree(path)
        shutil.copytree(tmp_path / "clean", path)
        (path / name).unlink(missing_ok=True)
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).symlink_to(mine)
        with pytest.raises(Refused) as told:
            mimlab.pretrain(cfg)
        assert "\n" not in str(told.value) and mine.read_text() == "mine", name
    assert len(left) > 8


@pytest.fixture
def received(folder, tmp_path, monkeypatch):
    """`make(field, name)`: a run folder runs/evil whose settings name a payload, which lies in the run, beside it and here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(trusted.VARIABLE, raising=False)
    monkeypatch.setenv("MIMLAB_ROOT", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(field, name):
        run = folder("runs/evil", [{"step": 1, "loss": 1.0}])
        for place in (tmp_path, tmp_path / "runs", run.path):
            (place / "payload_sent.py").write_text(f"open({str(tmp_path / 'RAN')!r}, 'w').close()")
        about = json.loads((run.path / "config.json").read_text())
        about["settings"][field] = name
        (run.path / "config.json").write_text(json.dumps(about))
        return run

    return make


FIELDS = ["mask", "method", "data", "tokenizer"]
SENT = ["payload_sent.x", "runs.payload_sent", "runs.evil.payload_sent", "evil.payload_sent"]


@pytest.mark.parametrize(
    ("field", "name"),
    [("mask", SENT[2])]
    + [pytest.param(*one, marks=pytest.mark.slow) for one in zip(FIELDS, SENT, strict=True)]
    + [pytest.param("encoder", name, marks=pytest.mark.slow) for name in SENT],
)
def test_nothing_of_a_received_run_is_executed_by_any_command(received, tmp_path, capsys, field, name):
    from mimlab import compare
    from mimlab.__main__ import main
    from mimlab.looking import film
    from mimlab.study import results

    run = received(field, name)
    for command in (
        ["report", str(run.path)],
        ["export", str(run.path), "--format", "timm", "--out", "x"],
        ["evaluate", "--run", str(run.path), "--evaluation", "knn"],
        ["study", "status", "runs"],
    ):
        main(command)
    for look in (lambda: compare.who(compare.select("runs/*", "runs")), lambda: film.read(run)):
        try:
            look()
        except Refused as error:
            assert "\n" not in str(error)
    job = {"name": "evil", "folder": "runs/evil", "settings": {field: name}, "varied": [{field: name}]}
    job["tasks"] = [{"kind": "pretrain", "name": "pretrain", "folder": "runs/evil", "notebook": "x.ipynb"}]
    job["tasks"][0]["parameters"] = {field: name}
    (tmp_path / "runs" / results.GRID).write_text(json.dumps({"name": "s", "scale": None, "about": "", "jobs": [job]}))
    main(["study", "status", "runs"])
    assert not (tmp_path / "RAN").exists() and "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("notebook", ["04_reconstructions", "07_compare", "05_attention", "06_evaluate", "11_features"])
@pytest.mark.parametrize("name", SENT[::2])
def test_nothing_of_a_received_run_is_executed_in_a_kernel(received, tmp_path, notebook, name):
    import subprocess
    import sys

    run, root = received("mask", name), os.path.dirname(os.path.dirname(mimlab.__file__))
    given = ["runs", str(run.path)] if notebook == "07_compare" else ["run", str(run.path)]
    command = [sys.executable, "-m", "mimlab", "run", f"{root}/notebooks/{notebook}.ipynb", "-p", *given]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "x.ipynb")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": root},
    )
    assert not (tmp_path / "RAN").exists(), done.stderr
    assert "Traceback" not in done.stderr
    assert notebook == "07_compare" or f"use --trust {name}" in done.stderr


@pytest.mark.parametrize(  # the last two are told in a report, as far as they go
    "content",
    ["{}", "[]", "3"]
    + [pytest.param(one, marks=pytest.mark.slow) for one in ('{"settings": {}}', '{"settings": {"method": 3}}')],
)
def test_a_run_without_settings_is_one_line_in_every_command(folder, tmp_path, capsys, content):
    from mimlab.__main__ import main

    run = folder("a", [{"step": 1, "loss": 1.0}])
    (run.path / "config.json").write_text(content)
    for command in (
        ["report", str(run.path), "--out", str(tmp_path / "r.html")],
        ["export", str(run.path), "--format", "timm", "--out", str(tmp_path / "x")],
        ["evaluate", "--run", str(run.path), "--evaluation", "knn"],
    ):
        code, said = main(command), capsys.readouterr().err.strip().splitlines()
        assert (code, len(said)) == (2, 1) or (code == 0 and command[0] == "report" and '"settings"' in content)


def test_integers_and_strange_names_in_weights_are_one_line_by_evaluation(tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    from mimlab.__main__ import main

    run = mimlab.pretrain(mimlab.Pretrain(**TINY, out=str(tmp_path)))
    capsys.readouterr()
    state = load_file(run.path / "method.safetensors")
    first = next(iter(state))
    damages = [
        {name: value.to(torch.int8) for name, value in state.items()},
        {name: value for name, value in state.items() if name != first},
        state | {"more": torch.ones(2)},
        state | {first: torch.ones(1, 1, 1, 1, 1)},
        state | {first: torch.full_like(state[first], float("nan"))},
    ]
    for damage in damages:
        save_file(damage, run.path / "method.safetensors")
        assert main(["evaluate", "--run", str(run.path), "--evaluation", "knn"]) in (1, 2)
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("room", [2_000, 40_000, 120_000, 400_000])
def test_a_disk_that_is_full_is_one_line_and_a_resume_ends_as_if_it_had_not_been(tmp_path, room):
    """No file grows above `room` bytes in a child, as on a full disk."""
    import subprocess
    import sys

    given = TINY | {"updates": "5", "checkpoint_every": 1, "out": str(tmp_path), "film": 2}
    code = (
        "import json, resource, signal, sys, mimlab, mimlab.train, mimlab.__main__\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, resource.RLIM_INFINITY))\n"
        "given = json.loads(sys.argv[1])\n"
        "sys.exit(mimlab.__main__.main(['pretrain', *(f'--{name}={json.dumps(value) if isinstance(value, dict) "
        "else value}' for name, value in given.items())]))"
    )
    mimlab.data.open("emoji", size=mimlab.Pretrain(**given).resolved().cache_size)
    done = subprocess.run([sys.executable, "-c", code, json.dumps(given)], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert done.returncode == 2 and "cannot" in done.stderr.strip().splitlines()[-1]
    assert mimlab.pretrain(mimlab.Pretrain(**given)).finished


def test_a_run_folder_that_is_gone_while_it_trains_is_told(tmp_path):
    import shutil

    cfg = mimlab.Pretrain(**TINY | {"updates": "5"}, out=str(tmp_path))

    def gone(row):
        shutil.rmtree(cfg.folder(), ignore_errors=True)

    with pytest.raises(Refused) as told:
        mimlab.pretrain(cfg, gone)
    assert "\n" not in str(told.value) and cfg.folder().name in str(told.value)
