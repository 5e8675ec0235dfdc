"""Peak memory against the batch, and the largest batch that fits: `python -m mimlab.scale.memory`.

Resident memory is nearly a line in the batch: weights, gradients, AdamW's two moments and the modules, plus what each
image keeps. The configurations are those of `mimlab bench`.
"""

import argparse
import sys

from mimlab.bench import sizes
from mimlab.scale import line
from mimlab.scale.step import peaks

GB = (4, 16, 80)
RESERVE = 0.1  # of the memory, left to the allocator and the driver
BATCHES = {"32px": (32, 96), "ti224": (4, 16), "b224": (4, 20)}
METHODS = ("mae", "beit", "simmim", "splitmask", "cae", "cim", "dino")
TABLE = [(at, name) for at in ("32px", "ti224") for name in METHODS]
TABLE += [("b224", name) for name in ("mae", "beit", "splitmask")]


def largest(batches, mb, gb):
    """The largest batch that `gb` GB have room for, less `RESERVE`, by the line through the peaks; 0 where none fits."""
    fixed, each = line(batches, mb)
    room = gb * 1e9 / 2**20 * (1 - RESERVE) - fixed
    return max(0, int(room / each)) if each > 0 else 0


def row(at, method, given=None):
    """{"at", "method", "fixed_mb", "mb_per_image", "4 GB", "16 GB", "80 GB"}, measured here; settings `given` count."""
    batches = BATCHES[at]
    mb = peaks(sizes.settings(method, at, {"device": "cpu"} | (given or {})), batches)
    fixed, each = line(batches, mb)
    found = {"at": at, "method": method, "fixed_mb": round(fixed), "mb_per_image": round(each, 2)}
    return found | {f"{gb} GB": largest(batches, mb, gb) for gb in GB}


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m mimlab.scale.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--at", choices=list(BATCHES), help="one configuration (default: all)")
    parser.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    given = parser.parse_args(arguments)
    print("| configuration | method | fixed (MiB) | an image (MiB) | 4 GB | 16 GB | 80 GB |\n|" + " --- |" * 7)
    for at, method in TABLE:
        if given.at in (None, at):
            cells = row(at, method, dict(given.parameter)).values()
            print(
                "|", " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells), "|", flush=True
            )


if __name__ == "__main__":
    sys.exit(main())
