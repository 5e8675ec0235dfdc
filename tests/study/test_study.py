"""A study to its end: killed, failed, interrupted, started twice; nothing is lost and nothing is done twice."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from mimlab.__main__ import main
from mimlab.study import command, local, plan, results, spec, worker
from mimlab.study.state import FAILED, job_state, todo

GRID = """
base: {data: emoji, image_size: 16, patch_size: 4, encoder_args: {dim: 24, depth: 1, heads: 2}, vocab: 16, knn_every: 0}
axes: {method: [mae, beit], fraction: [0.5, 1.0]}
zip: [{epochs: [2, 3, 4], batch_size: [32, 48, 64]}]
evaluations:
  - {evaluation: knn, evaluation_args: {k: 5}, seeds: 1, fraction: 1.0}
"""
BAD = {"method": "beit", "fraction": 1.0, "epochs": 3}  # what the stub cannot do
SMALL = GRID.replace("[0.5, 1.0]", "[0.5]").replace("[2, 3, 4]", "[2, 3]").replace("[32, 48, 64]", "[32, 64]")

# Plays `execute`: 20 steps of 20 ms, a checkpoint after each.
STUB = (
    f"BAD = {BAD}\n"
    + """
import json, sys, time
import mimlab.notebook
from mimlab.errors import Refused
from mimlab.study import worker

def execute(notebook, parameters, *, output, log):
    folder = output.parent
    if notebook.name == "06_evaluate.ipynb":
        run = folder.parent.parent
        found = {"top1": 50.0 + parameters["seeds"], "values": [51.0], "chance": 20.0}
        (run / "evals" / f"{parameters['name']}.json").write_text(json.dumps({"results": {"after it": found}, "seconds": 1.5}))
        with open(run / "evaluated", "a") as log:
            log.write("once\\n")
        output.write_text("{}")
        return
    with open(folder / "executed", "a") as log:
        log.write("once\\n")
    if {name: parameters[name] for name in BAD} == BAD:
        output.with_name("pretrain.failed.ipynb").write_text("{}")
        raise Refused("batch_size = 48: the training set has only 5 images")
    (folder / "config.json").write_text(json.dumps({"settings": json.loads(sys.argv[1])["settings"], "images": 100}))
    saved = folder / "saved"
    for step in range(int(saved.read_text()) if saved.exists() else 0, 20):
        time.sleep(0.02)
        with open(folder / "metrics.jsonl", "a") as log:
            log.write(json.dumps({"step": step + 1, "steps": 20, "loss": 1.0, "images_per_s": 100.0}) + "\\n")
        saved.with_suffix(".part").write_text(str(step + 1))
        saved.with_suffix(".part").replace(saved)
    output.write_text("{}")
    for name in ("encoder", "method"):
        (folder / f"{name}.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")

