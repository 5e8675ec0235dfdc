"""What the environment says never wins over settings, and never makes a process wait for others that are not there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import accelerate
import pytest

import mimlab
from mimlab import environment
from mimlab.detection.training import train
from mimlab.errors import Refused
from mimlab.run import Run

TINY = {
    "data": "fashion_mnist", "fraction": 0.002, "encoder_args": {"dim": 16, "depth": 1, "heads": 1}, "batch_size": 16, "updates": "3", "knn_every": 0, "film": 0,
    "method": "simmim", "lr": 0.1, "augment": {"scale": [1, 1], "flip": 0.0}, "device": "cpu",
}  # fmt: skip
OUTSIDE = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "8", "ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_DYNAMO_BACKEND": "inductor",
    "ACCELERATE_DOWNCAST_BF16": "true", "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_USE_FSDP": "true", "ACCELERATE_USE_MEGATRON_LM": "true",
    "ACCELERATE_TORCH_DEVICE": "meta", "ACCELERATE_USE_PARALLELISM_CONFIG": "true", "OMPI_COMM_WORLD_SIZE": "2", "PMI_SIZE": "2",
    "MASTER_ADDR": "nowhere", "MASTER_PORT": "1", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0",
}  # fmt: skip


def losses(monkeypatch, out, given):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    before = {name: os.environ.get(name) for name in OUTSIDE}
    run = mimlab.pretrain(mimlab.Pretrain(out=str(out), **TINY))
    assert {name: os.environ.get(name) for name in OUTSIDE} == before
    return [row["loss"] for row in Run.at(run.path).metrics() if "loss" in row], (
        run.path / "encoder.safetensors"
    ).read_bytes()


def test_a_run_under_all_of_them_is_the_same_and_says_so(monkeypatch, tmp_path, capsys):
    plain = losses(monkeypatch, tmp_path / "a", {})
    capsys.readouterr()
    assert losses(monkeypatch, tmp_path / "b", OUTSIDE) == plain
    said = capsys.readouterr().err
    assert "ACCELERATE_DOWNCAST_BF16" in said and "not used; the settings count" in said
    monkeypatch.undo()


@pytest.mark.parametrize(
    "given",
    [{"WORLD_SIZE": "2", "LOCAL_RANK": "0"}, {"LOCAL_RANK": "1"}, {"RANK": "1"}, {"RANK": "x"}, {"WORLD_SIZE": "2", "RANK": "1", "TORCHELASTIC_RUN_ID": "1"}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("processes", [1, 4])
def test_processes_that_the_settings_do_not_know_are_refused(given, processes, monkeypatch, tmp_path):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Refused, match=f"stands in the environment, but processes x nodes = {processes}") as error:
        mimlab.pretrain(mimlab.Pretrain(out=str(tmp_path), processes=processes, **TINY))
    assert str(error.value).split(" = ")[0] in given and not list(tmp_path.iterdir())
    if processes == 1:
        with pytest.raises(Refused, match="stands in the environment"):
            train(mimlab.Detect(out=str(tmp_path), device="cpu"))


def test_a_launchers_own_children_are_known(monkeypatch):
    for name, value in {
        "WORLD_SIZE": "2",
        "RANK": "1",
        "LOCAL_RANK": "1",
        "TORCHELASTIC_RUN_ID": "1",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    assert environment.child(2) and not environment.first()
    with environment.settings_alone(2):
        assert os.environ["RANK"] == "1" and os.environ["MASTER_PORT"] == "1"
    assert not {"RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID", "MASTER_PORT"} & set(environment.without())


def test_every_variable_of_accelerate_is_known():
    """Those that Accelerate reads by name begin with what is put aside, or change no number."""
    root, found = os.path.dirname(accelerate.__file__), set()
    for folder in ("", "utils"):
        for name in os.listdir(os.path.join(root, folder)):
            if name.endswith(".py") and name not in ("launch.py",):
                text = Path(root, folder, name).read_text(encoding="utf-8")
                found |= set(re.findall(r"environ(?:\.get\(|\[)\s*\"([A-Z][A-Z0-9_]+)\"", text))
    ruling = {
        name
        for name in found
        if re.search(r"ACCELERATE|FSDP|MEGATRON|PARALLELISM|SAGEMAKER|RANK|WORLD_SIZE|MASTER_", name)
    }
    assert len(ruling) > 10
    known = {
        name for name in ruling if name.startswith(environment.PLUGINS) or name in (*environment.OURS, *environment.MPI)
    }
    assert ruling - known <= {"SM_HP_MP_PARAMETERS"}


@pytest.mark.slow
def test_two_processes_of_the_command_under_foreign_variables(tmp_path):
    """Children are started anew and get none of them."""
    out = subprocess.run(
        [sys.executable, "-c", "import mimlab, sys; mimlab.pretrain(mimlab.Pretrain(processes=2, out=sys.argv[1], **eval(sys.argv[2])))", str(tmp_path), repr(TINY)],
        env=os.environ | OUTSIDE | {"PYTHONPATH": os.path.dirname(os.path.dirname(mimlab.__file__))}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr
    (run,) = tmp_path.iterdir()
    assert (run / "encoder.safetensors").is_file()
