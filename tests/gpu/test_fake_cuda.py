"""mimlab on a GPU that is not there: the quick part here, the whole of `fake_cuda.py` behind the marker slow."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mimlab

sys.path.append(str(Path(__file__).parent))
from null_device import missing

ROOT = Path(mimlab.__file__).parent.parent
DRIVER = Path(__file__).with_name("fake_cuda.py")
device = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def run(*words, root=ROOT):
    """What the driver says of its checks, line by line."""
    command = [sys.executable, str(DRIVER), "--repo", str(root), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    lines = done.stdout.splitlines()
    assert lines and lines[-1] == f"{done.returncode} failed", done.stdout + done.stderr
    return lines


def sound(*words):
    lines = run(*words)
    assert any(line.startswith("ok ") for line in lines)
    assert lines[-1] == "0 failed", "\n".join(line for line in lines if line.startswith("FAIL"))


def test_every_method_keeps_its_tensors_on_one_device():
    sound("--only", "fake")


@device
def test_a_method_of_tokens_trains_on_the_null_device():
    """From the tokenizer's report to the film, with no more waits than a step has."""
    sound("--only", "train", "--methods", "splitmask", "--precisions", "bf16")


@device
@pytest.mark.slow
@pytest.mark.parametrize("part", ["train", "further", "evaluate", "detect", "processes", "demo"])
def test_everything_runs_on_the_null_device(part):
    sound("--only", part)


@device
@pytest.mark.slow
def test_a_tensor_left_on_the_cpu_is_found(tmp_path):
    """The tokenizer asked about images that nobody moved: what once broke every run on a GPU."""
    shutil.copytree(ROOT / "mimlab", tmp_path / "mimlab")
    log = tmp_path / "mimlab" / "log.py"
    text = log.read_text()
    assert text.count(".to(device).float() / 255") == 1
    log.write_text(text.replace(".to(device).float() / 255", ".float() / 255"))
    lines = run("--only", "train", "--methods", "splitmask", "--precisions", "no", root=tmp_path)
    assert lines[-1] == "1 failed" and "Expected all tensors to be on the same device" in "\n".join(lines)