mimlab.notebook.execute = execute
sys.exit(worker.main(sys.argv[1:]))
"""
)

# Another `mimlab study` on the same folder, as far as it executes: planning it would import torch.
ELSEWHERE = """
import json, sys
from pathlib import Path
from mimlab.study import local, results
local.command = lambda job, retry=False: [sys.executable, "stub.py", json.dumps(job.dict())]
jobs = results.planned(Path("studies/grid"))[1]
local.run(jobs, 3, tell=lambda line: None)
"""


def elsewhere():
    return subprocess.Popen([sys.executable, "-c", ELSEWHERE], start_new_session=True)


def until(condition, patience=300):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.02)


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def steps(job):
    return [json.loads(line)["step"] for line in lines(job.path / "metrics.jsonl")]


def workers_of(process):
    import psutil

    return psutil.Process(process.pid).children()


def end_all(process):
    """What a power cut does: the main process and all workers, at once."""
    process.send_signal(signal.SIGSTOP)  # so that none ends, and none begins, between the look and the kill
    for child in workers_of(process):
        child.kill()
    process.kill()
    process.wait()


@pytest.fixture
def stub(here, monkeypatch):
    """The stub in place of the worker; returns its path."""
    path = here / "stub.py"
    path.write_text(STUB)
    monkeypatch.setattr(
        local,
        "command",
        lambda job, retry=False: [sys.executable, str(path), json.dumps(job.dict()), *["--retry"] * retry],
    )
    return path


def test_twelve_runs_one_killed_one_bad_all_cut_once(here, stub):
    (here / "grid.yaml").write_text(GRID)
    found = spec.read("grid.yaml")
    jobs = plan.plan(found)
    bad = [job for job in jobs if BAD.items() <= job.settings.items()]
    assert (len(jobs), len(bad)) == (12, 1)
    results.keep(found.folder, found, jobs)

    first = elsewhere()
    victim = jobs[1]
    until(lambda: len(steps(victim)) >= 5)
    (child,) = (one for one in workers_of(first) if victim.name in " ".join(one.cmdline()))
    child.kill()
    until(lambda: sum(job_state(job).state == "done" for job in jobs) >= 4)
    until(lambda: any(3 < len(steps(job)) < 18 and job_state(job).state == "running" for job in jobs))
    end_all(first)
    finished = [job for job in jobs if job_state(job).state == "done"]
    assert job_state(victim).state == "stopped" and not (victim.path / FAILED).exists()

    said = []
    assert command.study("grid.yaml", jobs=3, tell=said.append) == 1
    states = [job_state(job).state for job in jobs]
    assert states.count("done") == 11 and job_state(bad[0]).state == "failed"
    assert "11 done, 1 failed" in said and f"failed: {bad[0].name}: pretrain: batch_size = 48" in said[-2]
    for job in jobs:
        if job is bad[0]:
            assert not (job.path / "evaluated").exists()
            continue
        times = len(lines(job.path / "executed"))
        assert times == 1 if job in finished else times <= 2
        repeated = len(steps(job)) - 20  # a kill between a log line and its checkpoint repeats that one step
        assert sorted(set(steps(job))) == list(range(1, 21)) and 0 <= repeated <= times - 1
        assert len(lines(job.path / "evaluated")) == 1

    with open(found.folder / "results.csv", newline="") as file:
        table = list(csv.DictReader(file))
    expected = [
        {
            "method": job.settings["method"],
            "fraction": str(job.settings["fraction"]),
            "epochs": str(job.settings["epochs"]),
        }
        | {"batch_size": str(job.settings["batch_size"]), "run": job.name}
        | (
            {"state": "failed", "top1": "", "values": ""}
            if job is bad[0]
            else {"state": "done", "top1": "51.0", "values": "51.0"}
        )
        for job in jobs
    ]
    assert [{name: row[name] for name in expected[0]} for row in table] == expected
    assert {row["steps"] for row in table if row["state"] == "done"} == {"20"}

    before = {job.name: lines(job.path / "executed") for job in jobs}
    assert command.study("grid.yaml", tell=said.append) == 1  # nothing left: nothing is executed
    assert {job.name: lines(job.path / "executed") for job in jobs} == before
    assert command.study("grid.yaml", retry=True, tell=said.append) == 1
    again = {job.name: len(lines(job.path / "executed")) - len(before[job.name]) for job in jobs}
    assert again == {job.name: int(job is bad[0]) for job in jobs}

    page = (found.folder / "report.html").read_text()
    assert page.count(">pretrain</a>") == 11 and "pretrain (failed)</a>" in page
    links = [part.partition('"')[0] for part in page.split('<a href="')[1:]]
    assert len(links) == 23 and all((found.folder / link).is_file() for link in links)


def test_two_studies_at_once_do_nothing_twice(here, stub):
    (here / "grid.yaml").write_text(SMALL)
    found = spec.read("grid.yaml")
    jobs = plan.plan(found)
    results.keep(found.folder, found, jobs)
    one, other = elsewhere(), elsewhere()
    assert (one.wait(300), other.wait(300)) == (0, 0)
    assert [job_state(job).state for job in jobs] == ["done"] * 4
    assert [len(lines(job.path / "executed")) for job in jobs] == [1] * 4
    assert [len(lines(job.path / "evaluated")) for job in jobs] == [1] * 4


def test_a_lock_goes_with_its_process_and_is_seen_from_outside(here):
    from mimlab.study.state import LOCK, claimed, held

    code = "import sys, time\nfrom pathlib import Path\nfrom mimlab.study.state import claimed\n"
    code += "with claimed(Path('job')) as ours:\n    print(ours, flush=True)\n    time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "True\n" and held(here / "job" / LOCK)
    other.kill()
    other.wait()
    assert not held(here / "job" / LOCK)
    with claimed(here / "job") as ours:
        assert ours


# a notebook that counts, saves when interrupted, and goes on from there
COUNTER = """
import json, os, pathlib, time
place = pathlib.Path(state)
start = int(place.read_text()) if place.exists() else 0
if fail:
    raise ValueError("told to")
if die:
    os.kill(os.getpid(), 9)
try:
    for step in range(start, steps):
        print("step", step, flush=True)
        pathlib.Path(state + ".now").write_text(str(step))
        time.sleep(0.1)
except KeyboardInterrupt:
    place.write_text(str(step))
    raise
