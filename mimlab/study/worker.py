"""One job in a process of its own: `python -m mimlab.study.worker JOB`, JOB as JSON.

Its output goes where the parent sends it (study.log of the job's folder). SIGTERM, or Ctrl-C, interrupts the cell that
is running, so that training saves a checkpoint and ends; a job that was cut goes on when it is started again.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from mimlab import cores, strict
from mimlab.errors import Failed, Refused
from mimlab.run import Run, write
from mimlab.study.plan import Job
from mimlab.study.state import FAILED, RESULT, claimed, held, log_of, task_state, todo
from mimlab.trusted import DOTTED, FIELDS, trust

DONE, SOME_FAILED, ELSEWHERE, STOPPED = 0, 1, 75, 130
ORPHAN = 60.0  # s until a kernel whose parent was killed has noticed it and is gone


class Killed(Exception):
    """The kernel died: nothing is known to be wrong with the settings."""


def work(job, retry=False, asked=None):
    """Execute what is left of a job, task by task; returns `DONE`, `SOME_FAILED`, `ELSEWHERE` or `STOPPED`.

    `asked` is a `threading.Event`: once set, errors count as an interruption. With `retry` failed tasks count as left.
    """
    asked = asked or threading.Event()
    with claimed(job.path) as ours:
        if not ours or not _free(job.path / "lock"):
            return ELSEWHERE
        code = DONE
        for task in job.tasks:
            if asked.is_set():
                return STOPPED
            if task not in todo(job, retry):
                code = code or (SOME_FAILED if task_state(task) != "done" else DONE)
                continue
            (task.path / FAILED).unlink(missing_ok=True)
            said, began = task_state(task), time.perf_counter()
            _log(f"{'goes on with' if said == 'stopped' else 'begins'} {task.name}")
            try:
                _execute(task, began)
            except Exception as error:  # whatever it is, the other jobs go on
                if asked.is_set():
                    task.output.with_name(f"{task.output.stem}.failed.ipynb").unlink(missing_ok=True)
                    _log(f"stopped {task.name}")
                    return STOPPED
                _log(f"failed {task.name}: {error}")
                code = SOME_FAILED
                if not isinstance(error, Killed):
                    record = {"said": str(error) or type(error).__name__, "error": type(error).__name__}
                    task.path.mkdir(parents=True, exist_ok=True)
                    write(task.path / FAILED, strict.dumps(record | {"parameters": task.parameters}, indent=1))
                if task.kind == "pretrain" and not Run.at(task.path).finished:
                    return code
            else:
                _log(f"done {task.name} in {time.perf_counter() - began:.0f} s")
        return code


def _execute(task, began):
    from mimlab.notebook import execute

    task.path.mkdir(parents=True, exist_ok=True)
    try:
        execute(Path(task.notebook), task.parameters, output=task.output, log=log_of(task))
    except Failed as error:
        if type(error.__context__).__name__ == "DeadKernelError":  # nbclient's; `execute` says it in a sentence
            raise Killed(str(error)) from None
        raise
    if task.kind == "notebook":
        seconds = round(time.perf_counter() - began, 1)
        write(task.path / RESULT, strict.dumps({"parameters": task.parameters, "seconds": seconds}, indent=1))


def _free(lock):
    """Wait until the kernel of a killed worker has let go of the run; False where another process keeps it."""
    end = time.monotonic() + ORPHAN
    while held(lock):
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True


def _log(said):
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} study: {said}", flush=True)


def _interrupt_kernels(told):
    """Ctrl-C for the kernels of this process, each once: a second one would stop training before it has saved."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):  # a kernel that has just ended
        for child in psutil.Process().children():
            kernel = any("ipykernel" in part for part in child.cmdline())
            if kernel and child.pid not in told and not _deaf(child.pid):
                told.add(child.pid)
                os.kill(child.pid, signal.SIGINT)


def _deaf(pid):
    """Whether a process ignores Ctrl-C now, as a kernel does between cells; unknown outside Linux."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    ignored = next((line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:")), "0")
    return bool(int(ignored, 16) >> (signal.SIGINT - 1) & 1)


def main(arguments):
    """Execute the job; notebooks run in a thread, since nbclient would take the signals and kill the kernel in seconds."""
    cores.look()
    job, retry = Job.read(json.loads(arguments[0])), "--retry" in arguments[1:]
    for settings in (job.settings, *(task.parameters for task in job.tasks)):  # named by the study, which was checked
        trust(*(name for name in map(settings.get, FIELDS) if isinstance(name, str) and DOTTED.fullmatch(name)))
    asked, codes, told = threading.Event(), [], set()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    if hasattr(
        signal, "SIGUSR2"
    ):  # SLURM sends it to all processes of a job; submitit's hears it, and asks us by SIGTERM
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # kernels inherit that

    def run():
        try:
            codes.append(work(job, retry, asked))
        except Refused as error:
            print(f"mimlab: {error}", file=sys.stderr)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
        if asked.is_set():
            _interrupt_kernels(told)
    return codes[0] if codes else SOME_FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
