"""What is done, running, stopped or failed: read from the run folders alone, so it cannot be out of date."""

import contextlib
import json
import os
import time
from typing import NamedTuple

from mimlab.errors import Refused

STATES = ("done", "running", "stopped", "queued", "failed")
LOCK, FAILED, RESULT = "study.lock", "failed.json", "result.json"
PATIENCE = 5.0  # s to get a lock: whoever only looks at it holds it for a moment


class State(NamedTuple):
    """Of a job: one of `STATES`, the tasks done, of how many, and a line on where it is or why it failed."""

    state: str
    done: int
    of: int
    said: str


@contextlib.contextmanager
def claimed(folder):
    """Yields whether this process alone may work in the folder; the lock goes with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "w") as handle:
        yield _lock(handle)


def _lock(handle):
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        return True
    end = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
            time.sleep(0.1)


def held(path):
    """Whether a process holds the lock file `path` now."""
    try:
        import fcntl

        with open(path) as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return False
    return False


def task_state(task):
    """done, failed, stopped or queued, of a task whose job is not running."""
    if (task.path / FAILED).is_file():
        return "failed"
    cut = task.output.with_name(f"{task.output.stem}.running.ipynb").exists()
    if mark(task).is_file() and not cut:
        return "done"
    begun = cut or (task.kind == "pretrain" and (task.path / "config.json").is_file())
    return "stopped" if begun else "queued"


def mark(task):
    """The file that is there once the task is done: weights, evals/<name>.json of the run, or result.json."""
    if task.kind == "evaluate":
        return task.path.with_name(f"{task.name}.json")
    return task.path / ("encoder.safetensors" if task.kind == "pretrain" else RESULT)


def todo(job, retry=False):
    """The tasks that a worker would execute now: an evaluation needs a finished run."""
    found = []
    for task in job.tasks:
        state = task_state(task)
        if state in ("queued", "stopped") or (state == "failed" and retry):
            found.append(task)
        elif state == "failed" and task.kind == "pretrain" and not (task.path / "encoder.safetensors").is_file():
            break
    return found


def job_state(job):
    """The `State` of a job."""
    states = [task_state(task) for task in job.tasks]
    done, of = states.count("done"), len(states)
    if held(job.path / LOCK) or held(job.path / "lock"):
        now = next((task for task, state in zip(job.tasks, states, strict=True) if state != "done"), job.tasks[-1])
        return State("running", done, of, f"{now.name}: {progress(now)}".rstrip(": "))
    if "failed" in states:
        task = job.tasks[states.index("failed")]
        return State("failed", done, of, f"{task.name}: {failure(task)}")
    if done == of:
        return State("done", done, of, "")
    if done or "stopped" in states:
        task = next(task for task, state in zip(job.tasks, states, strict=True) if state != "done")
        return State("stopped", done, of, f"{task.name}: {progress(task)}".rstrip(": "))
    return State("queued", done, of, "")


def failure(task):
    """What a failed task said, its first line."""
    try:
        return json.loads((task.path / FAILED).read_text())["said"].splitlines()[0]
    except (OSError, ValueError, KeyError, IndexError):
        return "failed.json is damaged; see study.log"


def progress(task):
    """The latest line that the task's run logged: step, loss, time left; '' before the first."""
    row = last(log_of(task)) or {}
    if not row.get("steps"):
        return ""
    said = f"step {row['step']:,} of {row['steps']:,}"
    if isinstance(row.get("loss"), (int, float)):
        said += f", loss {row['loss']:.4g}"
    left = row.get("seconds_left")
    return said + (f", {clock(left)} left" if left else "")


def log_of(task):
    """The file that grows while the task runs."""
    if task.kind == "evaluate":
        return task.path.with_name(f"{task.name}.jsonl")
    return task.path / "metrics.jsonl"


def last(path, most=4096):
    """The last whole JSON line of a file, read from its end, or None."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - most))
            lines = file.read().rpartition(b"\n")[0].splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            return row if isinstance(row, dict) else None
    return None


def clock(seconds):
    """Seconds as 0:12:34."""
    seconds = round(seconds)
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def save(folder, name, text):
    """Write a file of a study aside and rename it; the name aside is this process's, so that two may write at once."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f"{name}.{os.getpid()}.part"
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(folder / name)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise Refused(f"cannot write {folder / name}: {error.strerror}") from None
