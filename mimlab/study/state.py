"""What is done, running, stopped or failed: read from the run folders alone, so it cannot be out of date."""

import contextlib
import math
import os
import time
from typing import NamedTuple

from mimlab import files
from mimlab.errors import Refused, reason
from mimlab.run import Run

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
    """Yields whether this process alone may work in the folder; the lock goes with the process, however it ends.

    Raises `Refused` for a folder with links inside.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.unlinked(folder)
        end = time.monotonic() + PATIENCE
        while True:
            with files.locked(folder / LOCK) as ours:
                if ours or time.monotonic() > end:
                    yield ours
                    return
            time.sleep(0.1)
    except OSError as error:
        raise Refused(f"cannot write in {folder}: {reason(error)}") from None


def held(path):
    """Whether a process holds the lock file `path` now."""
    try:
        import fcntl

        handle = os.open(path, os.O_RDONLY | files.NONBLOCK | files.NOFOLLOW)
    except (ImportError, OSError):
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def task_state(task):
    """done, failed, stopped or queued, of a task whose job is not running."""
    if (task.path / FAILED).is_file():
        return "failed"
    cut = task.output.with_name(f"{task.output.stem}.running.ipynb").exists()
    if done(task) and not cut:
        return "done"
    begun = cut or (task.kind == "pretrain" and (task.path / "config.json").is_file())
    return "stopped" if begun else "queued"


def mark(task):
    """The file that is there once the task is done: weights, evals/<name>.json of the run, or result.json."""
    if task.kind == "evaluate":
        return task.path.with_name(f"{task.name}.json")
    return task.path / ("encoder.safetensors" if task.kind == "pretrain" else RESULT)


def done(task):
    """Whether what the task leaves is there and can be read: whole weights, or JSON."""
    if task.kind == "pretrain":
        return Run.at(task.path).finished
    try:
        return bool(files.load(mark(task)))
    except (OSError, Refused):
        return False


def todo(job, retry=False):
    """The tasks that a worker would execute now: an evaluation needs a finished run."""
    found = []
    for task in job.tasks:
        state = task_state(task)
        if state in ("queued", "stopped") or (state == "failed" and retry):
            found.append(task)
        elif state == "failed" and task.kind == "pretrain" and not done(task):
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
        return files.load(task.path / FAILED)["said"].splitlines()[0]
    except (OSError, Refused, KeyError, IndexError, AttributeError):
        return "failed.json is damaged; see study.log"


def progress(task):
    """The latest line that the task's run logged: step, loss, time left; '' before the first."""
    row = {name: value for name, value in (last(log_of(task)) or {}).items() if type(value) in (int, float)}
    if not row.get("steps") or "step" not in row:
        return ""
    said = f"step {row['step']:,} of {row['steps']:,}"
    if "loss" in row:
        said += f", loss {row['loss']:.4g}"
    left = row.get("seconds_left")
    return said + (f", {clock(left)} left" if left and math.isfinite(left) else "")


def log_of(task):
    """The file that grows while the task runs."""
    if task.kind == "evaluate":
        return task.path.with_name(f"{task.name}.jsonl")
    return task.path / "metrics.jsonl"


def last(path, most=4096):
    """The last whole JSON line of a file, read from its end, or None."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - most))
            lines = file.read().rpartition(b"\n")[0].splitlines()
    except OSError:
        return None
    for line in reversed(lines):
        with contextlib.suppress(ValueError):
            row = files.loads(line)
            return row if isinstance(row, dict) else None
    return None


def _without_waiting(path, flags):
    """A descriptor; a pipe without a writer would be waited for."""
    return os.open(path, flags | files.NONBLOCK)


def clock(seconds):
    """Seconds as 0:12:34."""
    seconds = round(seconds)
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def save(folder, name, text):
    """Write a file of a study aside and rename it; the name aside is this process's, so that two may write at once."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Refused(f"cannot make {folder}: {reason(error)}") from None
    files.write(folder / name, text)
