"""Freed memory stays while a training goes on, and goes back to the system afterwards. In fresh processes: one heap each."""

import json
import platform
import subprocess
import sys

import pytest

import mimlab
from mimlab import heap

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
BLOCKS = """
import json, resource, sys
from mimlab.heap import kept
import contextlib, torch

torch.set_num_threads(1)

def faults():
    '''Of a step that allocates 200 MB in pieces of many sizes, writes them, and frees them all.'''
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pieces = [torch.ones(n * 4096) for n in range(1, 150)] + [torch.ones(40_000_000 // 4)]
    del pieces
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) // 1024 for line in file if line.startswith("VmRSS"))

with kept() if sys.argv[1] == "kept" else contextlib.nullcontext():
    begun = resident()
    found = [faults() for _ in range(4)]
    within = resident()
print(json.dumps([found, within - begun, resident() - begun]))
"""


def told(how):
    done = subprocess.run([sys.executable, "-c", BLOCKS, how], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@glibc
def test_pages_are_touched_for_the_first_time_once():
    found, within, after = told("kept")
    assert found[0] > 30_000 and max(found[2:]) < 1000
    assert within > 100 and after < 60  # MiB: all goes back
    found, _, _ = told("plain")
    assert min(found) > 9_000  # the block of 40 MB alone


def test_without_such_a_library_nothing_happens(monkeypatch):
    def none(name):
        raise OSError("no library")

    monkeypatch.setattr(heap.ctypes, "CDLL", none)
    with heap.kept():
        pass


@pytest.mark.parametrize("error", (None, KeyboardInterrupt))
def test_the_usual_comes_back_whatever_happens(monkeypatch, error):
    said = []
    monkeypatch.setattr(heap, "function", lambda name: lambda *given: said.append((name, *given)))
    try:
        with heap.kept():
            if error:
                raise error
    except KeyboardInterrupt:
        assert error
    assert said == [
        ("mallopt", -1, 2**31 - 1),
        ("mallopt", -3, 2**31 - 1),
        ("mallopt", -1, 2**26),
        ("mallopt", -3, 2**25),
        ("malloc_trim", 0),
    ]


def test_pre_training_and_fine_tuning_keep_theirs(monkeypatch, tmp_path):
    """From before the first step to after the last, and no longer."""
    said = []
    monkeypatch.setattr(heap, "function", lambda name: lambda *given: said.append(name))
    small = {"encoder_args": {"dim": 24, "depth": 1, "heads": 3}, "fraction": 0.016, "image_size": 28, "patch_size": 7}
    around = ["mallopt", "mallopt", "step", "mallopt", "mallopt", "malloc_trim"]
    run = mimlab.pretrain(
        mimlab.Pretrain(
            **small, method="simmim", updates=1, knn_every=0, batch_size=32, device="cpu", out=str(tmp_path)
        ),
        report=lambda row: said.append("step"),
    )
    assert said == around
    said.clear()
    mimlab.evaluate(
        mimlab.Evaluate(
            run=str(run.path), evaluation="finetune", evaluation_args={"epochs": 1}, baseline=False, seeds=1
        )
    )
    assert said == [word for word in around if word != "step"]
