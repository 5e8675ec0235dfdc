"""The rows of one method: mimlab, its bare products, the plain version and the peers, in turns."""

import statistics
from functools import partial

from mimlab.bench import others
from mimlab.bench.case import Clock, Ours
from mimlab.bench.machine import Square
from mimlab.bench.products import flops, products
from mimlab.bench.replay import Replay
from mimlab.bench.rounds import Series, timed, turns

PARTS = ("data", "mask", "tokenizer", "forward", "backward", "optimiser")
WARM = 1  # steps of each case before the first round


def measure(cfg, accelerator, tried, against, rounds, clock="wall", limit=0.15, patience=0.0, fused=False, each=None):
    """(rows, missing) of the method in `cfg`.

    A row: method, who, images_per_s (median), step_ms, parts_ms, ... of one case; the first is mimlab's, then
    those of `tried` (name -> other settings of it). `ratio` is how many times as fast mimlab is, in images of the same rounds. `missing`: {method, who, why} of those in `against` that cannot be asked. `each(text)` hears how far it is.
    """
    ours = Ours(cfg, accelerator)
    cases = {"mimlab": ours}
    cases |= {name: Ours(other, accelerator, real=False, who=name) for name, other in tried.items()}
    first = {}  # seconds of the first step, where settings are compared: that of what is compiled is long
    if tried:
        first = {who: timed(partial(case.step, Clock(accelerator.device))).wall for who, case in cases.items()}
    found, sizes, absent = {who: products(case) for who, case in cases.items()}, others.shape(cfg, ours.model), []
    for who in against:
        why = others.missing(who, cfg.method, sizes)
        if why is None:
            try:
                cases[who] = others.case(who, cfg, sizes, ours.ready, accelerator, fused)
                found[who] = products(cases[who])
            except Exception as error:  # another version of a peer may have any
                cases.pop(who, None)
                why = f"does not run here: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if why is not None:
            absent.append({"method": cfg.method, "who": who, "why": why})
    counted = {who: flops(found[who], case.images) for who, case in cases.items()}
    clocks = {who: Clock(accelerator.device, clock) for who in cases}
    extra, index = Clock(accelerator.device, clock), iter(range(10**9))
    replay, square = Replay(found["mimlab"], accelerator.device), Square(accelerator.device)

    def waited(run):
        """On a GPU a call returns before its work is done."""

        def done():
            run()
            extra.now()

        return done

    work = {who: (lambda case=case, clock=clocks[who]: case.step(clock)) for who, case in cases.items()}
    work |= {
        "replay": waited(replay.run),
        "square": waited(square.run),
        "parts": lambda: ours.extra(next(index), extra),
    }
    for run in work.values():
        for _ in range(WARM):
            run()
    for timer in (extra, *clocks.values()):
        timer.parts.clear()
    heard = each and (lambda turn, name, sample: each(f"{cfg.method} round {turn + 1} of {rounds}: {name}"))
    series = {
        who: Series(samples, clock, limit) for who, samples in turns(work, rounds, cfg.seed, patience, heard).items()
    }
    peak = square.flops / series["square"].best
    rows = []
    for who, case in cases.items():
        row = {
            "method": cfg.method,
            "who": case.who,
            "note": case.note,
            "batch": case.images,
            **speed(series[who], case.images),
            "ratio": series[who].over(series["mimlab"]) * cfg.batch_size / case.images,
            "parts_ms": parts(clocks[who].parts),
            "gflop_per_image": counted[who] / 1e9,
            "gflop_per_s": counted[who] * case.images / series[who].median / 1e9,
            "peak_gflop_per_s": peak / 1e9,
            "of_peak": counted[who] * case.images / series[who].median / peak,
            "parameters": case.parameters,
            "products": len(found[who]),
        }
        if who == "mimlab":
            row["parts_ms"] = parts(extra.parts) | row["parts_ms"]
            row["replay_ms"] = 1e3 * series["replay"].median
            row["of_replay"] = 1 / series["mimlab"].over(series["replay"])
        elif who not in tried:
            row["differs"] = others.differs(ours, case, sizes, (counted["mimlab"], counted[who]))
        if who in first:
            row["first_s"] = first[who]
        rows.append(row | {"asked": who})
    return rows, absent


def speed(series, images):
    """What the samples of a step say of its speed."""
    return {
        "images_per_s": images / series.median,
        "best_images_per_s": images / series.best,
        "step_ms": 1e3 * series.median,
        "spread": series.spread,
        "rounds": len(series.values),
        "clean": sum(series.clean),
        "step_ms_all": [1e3 * value for value in series.values],
    }


def parts(seconds):
    """Median milliseconds of each part (name -> seconds of each round), in the order of a step."""
    return {name: 1e3 * statistics.median(seconds[name]) for name in PARTS if name in seconds}
