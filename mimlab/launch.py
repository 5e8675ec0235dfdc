"""`processes` > 1: children that train, followed through metrics.jsonl."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from mimlab.errors import Failed
from mimlab.progress import Bar
from mimlab.run import Run, write


def command(cfg, path):
    """The command that trains the settings in the file `path` with `cfg.processes` processes.

    On a CPU torchrun, since there `accelerate launch` silently runs one process; on GPUs
    `accelerate launch`, which honours the user's `accelerate config`. Each picks a free port.
    """
    work = ["-m", "mimlab", "pretrain", "--settings", str(path)]
    if cfg.device == "cpu" or not torch.cuda.is_available():
        return [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={cfg.processes}",
            *work,
        ]
    head = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--main_process_port=0"]
    return [*head, f"--num_processes={cfg.processes}", f"--mixed_precision={cfg.precision}", *work]


def launch(cfg, run, report):
    """Start the children, show their progress here, stop them when interrupted; returns the `Run`.

    A child that dies ends all; the error has the tail of their output (`workers.log` has it all).
    """
    run.make()
    settings, log = run.path / "launch.json", run.path / "workers.log"
    write(settings, json.dumps(cfg.dict()))
    root = Path(importlib.util.find_spec("mimlab").origin).parent.parent
    threads = str(max(1, (os.cpu_count() or 1) // cfg.processes))
    env = (
        {"OMP_NUM_THREADS": threads}
        | os.environ
        | {"PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    )
    if not run.finished:
        run.forget_after(max(run.checkpoints(), default=0))  # what the children will do again
    seen, bar = 0, None
    with open(log, "w") as out:
        child = subprocess.Popen(
            command(cfg, settings), stdout=out, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )
        try:
            while True:
                ended = child.poll() is not None
                rows = run.metrics()
                for row in rows[seen:]:
                    bar = bar or Bar(row["steps"], 0, cfg.method)
                    bar.show(row)
                    if report is not None:
                        report(row)
                seen = len(rows)
                if ended:
                    break
                time.sleep(0.3)
        except BaseException:
            stop(child)
            raise
        finally:
            if bar is not None:
                bar.close()
    if child.returncode != 0:
        raise Failed(f"{cfg.processes} processes ended with code {child.returncode}; {log} ends:\n{tail(log)}")
    return Run.open(run.path)


def stop(child):
    """Ask the children to save and stop, as Ctrl-C would; after a while, end them."""
    for number, patience in ((signal.SIGTERM, 60), (signal.SIGKILL, 10)):
        try:
            os.killpg(child.pid, number)
            child.wait(patience)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


def tail(log, lines=30):
    """The children's own words: from the first traceback of one on, launcher chatter left out."""
    text = log.read_text(errors="replace").splitlines()
    starts = [
        i for i, line in enumerate(text) if line.startswith(("Traceback", "Refused", "[rank")) or "Refused:" in line
    ]
    return "\n".join(text[starts[0] : starts[0] + lines] if starts else text[-lines:])
