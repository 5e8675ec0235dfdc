"""What is measured, each in a process of its own (`child.py`): a case's steps, what stands around them, a whole run."""

import contextlib
import io
import tempfile
from functools import partial

import torch

from mimlab.bench import others
from mimlab.bench.case import Clock, Ours, accelerator
from mimlab.bench.machine import Square
from mimlab.bench.products import flops, products
from mimlab.bench.replay import Replay
from mimlab.bench.rounds import timed
from mimlab.cores import moment, since
from mimlab.heap import kept
from mimlab.train import pretrain

WARM = 1  # steps before the first that counts
LINES = 5  # of a run's log, a step each: more than a run writes; the first warms up


def prepared(cfg, threads):
    """This process's threads, and its Accelerator."""
    torch.set_num_threads(threads)
    return accelerator(cfg)


def steps(say, cfg, who, threads, clock="wall", fused=False):
    """Steps of `who` ("mimlab", "plain", a package), at settings: each answer is its `Sample` and the seconds of its parts.

    The first answer tells of the case: {"who", "note", "images", "parameters", "sizes" (`Shape` or None), "blocks",
    "flops" (an image's), "products", "first_s"}.
    """
    started = prepared(cfg, threads)
    timer, (case, sizes) = Clock(started.device, clock), others.build(cfg, who, started, fused)
    with others.memory(who):
        first = timed(partial(case.step, timer)).wall  # long where something is compiled
        found = products(case)
        about = {"who": case.who, "note": case.note, "images": case.images, "parameters": case.parameters}
        about |= {"sizes": sizes, "blocks": sizes and others.blocks(case.model, sizes)}
        about |= {"flops": flops(found, case.images), "products": len(found), "first_s": first}
        for _ in range(WARM):
            case.step(timer)
        word = say(about)
        while word:
            timer.parts.clear()
            sample = timed(partial(case.step, timer))
            word = say((sample, {name: values[0] for name, values in timer.parts.items()}))


@kept()
def around(say, cfg, threads, clock="wall"):
    """What stands around mimlab's steps, by word: "replay" and "square" answer a `Sample`; "parts" the seconds of the
    data, mask and tokenizer of another batch. The first answer: the FLOPs of a square product.
    """
    started = prepared(cfg, threads)
    ours, timer = Ours(cfg, started), Clock(started.device, clock)
    replay, square, turn = Replay(products(ours), started.device), Square(started.device, cfg.precision), 0

    def waited(run):
        run()
        timer.now()  # on a GPU a call returns before its work is done

    def parts():
        timer.parts.clear()
        ours.extra(turn, timer)
        return {name: values[0] for name, values in timer.parts.items()}

    work = {
        "replay": lambda: timed(partial(waited, replay.run)),
        "square": lambda: timed(partial(waited, square.run)),
        "parts": parts,
    }
    for run in work.values():
        run()
    word = say(square.flops)
    while word:
        turn += 1
        word = say(work[word]())


@kept()
def ready(say, cfg, threads, clock="wall"):
    """Steps on ready batches that ask the tokenizer too, as a run does: each answer is a `Sample`."""
    started = prepared(cfg, threads)
    ours, timer = Ours(cfg, started), Clock(started.device, clock)

    def step():
        ours.tokenize(ours.ready.views[0])
        ours.step(timer)

    step()
    word = say(None)
    while word:
        word = say(timed(step))


def loop(say, cfg, threads):
    """`pretrain`, without k-NN probes, checkpoints and film: the first answer after its first step and line of the log,
    then the `Sample` of each further step with its line. The run's folder is thrown away.
    """
    torch.set_num_threads(threads)
    mark = None

    def heard(row):
        nonlocal mark
        if "images_per_s" in row:
            say(mark and since(mark))
            mark = moment()

    quiet = {"knn_every": 0, "checkpoint_every": 0, "film": 0}
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stderr(io.StringIO()):  # its own bar
        pretrain(cfg.replace(**quiet, updates=str(LINES), log_every=1, out=out, run="bench"), heard)
