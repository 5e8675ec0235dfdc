"""The machine of a measurement, and the most that it does at matrix products."""

import os
import platform
from pathlib import Path

import torch

from mimlab.run import commit, versions

SQUARE = {"cpu": 2048}  # rows of the square product; where there are more cores than a CPU has, `LARGE`
LARGE = 8192


def about():
    """Machine, versions and commit as JSON holds them."""
    found = {"system": platform.system(), "python": platform.python_version(), "cores": os.cpu_count()}
    found["processor"] = processor()
    found["instructions"] = torch.backends.cpu.get_cpu_capability()
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return {"machine": found, "versions": versions() | others(), "commit": commit()}


def processor():
    """The processor's name as the system has it."""
    told = Path("/proc/cpuinfo")
    if told.exists():
        for line in told.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def others():
    """Versions of the peers that are installed."""
    from importlib.metadata import PackageNotFoundError, version

    from mimlab.bench.peers import packages

    found = {}
    for name in packages():
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


class Square:
    """A square product, whose best rate over the rounds is what this machine can do in a precision: `flops` of one `run`."""

    def __init__(self, device, precision="no"):
        generator, size = torch.Generator(device).manual_seed(0), SQUARE.get(torch.device(device).type, LARGE)
        kind = torch.bfloat16 if precision == "bf16" else torch.float32
        self.flops = 2 * size**3
        self.a, self.b = (torch.randn(size, size, generator=generator, device=device).to(kind) for _ in range(2))
        self.out = torch.empty_like(self.a)

    def run(self):
        torch.mm(self.a, self.b, out=self.out)
