"""The same as in test_study.py with real training, papermill and kernels (-m slow)."""

import json
import subprocess
import sys
import time

import nbformat
import psutil
import pytest

import mimlab
from mimlab.run import Run
from mimlab.study import command, plan, results, spec
from mimlab.study.state import job_state

GRID = """
notebook: train.ipynb
base: {data: emoji, image_size: 16, patch_size: 4, encoder_args: {dim: 24, depth: 1, heads: 2}, vocab: 16, knn_every: 0, film: 0, log_every: 1, checkpoint_every: 1, fraction: 0.5}
zip: [{method: [simmim, beit, splitmask, simmim, beit, splitmask, simmim, beit, splitmask, simmim, beit, splitmask], epochs: [4, 4, 4, 5, 5, 5, 6, 6, 6, 7, 7, 8], batch_size: [32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 32, 512]}]
"""
ELSEWHERE = """
from pathlib import Path
from mimlab.study import local, results
local.run(results.planned(Path("studies/s"))[1], 2, tell=print)
"""


def until(condition, patience=300):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)


def begun(job):
    log = job.path / "study.log"
    text = log.read_text() if log.exists() else ""
    return text.count("study: begins pretrain") + text.count("study: goes on with pretrain")


@pytest.mark.slow
def test_twelve_runs_one_killed_one_bad_all_cut_once(here):
    node = nbformat.v4.new_notebook(metadata={"mimlab": {"config": "Pretrain"}})
    node.cells = [nbformat.v4.new_code_cell(mimlab.Pretrain.cell(), metadata={"tags": ["parameters"]})]
    node.cells.append(nbformat.v4.new_code_cell("import mimlab\nmimlab.pretrain(mimlab.Pretrain.read(globals()))"))
    nbformat.write(node, here / "train.ipynb")
    (here / "s.yaml").write_text(GRID)
    found = spec.read("s.yaml")
    jobs = plan.plan(found)
    results.keep(found.folder, found, jobs)
    bad, victim = jobs[-1], jobs[1]  # a batch of 512 of 341 images is known to be bad only with the images

    first = subprocess.Popen([sys.executable, "-c", ELSEWHERE], start_new_session=True)
    until(lambda: Run.at(victim.path).checkpoints())
    (child,) = (one for one in psutil.Process(first.pid).children() if victim.name in " ".join(one.cmdline()))
    child.kill()
    until(lambda: sum(job_state(job).state == "done" for job in jobs) >= 4)
    until(
        lambda: any(
            Run.at(job.path).checkpoints() and not Run.at(job.path).finished for job in jobs if job is not victim
        )
    )
    workers = psutil.Process(first.pid).children(recursive=True)  # and their kernels: a power cut
    for process in (psutil.Process(first.pid), *workers):
        process.kill()
    first.wait()
    finished = [job for job in jobs if job_state(job).state == "done"]

    said = []
    assert command.study("s.yaml", jobs=2, tell=said.append) == 1
    assert "11 done, 1 failed" in said
    assert json.loads((bad.path / "failed.json").read_text())["said"].startswith("batch_size = 512")
    for job in jobs[:-1]:
        run = Run.at(job.path)
        logged = [row["step"] for row in run.metrics() if "loss" in row]
        assert run.finished and logged == list(range(1, job.settings["epochs"] * 10 + 1))  # each step once
        assert begun(job) == 1 if job in finished else begun(job) in (1, 2)
    rows = results.read(found.folder)
    assert [row["run"] for row in rows] == [job.name for job in jobs]
    assert [row["steps"] for row in rows[:-1]] == [job.settings["epochs"] * 10 for job in jobs[:-1]]
