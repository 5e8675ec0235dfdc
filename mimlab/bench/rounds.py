"""Turns: each case once a round, in another order each round, and what other processes did meanwhile.

A busy machine slows a case by more than any change of code does. So cases take turns, a ratio is that of the same round,
and Linux's /proc/stat tells how much others (and the hypervisor) worked during each sample: those in which they took
more than a share of one core are left out, as long as three clean ones remain. With one thread, own processor seconds
are the better clock of a busy machine (`clock = "cpu"`).
"""

import gc
import random
import statistics
import time

from mimlab.cores import moment, since

CLOCKS = ("wall", "cpu")
LEAST = 3  # clean samples; with fewer, all count
WINDOW = 0.25  # seconds of looking whether the machine is quiet
QUIET = 0.1  # of one core, by others: a machine to begin a sample on


def timed(work):
    """`cores.Sample` of one call; garbage is collected before, so that none of it is in there."""
    gc.collect()
    before = moment()
    work()
    return since(before)


def wait(patience):
    """Wait until others use less than `QUIET` of a core, at most `patience` seconds; whether it came so."""
    end = time.perf_counter() + patience
    while time.perf_counter() < end:
        found = timed(lambda: time.sleep(WINDOW))
        if found.other is None or found.other / found.wall < QUIET:
            return True
    return False


def turns(work, rounds, seed=0, patience=0.0, each=None):
    """`Sample`s that each of `work` (name -> callable) returns, {name: [one a round]}; `each(round, name)` hears of them."""
    order, chance, found = list(work), random.Random(seed), {name: [] for name in work}
    for turn in range(rounds):
        chance.shuffle(order)
        for name in order:
            if each is not None:
                each(turn, name)
            if patience:
                wait(patience)
            found[name].append(work[name]())
    return found


class Series:
    """The samples of one case: what counts of them."""

    def __init__(self, samples, clock="wall", limit=0.15):
        """`limit`: share of one core that others may have used in a clean sample."""
        self.values = [getattr(sample, clock) for sample in samples]
        told = clock == "wall" and all(sample.other is not None for sample in samples)
        self.clean = [not told or sample.other / max(sample.wall, 1e-9) < limit for sample in samples]

    @property
    def counted(self):
        """The clean values, or all where there are too few."""
        kept = [value for value, clean in zip(self.values, self.clean, strict=True) if clean]
        return kept if len(kept) >= min(LEAST, len(self.values)) else self.values

    @property
    def median(self):
        return statistics.median(self.counted)

    @property
    def best(self):
        return min(self.values)

    @property
    def spread(self):
        """From the smallest to the largest that counts, over the median."""
        return (max(self.counted) - min(self.counted)) / self.median

    def over(self, other):
        """How many times as long as `other`: the median of the rounds' ratios, of rounds clean for both if there are enough."""
        pairs = list(zip(self.values, other.values, strict=True))
        both = [pair for pair, a, b in zip(pairs, self.clean, other.clean, strict=True) if a and b]
        return statistics.median(a / b for a, b in (both if len(both) >= min(LEAST, len(pairs)) else pairs))
