"""The whole loop beside ready batches: what data, masks and logging cost in a real run."""

import tempfile

from mimlab.bench.case import Clock, Ours
from mimlab.bench.rounds import Series, moment, since
from mimlab.train import pretrain

LINES, EVERY = (
    5,
    1,
)  # lines of the log, the first of which warms up, and the steps of each: more lines than a run writes


def compare(cfg, accelerator, clock="wall", limit=0.15):
    """{images_per_s, ready_images_per_s, of_ready} of `pretrain(cfg)`, without k-NN probes, checkpoints and film.

    In turns, in one process: a few steps of `pretrain` with their line of the log, then as many on ready batches, which
    ask the tokenizer too, as a run does. The run's folder is thrown away.
    """
    ours, parts = Ours(cfg, accelerator), Clock(accelerator.device, clock)
    loop, ready, mark = [], [], None

    def steps():
        for _ in range(EVERY):
            ours.tokenize(ours.ready.views[0])
            ours.step(parts)

    def heard(row):
        nonlocal mark
        if "images_per_s" in row and mark is not None:
            loop.append(since(mark))
            mark = moment()
            steps()
            ready.append(since(mark))
        mark = moment()

    steps()
    quiet = {"knn_every": 0, "checkpoint_every": 0, "film": 0}
    with tempfile.TemporaryDirectory() as out:
        changes = {"updates": str(LINES * EVERY), "log_every": EVERY, "out": out, "run": "bench"}
        pretrain(cfg.replace(**quiet, **changes), heard)
    loop, ready = Series(loop, clock, limit), Series(ready, clock, limit)
    images = EVERY * cfg.batch_size
    return {
        "method": cfg.method,
        "images_per_s": images / loop.median,
        "ready_images_per_s": images / ready.median,
        "of_ready": ready.over(loop),
        "rounds": len(loop.values),
        "clean": sum(loop.clean),
    }
