"""The cluster executor: submitit's local one, the script for SLURM, and a real SLURM where it is installed (-m slurm)."""

import getpass
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest

from mimlab.errors import Refused
from mimlab.run import Run
from mimlab.study import cluster, plan, spec
from mimlab.study.state import job_state, todo

# counts to `steps`, says where it is, saves when interrupted, and goes on from there
COUNTER = """
import pathlib, time
place = pathlib.Path(state)
start = int(place.read_text()) if place.exists() else 0
try:
    for step in range(start, steps):
        pathlib.Path(state + ".now").write_text(str(step))
        time.sleep(0.3)
except KeyboardInterrupt:
    place.write_text(str(step))
    raise
print("counted from", start)
"""


@pytest.fixture
def jobs(here, notebook_writer):
    """Two jobs that count: a short one, and one that would take an hour."""
    notebook_writer(here / "count.ipynb", "steps = 3\nstate = 's'", COUNTER)
    zips = [{"steps": [3, 36_000], "state": [str(here / "short"), str(here / "long")]}]
    (here / "count.yaml").write_text(json.dumps({"notebook": "count.ipynb", "zip": zips}))
    return plan.plan(spec.read("count.yaml"))


def until(condition, patience=300):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.1)


def counted(here, name):
    path = here / f"{name}.now"
    return int(path.read_text() or 0) if path.exists() else 0


def starts(job):
    """How often a worker began, or went on with, the job's notebook."""
    log = job.path / "study.log"
    return len(re.findall("(begins|goes on with) notebook", log.read_text())) if log.exists() else 0


def test_submitits_local_executor_puts_a_preempted_job_back(here, jobs):
    """The pickled worker and the signals of a cluster: the notebook saves, and the next start goes on from there."""
    import psutil

    _, long = jobs
    (here / "long").write_text("35990")
    (one,) = cluster.submit([long], here / "study", {}, 1, cluster="local")
    until(lambda: counted(here, "long") > 35_992)
    assert todo(long) and job_state(long).state == "running"
    parts = psutil.Process(int(one.job_id)).children(recursive=True)
    (task,) = (part for part in parts if any("submitit.core._submit" in word for word in part.cmdline()))
    task.send_signal(signal.SIGUSR2)
    assert one.result() == 0 and job_state(long).state == "done" and starts(long) == 2
    saved = int((here / "long").read_text())
    assert 35_992 <= saved < 36_000 and f"counted from {saved}" in (long.path / "count.ipynb").read_text()
    log = (long.path / "study.log").read_text()
    assert "stopped notebook" in log and "failed" not in log


def test_a_failure_is_told_by_the_job(here, notebook_writer):
    notebook_writer(here / "count.ipynb", "steps = 3", "raise ValueError('told to')")
    (here / "count.yaml").write_text("notebook: count.ipynb")
    (job,) = plan.plan(spec.read("count.yaml"))
    with pytest.raises(Exception, match="told to"):
        cluster.Worker(job)()
    assert job_state(job).state == "failed"


def test_options_are_checked_before_anything_is_submitted():
    assert cluster.check({"partition": "gpu", "time": "90", "gpus_per_node": 2}) == {
        "partition": "gpu",
        "time": 90,
        "gpus_per_node": 2,
    }
    for given, said in (
        ({"partiton": "gpu"}, "did you mean 'partition'"),
        ({"time": "1:30"}, "whole number of minutes"),
        ({"nodes": 2}, "nodes is a setting of the run"),
    ):
        with pytest.raises(Refused, match=said):
            cluster.check(given)


def test_without_slurm_the_executor_is_refused(here, jobs, monkeypatch):
    monkeypatch.setenv("PATH", str(here))
    with pytest.raises(Refused, match="executor = slurm"):
        cluster.submit(jobs, here / "study", {}, 1)


def test_the_script_for_slurm_is_an_array_that_asks_for_a_signal(here, jobs, monkeypatch):
    """What submitit would hand to sbatch, with a sbatch that only keeps its script."""
    bin_ = here / "bin"
    bin_.mkdir()
    for name, said in (("sbatch", 'cat "$1" > script.sh; echo Submitted batch job 7'), ("srun", "exit 0")):
        (bin_ / name).write_text(f"#!/bin/sh\n{said}\n")
        (bin_ / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}{os.pathsep}{os.environ['PATH']}")
    given = {"partition": "gpu", "account": "lab", "time": 90, "gpus_per_node": 1, "cpus_per_task": 8, "requeue": 5}
    submitted = cluster.submit(jobs, here / "study", given, 2)
    assert [job.job_id for job in submitted] == ["7_0", "7_1"]
    script = (here / "script.sh").read_text()
    for line in (
        "array=0-1%2",
        "partition=gpu",
        "account=lab",
        "time=90",
        "gpus-per-node=1",
        "cpus-per-task=8",
        "signal=USR2@90",
        "requeue",
    ):
        assert f"#SBATCH --{line}\n" in script, line
    assert "submitit.core._submit" in script and str(here / "study" / "slurm") in script


CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
ReturnToService=2
AccountingStorageType=accounting_storage/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/ctld.pid
SlurmdPidFile={folder}/d.%n.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/d.%n.log
SlurmctldPort=16817
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port=16818 CPUs={cpus} State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port=16819 CPUs={cpus} State=UNKNOWN
PartitionName=test Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def slurm(tmp_path_factory, monkeypatch):
    """A cluster of two nodes, both of them this machine, started and stopped here.

    Needs apt-get install slurm-wlm munge, and root.
    """
    assert shutil.which("sbatch") and getpass.getuser() == "root", "needs slurm-wlm and munge, and to be root"
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool.n1", "spool.n2"):
        (folder / name).mkdir()
    host = socket.gethostname().split(".")[0]
    (folder / "slurm.conf").write_text(CONF.format(host=host, folder=folder, cpus=os.cpu_count()))
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    os.makedirs("/run/munge", exist_ok=True)
    shutil.chown("/run/munge", "munge", "munge")
    munged = subprocess.Popen(["runuser", "-u", "munge", "--", "munged", "--foreground"], start_new_session=True)
    daemons = [munged]
    time.sleep(1)
    for command in (["slurmctld", "-D"], ["slurmd", "-D", "-N", "n1"], ["slurmd", "-D", "-N", "n2"]):
        daemons.append(
            subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )
    nodes = ["sinfo", "-h", "-N", "-o", "%t"]
    until(lambda: subprocess.run(nodes, capture_output=True, text=True).stdout.split() == ["idle"] * 2)
    yield folder
    subprocess.run(["scancel", "--user", "root"], check=False)
    time.sleep(1)
    for daemon in reversed(daemons):
        os.killpg(daemon.pid, signal.SIGTERM)
        daemon.wait(20)


@pytest.mark.slurm
def test_a_real_slurm_runs_an_array_and_puts_a_preempted_job_back(slurm, here, jobs):
    short, long = jobs
    (here / "long").write_text("35000")
    submitted = cluster.submit(jobs, here / "study", {"partition": "test", "time": 10}, 2)
    assert [job.job_id.partition("_")[2] for job in submitted] == ["0", "1"]
    until(lambda: job_state(short).state == "done")
    until(lambda: counted(here, "long") > 35_002)
    submitted[1]._interrupt()
    log = long.path / "study.log"
    until(lambda: "stopped notebook" in log.read_text())
    saved = int((here / "long").read_text())
    assert saved > 35_001
    (here / "long").write_text("35995")
    number = submitted[1].job_id
    until(
        lambda: (
            subprocess.run(["squeue", "-h", "-j", number, "-o", "%T"], capture_output=True, text=True).stdout.strip()
            == "PENDING"
        )
    )
    subprocess.run(
        ["scontrol", "update", f"JobId={number}", "StartTime=now"], check=True
    )  # else two minutes of waiting
    until(lambda: job_state(long).state == "done")
    assert "counted from 35995" in (long.path / "count.ipynb").read_text()
    assert starts(long) == 2


RUN = {
    "data": "emoji", "image_size": 16, "patch_size": 4, "encoder_args": {"dim": 24, "depth": 1, "heads": 2}, "vocab": 16, "updates": "4",
    "batch_size": 32, "drop_path": 0.0, "knn_every": 0, "film": 0, "log_every": 1, "device": "cpu",
}  # fmt: skip


@pytest.mark.slurm
def test_a_real_slurm_trains_on_two_nodes_as_on_one(slurm, here):
    """The study's worker is on the first node and reaches the second; one array for each number of nodes."""
    zips = [{"nodes": [1, 2], "run": ["one", "two"]}]
    (here / "nodes.yaml").write_text(json.dumps({"base": RUN | {"method": "splitmask"}, "zip": zips}))
    found = plan.plan(spec.read("nodes.yaml"))
    submitted = cluster.submit(found, here / "study", {"partition": "test", "time": 10}, 2)
    assert len({job.job_id.partition("_")[0] for job in submitted}) == 2
    until(lambda: all(job_state(job).state in ("done", "failed") for job in found), 400)
    assert [job_state(job).state for job in found] == ["done", "done"], (found[1].path / "study.log").read_text()[
        -3000:
    ]
    one, two = ([row["loss"] for row in Run.at(job.path).metrics() if "loss" in row] for job in found)
    assert len(one) == 4 and one == pytest.approx(two, rel=1e-3)
