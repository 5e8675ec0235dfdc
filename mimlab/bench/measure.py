"""The rows of one method: mimlab, its bare products, the plain version and the peers, in turns."""

import contextlib
import statistics

from mimlab.bench import others, works
from mimlab.bench.child import Child
from mimlab.bench.rounds import Series, turns
from mimlab.errors import Failed

PARTS = ("data", "mask", "tokenizer", "forward", "backward", "optimiser")


def measure(cfg, tried, against, rounds, threads, clock="wall", limit=0.15, patience=0.0, fused=False, each=None):
    """(rows, missing) of the method in `cfg`.

    A row: method, who, images_per_s (median), step_ms, parts_ms, ... of one case; the first is mimlab's, then
    those of `tried` (name -> other settings of it). `ratio` is how many times as fast mimlab is, in images of the same
    rounds. `missing`: {method, who, why} of those in `against` that cannot be asked. `each(text)` hears how far it is.
    """
    say = each or (lambda text: None)
    given, absent = {"threads": threads, "clock": clock}, []
    with contextlib.ExitStack() as stack:

        def started(work, name, settings=cfg, **more):
            say(f"{cfg.method}: {name}")
            return stack.enter_context(Child(work, cfg=settings, **given, **more))

        cases = {
            name: started(works.steps, name, settings, who="mimlab")
            for name, settings in {"mimlab": cfg, **tried}.items()
        }
        for who in against:
            why = others.missing(who, cfg.method, cases["mimlab"].first["sizes"])
            try:
                if why is None:
                    cases[who] = started(works.steps, who, who=who, fused=fused)
            except Failed as error:  # another version of a peer may have any
                why = f"does not run here: {error}"
            if why is not None:
                absent.append({"method": cfg.method, "who": who, "why": why})
        around = started(works.around, "the products of its step")
        found = {name: [] for name in (*cases, "parts")}

        def asked(name, child):
            sample, parts = child()
            found[name].append(parts)
            return sample

        work = {name: (lambda name=name, child=child: asked(name, child)) for name, child in cases.items()}
        work |= {name: (lambda name=name: around(name)) for name in ("replay", "square")}
        series = turns(
            work, rounds, cfg.seed, patience, lambda turn, name: say(f"{cfg.method} {turn + 1}/{rounds}: {name}")
        )
        series = {name: Series(samples, clock, limit) for name, samples in series.items()}
        found["parts"] = [around("parts") for _ in range(rounds)]
    peak = around.first / series["square"].best
    ours, rows = cases["mimlab"].first, []
    for name, child in cases.items():
        case, spent = child.first, series[name]
        row = {
            "method": cfg.method,
            "who": name if name in tried else case["who"],
            "note": case["note"],
            "batch": case["images"],
            **speed(spent, case["images"]),
            "ratio": spent.over(series["mimlab"]) * cfg.batch_size / case["images"],
            "parts_ms": parts(found[name]),
            "gflop_per_image": case["flops"] / 1e9,
            "gflop_per_s": case["flops"] * case["images"] / spent.median / 1e9,
            "peak_gflop_per_s": peak / 1e9,
            "of_peak": case["flops"] * case["images"] / spent.median / peak,
            "parameters": case["parameters"],
            "products": case["products"],
        }
        if name == "mimlab":
            row["parts_ms"] = parts(found["parts"]) | row["parts_ms"]
            row["replay_ms"] = 1e3 * series["replay"].median
            row["of_replay"] = 1 / spent.over(series["replay"])
        elif name not in tried:
            row["differs"] = others.differs(ours, case)
        if tried and name in ("mimlab", *tried):  # that of what is compiled is long
            row["first_s"] = case["first_s"]
        rows.append(row | {"asked": name})
    return rows, absent


def compare(cfg, threads, clock="wall", limit=0.15):
    """{images_per_s, ready_images_per_s, of_ready, ...}: `pretrain(cfg)` beside ready batches, a step of each in turns."""
    with (
        Child(works.ready, cfg=cfg, threads=threads, clock=clock) as ready,
        Child(works.loop, cfg=cfg, threads=threads) as loop,
    ):
        pairs = [(ready(), loop()) for _ in range(works.LINES - 1)]
    ready, loop = (Series(samples, clock, limit) for samples in zip(*pairs, strict=True))
    return {
        "method": cfg.method,
        "images_per_s": cfg.batch_size / loop.median,
        "ready_images_per_s": cfg.batch_size / ready.median,
        "of_ready": ready.over(loop),
        "rounds": len(loop.values),
        "clean": sum(loop.clean),
    }


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
    """Median milliseconds of each part, of {name: seconds} a round, in the order of a step."""
    return {name: 1e3 * statistics.median(one[name] for one in seconds) for name in PARTS if name in seconds[0]}
