"""The cores of this machine: which of them are ours, what others take, how many threads work and how they wait.

Two threads that share an operator wait for each other at its end. libgomp, which torch's builds for Linux have, lets them
wait actively for some 300,000 turns: the fastest way on a quiet machine, and by far the slowest beside others, who are kept
from the very core that the thread waited for needs. A short active wait is as good on a quiet one, and where others are seen
to work there is none at all (measured: notebooks/README.md).
"""

import contextlib
import math
import os
import re
import time
from pathlib import Path
from typing import NamedTuple

from mimlab.errors import Refused

WAIT, PASSIVE = 2_000, 0  # turns of an active wait: where nothing is known, and beside others
WINDOW = 0.3  # s of looking what others do
NOTED = 0.3  # of a core, by others: from here on people are told


def wait():
    """How threads that torch is going to start wait, unless the environment says it; torch asks once, when it is loaded."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ):
        os.environ["GOMP_SPINCOUNT"] = str(WAIT)


def look():
    """The same by what others do just now, for a command that is going to load torch or start who does."""
    if os.environ.get("GOMP_SPINCOUNT") == str(WAIT):
        sample = watched()
        if sample.other is not None and sample.other / sample.wall >= NOTED:
            os.environ["GOMP_SPINCOUNT"] = str(PASSIVE)


def watched():
    """`Sample` of a short while in which nothing is done."""
    before = moment()
    time.sleep(WINDOW)
    return since(before)


def allowed(root="/"):
    """Cores that this process may use: of its affinity, and of the quota of its control group (both versions), at least 1."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([there, *map(math.ceil, _quotas(Path(root)))]))


def free():
    """Cores that work of ours finds free: those allowed, less what others with the same right to them take just now.

    Work of low priority (nice) gives way and does not count. Where nothing tells (no /proc/stat), all that are allowed.
    """
    sample = watched()
    if sample.other is None:
        return allowed()
    taken = max(0.0, sample.other - sample.nice) / sample.wall
    return max(1, min(allowed(), round((os.cpu_count() or 1) - taken)))


def memory(root="/"):
    """Bytes that this process may use: the machine's, or what its control group (version 2) allows; None where nothing tells."""
    try:
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, ValueError, OSError):  # Windows does not tell
        found = []
    base = Path(root) / "sys/fs/cgroup"
    with contextlib.suppress(OSError, ValueError):
        for line in (Path(root) / "proc/self/cgroup").read_text().splitlines():
            _, controllers, inside = line.split(":", 2)
            here = base / inside.lstrip("/")
            for group in [] if controllers else [here, *here.parents]:
                with contextlib.suppress(OSError, ValueError):
                    found.append(int((group / "memory.max").read_text()))
    return min(found, default=None)


def room(needed, what):
    """Refuse work that needs more bytes than `memory` has, before they are taken; `what` says what takes them, and what would not."""
    there = memory()
    if there is not None and needed > there:
        raise Refused(f"{what}: {needed / 1e9:,.1f} GB, and there are {there / 1e9:,.1f} GB")


def asked():
    """Threads that $OMP_NUM_THREADS asks for, 1 to 4096; None where it says nothing, nothing plain, or a list for nested ones."""
    said = os.environ.get("OMP_NUM_THREADS", "").strip()
    return int(said) if re.fullmatch("[0-9]{1,4}", said) and 0 < int(said) <= 4096 else None


@contextlib.contextmanager
def threads(kept=None, processes=1):
    """Within, torch works with `kept` threads, else with $OMP_NUM_THREADS, else with a share of `free`; yields how many."""
    import torch

    before = torch.get_num_threads()
    count = kept or asked() or max(1, free() // processes)
    torch.set_num_threads(count)
    try:
        yield count
    finally:
        torch.set_num_threads(before)


class Sample(NamedTuple):
    """Some work: wall seconds, own processor seconds, and those of others meanwhile (None where nothing tells); `nice` of them with low priority."""

    wall: float
    cpu: float
    other: float | None
    nice: float = 0.0


def busy():
    """Processor seconds of the machine since it started, over all cores, and those of low priority; None where there is no /proc/stat."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, _, _, irq, softirq, steal = map(int, stat.read_text().split("\n", 1)[0].split()[1:9])
    tick = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq + steal) / tick, nice / tick


def moment():
    """Where the clocks stand: of others and this process, of this process, of the wall."""
    return busy(), time.process_time(), time.perf_counter()


def since(before):
    """`Sample` from a `moment` to now."""
    wall, cpu = time.perf_counter() - before[2], time.process_time() - before[1]
    if before[0] is None:
        return Sample(wall, cpu, None)
    now = busy()
    other = max(0.0, now[0] - before[0][0] - cpu)
    return Sample(wall, cpu, other, min(other, now[1] - before[0][1]))


def shared(taken):
    """What to say of a machine of which others take so many cores, or ''."""
    return f"others use {taken:.1f} cores" if taken >= NOTED else ""


def _quotas(root):
    """Cores of each quota that binds this process: its control group's and those above."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in groups:
        _, controllers, inside = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / "sys/fs/cgroup" if not controllers else _mounted(root)
        here = base / inside.lstrip("/")
        for group in [here, *here.parents]:
            if not group.is_relative_to(base):
                break
            with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
                if controllers:
                    quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
                else:
                    quota, period = (group / "cpu.max").read_text().split()
                if quota.strip() != "max" and int(quota) > 0:
                    found.append(int(quota) / int(period))
    return found


def _mounted(root):
    """Where the processor controller of version 1 is."""
    places = [root / "sys/fs/cgroup" / name for name in ("cpu", "cpu,cpuacct", "cpuacct,cpu")]
    return next((place for place in places if place.is_dir()), places[0])
