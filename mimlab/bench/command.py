"""`mimlab bench`: what is asked, checked before anything is built; method after method; table and JSON."""

import concurrent.futures
import datetime
import os
import sys
import time
from pathlib import Path

from mimlab import files
from mimlab.bench import sizes, table
from mimlab.bench.rounds import CLOCKS
from mimlab.errors import Refused, shown
from mimlab.find import closest, names
from mimlab.settings import within

SKIPPED = ("memory", "loop")


def bench(
    methods=(),
    at="32px",
    parameter=(),
    tried=(),
    against=None,
    skip=(),
    rounds=3,
    starts=3,
    threads=None,
    clock="wall",
    limit=0.15,
    patience=0.0,
    fused=False,
    out=None,
    force=False,
    report=None,
):
    """Measure `methods` (none: all) at a configuration of `sizes.SIZES`, with settings `parameter` (pairs) put on it.

    tried: pairs too; each is one more case of mimlab's own, which has this setting beside the others, or is another method.
    against: names of `others.known()`; None: all, () or ("none",): nobody. skip: of "memory" and "loop". rounds: turns of each case after each
    of `starts` starts. limit: share of a core that others may take in a sample that counts. patience: seconds to wait for a
    quiet machine before each sample.
    fused: AdamW in one kernel for all. `report(text)` hears how far it is. Returns the result as JSON holds it, written
    to `out` if given, in place of an earlier result only, or with `force` of any file. `Refused` for what cannot be measured. Each case has a process (`child.py`): a script calls this
    under `if __name__ == "__main__":`.
    """
    from mimlab.bench import others

    methods = list(dict.fromkeys(methods)) or names("methods")
    against = others.known() if against is None else [who for who in against if who != "none"]
    others.check(against)
    for what in skip:
        if what not in SKIPPED:
            raise Refused(f"skip = {shown(what)}{closest(what, SKIPPED)}; there are: {', '.join(SKIPPED)}")
    if clock not in CLOCKS:
        raise Refused(f"clock = {shown(clock)}{closest(clock, CLOCKS)}; there are: {', '.join(CLOCKS)}")
    within("rounds", rounds, 1, 10_000)
    within("starts", starts, 1, 1000)
    within("limit", limit, 0, 1000)
    within("patience", patience, 0, 86_400)
    if threads is not None:
        within("threads", threads, 1, 4096)
    settings = {method: sizes.settings(method, at, dict(parameter)) for method in methods}
    trials = {
        method: {f"{name} = {value}": trial(method, at, dict(parameter), name, value) for name, value in tried}
        for method in methods
    }
    for method, cfg in [(name, cfg) for name in methods for cfg in (settings[name], *trials[name].values())]:
        if cfg.device != settings[method].device:
            raise Refused(f"try device = {cfg.device}: all cases of a method are on one device; give it with -p")
        if cfg.processes > 1 or cfg.accumulate > 1 or cfg.precision == "fp16":
            raise Refused(
                f"{method}: processes = {cfg.processes}, accumulate = {cfg.accumulate}, precision = {cfg.precision}: one "
                "process makes whole steps here, in no or bf16; use 1, 1 and one of these"
            )
    if out and Path(out).is_dir():
        raise Refused(f"out = {shown(out)} is a folder; give the name of a file")
    if out:
        files.replaceable(out, "out", table.ours, force)
    return run(
        settings,
        trials,
        at,
        against,
        skip,
        rounds,
        starts,
        threads,
        clock,
        limit,
        patience,
        fused,
        out,
        report or (lambda text: None),
    )


def trial(method, at, given, name, value):
    """The settings of one more case; another method has those of its own at `at`."""
    return sizes.settings(value, at, given) if name == "method" else sizes.settings(method, at, given | {name: value})


def run(settings, trials, at, against, skip, rounds, starts, threads, clock, limit, patience, fused, out, report):
    import torch

    from mimlab.bench import machine
    from mimlab.bench.measure import compare, measure

    threads = threads or torch.get_num_threads()
    if clock == "cpu" and threads > 1:
        raise Refused(f"clock = cpu: processor seconds of {threads} threads say nothing of the time; use threads = 1")
    began, rows, missing, loops = time.perf_counter(), [], [], []
    for method, cfg in settings.items():
        found, gone = measure(
            cfg, trials[method], against, rounds, threads, clock, limit, patience, fused, starts, report
        )
        missing += gone
        if "memory" not in skip:
            report(f"{method}: memory")
            remember(found, cfg, trials[method], fused)
        rows += found
        if "loop" not in skip:
            report(f"{method}: the whole loop")
            loops.append(compare(cfg, threads, clock, limit, starts))
    result = {
        "at": at,
        "settings": {method: cfg.dict() for method, cfg in settings.items()},
        **machine.about(),
        "threads": threads,
        "rounds": rounds,
        "starts": starts,
        "clock": clock,
        "limit": limit,
        "fused": fused,
        "peak_gflop_per_s": max(row["peak_gflop_per_s"] for row in rows),
        "when": datetime.datetime.now().isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - began, 1),
        "rows": rows,
        "missing": missing,
        "loop": loops,
    }
    if out:
        table.write(out, result)
    return result


def remember(rows, cfg, tried, fused):
    """Put the peak memory of a fresh process into each row; as many at once as there are cores, one thread each."""
    from mimlab.bench.memory import ask

    def asked(row):
        who = row["asked"]
        return ask(tried[who], "mimlab", 1, fused) if who in tried else ask(cfg, who, 1, fused)

    with concurrent.futures.ThreadPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        for row, found in zip(rows, pool.map(asked, rows), strict=True):
            row |= {"memory_mb": found["peak_mb"], "imports_mb": found["imports_mb"]}


def bar(text):
    """One line on stderr that replaces itself, where that is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
