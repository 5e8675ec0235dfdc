"""Peak memory of a training step, in a fresh process for each case.

`python -m mimlab.bench.memory` reads {settings, who, threads, fused} as JSON from its input and writes its numbers. It loads all
modules first, with a step of another, tiny model, so that what is above that is the case's: weights, gradients,
optimiser state, one batch, and what forward keeps for backward.
"""

import json
import os
import subprocess
import sys

from mimlab import strict
from mimlab.errors import Failed
from mimlab.heap import trim
from mimlab.peak import begin, peak, resident

STEPS = 2  # from the second on, the optimiser's state is there


def ask(cfg, who, threads, fused=False):
    """{"peak_mb", "imports_mb"} of `who` ("mimlab", "plain", a package) at settings: above the imports, and those."""
    given = {"settings": cfg.dict(), "who": who, "threads": threads, "fused": fused}
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "mimlab.bench.memory"],
        input=strict.dumps(given),
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
    begin(started.device)
    with memory(who):
        steps(build(cfg, who, started, given["fused"])[0], clock)
    imports = 0.0 if started.device.type == "cuda" else imports
    return {"peak_mb": peak(started.device) - imports, "imports_mb": imports}


def tiny(cfg):
    """Changes that make any model small: one narrow block and two images."""
    args = {"dim": 24, "depth": 1, "heads": 3}
    return {"encoder_args": cfg.encoder_args | args, "batch_size": 2, "vocab": 64}


def steps(case, clock):
    for _ in range(STEPS):
        case.step(clock)


if __name__ == "__main__":
    print(strict.dumps(child(json.load(sys.stdin))))
