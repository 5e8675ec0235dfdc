"""What a run spends beside training: batches, masks, log lines, k-NN probes, checkpoints and the film, in processor time.

`python -m mimlab.scale.overhead -p method mae -p data emoji ...`, with the parameters of notebook 03. A few real steps are
trained with a probe and a checkpoint at the end; what each costs is multiplied with how often the whole run does it.
Processor time does not depend on what else the machine is doing, as long as it does not take the cache away.
"""

import argparse
import collections
import contextlib
import functools
import sys
import tempfile
import time

from mimlab import strict, train
from mimlab.batches import Batches
from mimlab.config import Pretrain
from mimlab.log import Log
from mimlab.looking.film import Camera
from mimlab.run import Run

STEPS = 40
# name -> what is watched
PARTS = {
    "batch": (Batches, "__getitem__"),
    "mask": (train, "draw"),
    "log": (Log, "write"),
    "probe": (Log, "probe"),
    "checkpoint": (Run, "save"),
    "film": (Camera, "take"),
}
BESIDE = ("log", "probe", "checkpoint", "film")  # what is to stay below 3 % together


@contextlib.contextmanager
def watched():
    """{name: [seconds of processor time of each call]} of `PARTS`, while they are called; "began" when the first batch was."""
    spent, before = collections.defaultdict(list), {}
    for name, (owner, attribute) in PARTS.items():
        before[name] = getattr(owner, attribute)

        @functools.wraps(before[name])
        def timed(*given, _name=name, **options):
            began = time.process_time()
            if _name == "batch" and "began" not in spent:
                spent["began"] = [began]
            try:
                return before[_name](*given, **options)
            finally:
                spent[_name].append(time.process_time() - began)

        setattr(owner, attribute, timed)
    try:
        yield spent
    finally:
        for name, (owner, attribute) in PARTS.items():
            setattr(owner, attribute, before[name])


def shares(cfg, steps=STEPS):
    """Rows {"part", "calls", "ms", "share"} of the run that `cfg` describes; `share` in percent of its processor time.

    `calls`: how often the whole run does it; `ms`: of one call, the mean over `steps` steps trained here in a folder that
    is thrown away. "train": forward, backward, optimiser and what else is not listed. "beside": the sum of `BESIDE`.
    One process, without loader workers.
    """
    cfg = cfg.resolved()
    total, each = cfg.steps(len(train.open_data(cfg, "train")))
    epochs = total / each
    with tempfile.TemporaryDirectory() as out, watched() as spent:
        short = cfg.replace(updates=str(min(steps, total)), out=out, run="short", workers=0, processes=1)
        train.pretrain(short)
        whole = time.process_time() - spent["began"][0]
    saves = 1 + (int(epochs / cfg.checkpoint_every - 1e-9) if cfg.checkpoint_every else 0)
    probes = 1 + int(epochs / cfg.knn_every - 1e-9) if spent["probe"] else 0
    calls = {"batch": total, "mask": total if spent["mask"] else 0, "log": -(-total // cfg.log_every)}
    calls |= {"probe": probes, "checkpoint": saves, "film": saves + 1 if spent["film"] else 0}
    first = [seconds for seconds in spent["film"][:1] if len(spent["film"]) > 1]  # before the first batch
    once = {name: sum(spent[name]) / max(1, len(spent[name])) for name in PARTS}
    rest = whole - sum(sum(spent[name]) for name in PARTS) + sum(first)
    calls["train"], once["train"] = total, rest / min(steps, total)
    run = sum(calls[name] * once[name] for name in once)
    rows = [
        {
            "part": name,
            "calls": calls[name],
            "ms": round(1000 * once[name], 3),
            "share": round(100 * calls[name] * once[name] / run, 2),
        }
        for name in ("train", *PARTS)
    ]
    beside = sum(calls[name] * once[name] for name in BESIDE)
    return [*rows, {"part": "beside", "calls": None, "ms": None, "share": round(100 * beside / run, 2)}]


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m mimlab.scale.overhead", description=__doc__.splitlines()[0])
    parser.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    parser.add_argument("--steps", type=int, default=STEPS, help=f"trained here (default: {STEPS})")
    given = parser.parse_args(arguments)
    for row in shares(Pretrain.read(dict(given.parameter)), given.steps):
        print(strict.dumps(row))


if __name__ == "__main__":
    sys.exit(main())
