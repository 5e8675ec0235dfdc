"""mimlab on a GPU that is not there: the quick part here, the whole of `fake_cuda.py` behind the marker slow."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mimlab
from mimlab import find

sys.path.append(str(Path(__file__).parent))
from null_device import missing

ROOT = Path(mimlab.__file__).parent.parent
DRIVER = Path(__file__).with_name("fake_cuda.py")
WITHOUT = """import torch

torch.version.cuda = None
for name in [name for name in dir(torch._C) if name.startswith("_cuda")]:
    delattr(torch._C, name)
torch._C._has_cuda = False
torch.backends.cuda.is_built = lambda: False
"""
device = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def run(*words, root=ROOT, env=None):
    """What the driver says of its checks, line by line."""
    command = [sys.executable, str(DRIVER), "--repo", str(root), *words]
    env = os.environ | {"OMP_NUM_THREADS": "1"} | (env or {})
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    lines = done.stdout.splitlines()
    assert lines and lines[-1] == f"{done.returncode} failed", done.stdout + done.stderr
    return lines


def sound(*words, **given):
    lines = run(*words, **given)
    assert lines[-1] == "0 failed", "\n".join(line for line in lines if line.startswith("FAIL"))
    assert any(line.startswith("ok ") for line in lines)
    return lines


def test_every_method_keeps_its_tensors_on_one_device():
    """On the null device from the tokenizer's report to the film, with no more waits than a step has; else forward alone."""
    lines = sound("--only", "fake" if missing() else "quick")
    assert all(any(f" {name} " in line for line in lines) for name in find.names("methods"))


@pytest.mark.slow
def test_fake_tensors_agree_without_a_compiler_and_without_cuda(tmp_path):
    """As where neither is: no gcc and no nm on PATH, and nothing of CUDA in torch's compiled half."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    away = {"PATH": str(tmp_path), "PYTHONPATH": str(tmp_path)}
    ask = "import null_device, torch; print(null_device.missing(), torch.backends.cuda.is_built(), torch.version.cuda)"
    told = subprocess.run(
        [sys.executable, "-c", ask], cwd=DRIVER.parent, capture_output=True, text=True, env=os.environ | away
    ).stdout
    assert told.startswith("no gcc and no nm") and told.split()[-2:] == ["False", "None"], told
    sound("--only", "fake", env=away)


@device
@pytest.mark.slow
@pytest.mark.parametrize("part", ["train", "further", "evaluate", "detect", "processes", "notebooks", "demo"])
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
