"""N workers at a time on this machine, each with its share of the cores."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from mimlab import strict
from mimlab.cores import allowed, asked
from mimlab.errors import Refused
from mimlab.study.worker import ELSEWHERE

PAUSE = 0.2  # s between two looks at the workers
PATIENCE = 120.0  # s for workers to save and end after Ctrl-C; a second Ctrl-C ends them at once


def command(job, retry=False):
    """What executes a job, here or on a cluster."""
    return [sys.executable, "-m", "mimlab.study.worker", strict.dumps(job.dict()), *(["--retry"] if retry else [])]


def environment(threads):
    """Our own environment with the threads of a worker; finds this mimlab where it is not installed."""
    root = str(Path(importlib.util.find_spec("mimlab").origin).parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}


def start(job, retry, threads):
    """The worker of a job, in a session of its own, so that Ctrl-C of a terminal reaches us alone."""
    job.path.mkdir(parents=True, exist_ok=True)
    with open(job.path / "study.log", "a") as log:
        return subprocess.Popen(
            command(job, retry), stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment(threads), start_new_session=True
        )  # fmt: skip


def run(jobs, at_once=1, retry=False, tell=print):
    """Execute jobs, `at_once` at a time; returns those that another process has, name by name.

    Ctrl-C and SIGTERM: workers save what they have and end, then KeyboardInterrupt.
    """
    if at_once < 1:
        raise Refused(f"jobs = {at_once}: at least one at a time")
    cores = allowed()
    threads = max(1, min(cores // at_once, asked() or cores))
    waiting, running, elsewhere, ended = list(jobs), {}, [], 0
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                running[job.name] = job, start(job, retry, threads), time.monotonic()
                tell(f"begins {job.name}")
            for name, (_, child, began) in list(running.items()):
                if child.poll() is None:
                    continue
                del running[name]
                ended += 1
                how = {0: "done", ELSEWHERE: "another process works on it"}.get(child.returncode, "not done")
                elsewhere += [name] if child.returncode == ELSEWHERE else []
                tell(f"{ended} of {len(jobs)}: {name}: {how}, {time.monotonic() - began:.0f} s")
            time.sleep(PAUSE)
    except KeyboardInterrupt:
        tell(f"stopping {len(running)} runs; they save first")
        stop([child for _, child, _ in running.values()])
        raise KeyboardInterrupt("stopped; the same command goes on") from None
    finally:
        signal.signal(signal.SIGTERM, before)
    return elsewhere


def _interrupt(*_):
    raise KeyboardInterrupt


def stop(children):
    """Ask workers to save and end; end those that do not."""
    try:
        for child in children:
            child.terminate()
        end = time.monotonic() + PATIENCE
        for child in children:
            child.wait(max(0.0, end - time.monotonic()))
    except (KeyboardInterrupt, subprocess.TimeoutExpired):
        for child in children:
            child.kill()
            child.wait()
