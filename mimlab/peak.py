"""The most memory that was in use since a moment: of a CUDA device where the work is on one, else of this process."""

import contextlib
import resource
import sys
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def begin(device):
    """Count anew from here. Where the system cannot, a process's peak is that since it started."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        if CLEAR.exists():
            CLEAR.write_text("5")


def peak(device):
    """MiB since `begin`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return process()


def process():
    """MiB of this process, whatever the device."""
    if STATUS.exists():
        return field("VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def resident():
    """MiB of this process now."""
    return field("VmRSS") if STATUS.exists() else process()


def field(name):
    """A line of the system's report, in MiB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024
