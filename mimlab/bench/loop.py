"""The whole loop beside ready batches: what data, masks and logging cost in a real run."""

import statistics
import tempfile
import time

from mimlab.bench.case import Clock, Ours
from mimlab.train import pretrain


def compare(cfg, accelerator, steps=8, turns=1):
    """{images_per_s, ready_images_per_s, of_ready} of `pretrain(cfg)`: the median of `turns` turns of `steps` steps.

    Before and after each turn as many steps on ready batches are made; the ratio is that of a turn. They
    ask the tokenizer too, as a run does. Without k-NN probes and checkpoints, into a folder that is
    thrown away. The first half of a turn warms up.
    """
    ours, clock = Ours(cfg, accelerator), Clock(accelerator.device)
    timed(ours, 2, clock)
    loop, ready = [], []
    for _ in range(turns):
        around = [timed(ours, steps, clock)]
        with tempfile.TemporaryDirectory() as out:
            changes = {"updates": str(2 * steps), "log_every": steps, "knn_every": 0, "checkpoint_every": 0, "film": 0}
            run = pretrain(cfg.replace(**changes, out=out, run="bench"))
            speeds = [row["images_per_s"] for row in run.metrics() if "images_per_s" in row]
        loop.append(speeds[-1])
        around.append(timed(ours, steps, clock))
        ready.append(cfg.batch_size / statistics.mean(around))
    return {
        "method": cfg.method,
        "images_per_s": statistics.median(loop),
        "ready_images_per_s": statistics.median(ready),
        "of_ready": statistics.median(a / b for a, b in zip(loop, ready, strict=True)),
        "steps": steps,
        "turns": turns,
    }


def timed(ours, steps, clock):
    """Median seconds of a step on ready inputs and the tokenizer's answer for them."""
    found = []
    for _ in range(steps):
        began = time.perf_counter()
        ours.tokenize(ours.ready.views[0])
        ours.step(clock)
        found.append(time.perf_counter() - began)
    return statistics.median(found)
