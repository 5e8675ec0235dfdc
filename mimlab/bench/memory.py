"""Peak memory of a training step, in a fresh process for each case.

`python -m mimlab.bench.memory` reads {settings, who, threads, fused} as JSON from its input and writes its numbers. It loads all
modules first, with a step of another, tiny model, so that what is above that is the case's: weights, gradients,
optimiser state, one batch, and what forward keeps for backward.
"""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

from mimlab.errors import Failed
from mimlab.heap import trim

STEPS = 2  # from the second on, the optimiser's state is there
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def ask(cfg, who, threads, fused=False):
    """{"peak_mb", "imports_mb"} of `who` ("mimlab", "plain", a package) at settings: above the imports, and those."""
    given = {"settings": cfg.dict(), "who": who, "threads": threads, "fused": fused}
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mimlab.bench.memory"],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        raise Failed(f"memory of {cfg.method}, {who}: the process ended with {done.returncode}: {last(done.stderr)}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def last(text):
    """The last line of what a process said."""
    return (text.strip().splitlines() or ["nothing was said"])[-1]


def child(given):
    """What `ask` gets: in this process, which must be fresh."""
    import torch

    from mimlab.bench.case import Clock, accelerator
    from mimlab.bench.others import build, memory
    from mimlab.config import Pretrain

    torch.set_num_threads(given["threads"])
    cfg, who = Pretrain.read(given["settings"]).resolved(), given["who"]
    started = accelerator(cfg)
    clock = Clock(started.device)
    steps(build(cfg.replace(**tiny(cfg)), who, started, given["fused"])[0], clock)
    trim()
    imports = resident()
    CLEAR.write_text("5") if CLEAR.exists() else None  # the peak begins anew
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with memory(who):
        steps(build(cfg, who, started, given["fused"])[0], clock)
    if started.device.type == "cuda":
        return {"peak_mb": torch.cuda.max_memory_allocated() / 2**20, "imports_mb": 0.0}
    return {"peak_mb": peak() - imports, "imports_mb": imports}


def tiny(cfg):
    """Changes that make any model small: one narrow block and two images."""
    args = {"dim": 24, "depth": 1, "heads": 3}
    return {"encoder_args": cfg.encoder_args | args, "batch_size": 2, "vocab": 64}


def steps(case, clock):
    for _ in range(STEPS):
        case.step(clock)


def resident():
    """Resident memory of this process now, in MiB."""
    return field("VmRSS") if STATUS.exists() else peak()


def peak():
    """The largest that it was, in MiB, since `CLEAR` where there is one."""
    if STATUS.exists():
        return field("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def field(name):
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    print(json.dumps(child(json.load(sys.stdin))))
