"""Peak memory against the batch, and the largest batch that fits: `python -m mimlab.scale.memory`.

Each case is a fresh process that only begins with the modules loaded (a fork server), and takes steps at two batches;
resident memory is nearly a line in the batch: weights, gradients, AdamW's two moments and the modules, plus what each
image keeps.
"""

import argparse
import multiprocessing
import sys

from mimlab.config import Pretrain
from mimlab.errors import Failed
from mimlab.scale import line

GB = (4, 16, 80)
RESERVE = 0.1  # of the memory, left to the allocator and the driver
TI = {"image_size": 224, "patch_size": 16, "encoder": "vit_tiny"}
AT = {
    "32px": {"image_size": 32, "patch_size": 4, "encoder_args": {"dim": 192, "depth": 6, "heads": 3}},
    "Ti/224": TI,
    "B/224": TI | {"encoder": "vit_base"},
}
DECODER = {"32px": (128, 2, 4), "Ti/224": (192, 4, 3), "B/224": (512, 8, 16)}  # MAE's: width, depth, heads
BATCHES = {"32px": (32, 96), "Ti/224": (4, 16), "B/224": (2, 6)}
TABLE = [
    (at, name) for at in ("32px", "Ti/224") for name in ("mae", "beit", "simmim", "splitmask", "cae", "cim", "dino")
]
TABLE += [("B/224", name) for name in ("mae", "beit", "splitmask")]


def settings(at, method, given=None):
    """`Pretrain` of a method at one of `AT`; vocabulary 8,192; `given` counts over all."""
    chosen = {"method": method, "vocab": 8192, "device": "cpu", "encoder_args": {}} | AT[at]
    if method == "beit":
        chosen["encoder"] = chosen.get("encoder", "vit").replace("vit_base", "beit_base")
    if method == "mae":
        chosen["method_args"] = dict(zip(("decoder_dim", "decoder_depth", "decoder_heads"), DECODER[at], strict=True))
    if method == "cim":
        width = {"32px": 96, "Ti/224": 96, "B/224": 384}[at]
        chosen["method_args"] = {"generator_dim": width, "generator_heads": width // 32}
    if method == "dino":
        chosen["method_args"] = {"out_dim": 4096, "bottleneck_dim": 256}
    return Pretrain.read(chosen | (given or {}))


def peaks(cases, limit=600):
    """[(settings, batches)] -> for each case the peak resident MiB at each of its batches, a list, smallest batch first.

    `Failed` where a process dies, as when the machine has too little memory. At most `limit` seconds a case.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mimlab.scale.step", "mimlab.encoders.vit", "timm"])
    found = []
    for cfg, batches in cases:
        here, there = context.Pipe(duplex=False)
        child = context.Process(target=_steps, args=(there, cfg.dict(), sorted(batches)))
        child.start()
        there.close()
        try:
            if not here.poll(limit):
                raise EOFError
            found.append(here.recv())
        except EOFError:
            raise Failed(
                f"memory of {cfg.method}, batches {batches}: the process ended, or took over {limit} s"
            ) from None
        finally:
            child.kill()
            child.join()
    return found


def _steps(pipe, settings, batches):
    import torch

    from mimlab.log import memory_mb
    from mimlab.scale.step import Step

    torch.set_num_threads(1)
    found = []
    for batch in batches:
        step = Step(Pretrain.read(settings | {"batch_size": batch}).resolved())
        step()
        step()  # the second has the optimiser's moments from its beginning
        found.append(memory_mb())
        del step
    pipe.send(found)


def largest(batches, mb, gb):
    """The largest batch that `gb` GB have room for, less `RESERVE`, by the line through the peaks; 0 where none fits."""
    fixed, each = line(batches, mb)
    room = gb * 1e9 / 2**20 * (1 - RESERVE) - fixed
    return max(0, int(room / each)) if each > 0 else 0


def table(rows=TABLE, given=None):
    """Rows {"at", "method", "fixed_mb", "mb_per_image", "4 GB", "16 GB", "80 GB"}, measured here, in order."""
    cases = [(settings(at, method, given), BATCHES[at]) for at, method in rows]
    found = []
    for (at, method), mb, (_, batches) in zip(rows, peaks(cases), cases, strict=True):
        fixed, each = line(batches, mb)
        row = {"at": at, "method": method, "fixed_mb": round(fixed), "mb_per_image": round(each, 2)}
        found.append(row | {f"{gb} GB": largest(batches, mb, gb) for gb in GB})
    return found


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m mimlab.scale.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--at", choices=list(AT), help="one configuration (default: all)")
    parser.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    given = parser.parse_args(arguments)
    print("| configuration | method | fixed (MB) | an image (MB) | 4 GB | 16 GB | 80 GB |\n|" + " --- |" * 7)
    for row in TABLE:
        if given.at in (None, row[0]):
            (one,) = table([row], dict(given.parameter))
            print(
                "| "
                + " | ".join(f"{value:,}" if isinstance(value, int) else str(value) for value in one.values())
                + " |",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
