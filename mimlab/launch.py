"""`processes` or `nodes` > 1: children that train, followed through metrics.jsonl."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch

from mimlab import environment, files, strict
from mimlab.cores import allowed
from mimlab.errors import Failed, Refused, shown
from mimlab.progress import Bar
from mimlab.run import Run, write


def command(cfg, path):
    """The command that trains the settings in the file `path` with `cfg.processes` processes on each of `cfg.nodes`.

    On a CPU torchrun, since there `accelerate launch` silently runs one process; on GPUs
    `accelerate launch`, which honours the user's `accelerate config`. Each picks a free port. On many
    nodes one torchrun a node, started by SLURM within the job that we are in.
    """
    work = ["-m", "mimlab", "pretrain", "--settings", str(path)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={cfg.processes}"]
    if cfg.nodes > 1:
        meet = ["--rdzv_backend=c10d", f"--rdzv_endpoint={meeting()}", f"--rdzv_id={os.environ['SLURM_JOB_ID']}"]
        return [*srun(cfg.nodes), *torchrun, f"--nnodes={cfg.nodes}", *meet, *work]
    if cfg.device == "cpu" or not torch.cuda.is_available():
        return [*torchrun, "--standalone", *work]
    head = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--main_process_port=0"]
    return [*head, f"--num_processes={cfg.processes}", f"--mixed_precision={cfg.precision}", *work]


def srun(nodes):
    """One task on each node of our SLURM job, beside the step that we are in ourselves; all end if one does."""
    return ["srun", "--overlap", f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]


def meeting():
    """host:port at which the processes of our SLURM job find each other: here, its first node; a port by its number."""
    return f"{socket.gethostname()}:{20_000 + int(os.environ['SLURM_JOB_ID']) % 20_000}"


def launch(cfg, run, report):
    """Start the children, show their progress here, stop them when interrupted; returns the `Run`.

    A child that dies ends all; the error has the tail of their output (`workers.log` has it all). Raises Refused where
    there are fewer nodes than asked for.
    """
    there, job = os.environ.get("SLURM_JOB_NUM_NODES", "1"), os.environ.get("SLURM_JOB_ID", "0")
    for name, value in (("SLURM_JOB_NUM_NODES", there), ("SLURM_JOB_ID", job)):
        if not (value.isascii() and value.isdigit()):
            raise Refused(f"nodes = {cfg.nodes}: {name} = {shown(value)} of the environment is no number")
    there = int(there) if "SLURM_JOB_ID" in os.environ else 1
    if cfg.nodes > there:
        raise Refused(
            f"nodes = {cfg.nodes}: there is {there} here; start inside a SLURM job of {cfg.nodes} nodes, as "
            "mimlab study --executor slurm does"
        )
    run.make()
    files.unlinked(run.path)
    settings, log = run.path / "launch.json", run.path / "workers.log"
    write(settings, strict.dumps(cfg.dict()))
    root = Path(importlib.util.find_spec("mimlab").origin).parent.parent
    threads = str(max(1, allowed() // cfg.processes))
    env = (
        {"OMP_NUM_THREADS": threads}
        | environment.without()
        | {"PYTHONPATH": f"{root}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    )
    if not run.finished:
        run.forget_after(max(run.checkpoints(), default=0))  # what the children will do again
    seen, bar = 0, None  # `seen`: bytes of metrics.jsonl
    with files.growing(log, fresh=True) as out:
        child = subprocess.Popen(
            command(cfg, settings), stdout=out, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )
        try:
            while True:
                ended = child.poll() is not None
                rows, seen = run.metrics_since(seen)
                for row in rows:
                    bar = bar or Bar(row["steps"], 0, cfg.method)
                    bar.show(row)
                    if report is not None:
                        report(row)
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
        raise Failed(f"{cfg.world} processes ended with code {child.returncode}; {log} ends:\n{tail(log)}")
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