"""


def counting(here, notebook_writer, **more):
    notebook_writer(here / "count.ipynb", "steps = 4\nstate = 's'\nfail = False\ndie = False", COUNTER)
    base = {"steps": 4, "state": str(here / "s")} | more
    (here / "count.yaml").write_text(json.dumps({"notebook": "count.ipynb", "base": base}))
    found = spec.read("count.yaml")
    return found, plan.plan(found)


def test_ctrl_c_lets_the_notebook_save_and_a_second_call_goes_on(here, notebook_writer):
    """Through the real thing: a worker, papermill and a kernel, and SIGTERM as `local.stop` sends it."""
    found, (job,) = counting(here, notebook_writer, steps=600)
    child = local.start(job, False, 1)
    until(lambda: (here / "s.now").exists() and int((here / "s.now").read_text()) >= 2)
    assert job_state(job).state == "running"
    local.stop([child])
    assert child.returncode == worker.STOPPED and int((here / "s").read_text()) >= 2
    assert not list(job.path.glob("*.failed*")) and todo(job) == job.tasks
    (here / "s").write_text("599")
    assert command.study("count.yaml", tell=lambda line: None) == 0
    text = (job.path / "count.ipynb").read_text()
    assert "step 599" in text and "step 3\\n" not in text
    log = (job.path / "study.log").read_text()
    assert [word in log for word in ("begins notebook", "stopped notebook", "done notebook")] == [True] * 3
    ((row),) = results.read(found.folder)
    assert row["state"] == "done" and row["run"] == job.name


def test_a_failed_cell_is_kept_and_a_dead_kernel_is_no_failure(here, notebook_writer):
    _, (job,) = counting(here, notebook_writer, fail=True)
    assert worker.work(job) == worker.SOME_FAILED
    assert job_state(job)[:1] == ("failed",) and "ValueError: told to" in job_state(job).said
    assert "told to" in (job.path / "count.failed.ipynb").read_text() and todo(job) == []
    assert todo(job, retry=True) == job.tasks
    _, (job,) = counting(here, notebook_writer, die=True)
    assert worker.work(job) == worker.SOME_FAILED
    assert job_state(job).state == "queued" and todo(job) == job.tasks and not (job.path / FAILED).exists()


def test_a_sigterm_of_the_whole_study_stops_its_workers(here, stub, monkeypatch):
    """The signal that a shutdown sends: KeyboardInterrupt here, SIGTERM for the workers, a table all the same."""
    (here / "grid.yaml").write_text(GRID)
    stopped = []
    monkeypatch.setattr(local, "stop", lambda children: stopped.extend(children))
    began = []

    def tell(line):
        began.append(line)
        if len(began) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    jobs = plan.plan(spec.read("grid.yaml"))
    with pytest.raises(KeyboardInterrupt):
        local.run(jobs, 2, tell=tell)
    assert len(stopped) == 2 and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    for child in stopped:
        child.kill()
        child.wait()


def test_the_command_shows_a_dry_run_and_a_status(here, stub, capsys):
    (here / "grid.yaml").write_text(SMALL)
    assert main(["study", "status", "grid.yaml"]) == 0
    assert "not started" in capsys.readouterr().out
    assert main(["study", "grid.yaml", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.count("queued") == 5 and "no time known yet" in said
    assert sorted(path.name for path in here.iterdir()) == ["grid.yaml", "stub.py"]
    assert main(["study", "grid.yaml", "--jobs", "4"]) == 0
    assert "4 done" in capsys.readouterr().out
    (here / "grid.yaml").write_text(SMALL + "seeds: [0, 1]\n")
    assert main(["study", "grid.yaml", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "8 runs, 4 done, 4 queued" in said and "about 0:00:" in said
    assert main(["study", "status", "grid.yaml"]) == 0
    said = capsys.readouterr().out
    assert main(["study", "status", "studies/grid"]) == 0
    assert capsys.readouterr().out == said and "4 done" in said
    assert main(["study", "grid.yaml", "--executor", "slurn"]) == 2
    assert main(["study", "stats", "grid.yaml"]) == 2


def test_the_status_of_a_folder_that_is_no_study_is_refused(here, capsys):
    (here / "studies" / "other").mkdir(parents=True)
    assert main(["study", "status", "studies/other"]) == 2
    assert "'studies/other' has no grid.json" in capsys.readouterr().err
    (here / "studies" / "other" / "grid.json").write_text('{"about": "", "jobs": []}')
    assert main(["study", "status", "studies/other", "--scale", "cpu"]) == 2
    assert "scale = 'cpu': the folder 'studies/other' is of one scale" in capsys.readouterr().err
    assert main(["study", "status", "none.yaml"]) == 2


def test_a_worker_begins_without_torch():
    """It starts one kernel after another, each of which loads torch itself."""
    code = "import sys, mimlab.study.worker, mimlab.study.local; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
