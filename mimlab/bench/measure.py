"""The rows of one method: mimlab, its bare products, the plain version and the peers, in turns."""

import contextlib
import statistics
from functools import partial

from mimlab.bench import others, works
from mimlab.bench.child import Child
from mimlab.bench.rounds import Series, turns
from mimlab.errors import Failed

PARTS = ("data", "mask", "tokenizer", "forward", "backward", "optimiser")


def measure(
    cfg, tried, against, rounds, threads, clock="wall", limit=0.15, patience=0.0, fused=False, starts=1, each=None
):
    """(rows, missing) of the method in `cfg`.

    A row: method, who, images_per_s (median), step_ms, parts_ms, ... of one case; the first is mimlab's, then
    those of `tried` (name -> other settings of it). `ratio` is how many times as fast mimlab is, in images of the same
    rounds. `missing`: {method, who, why} of those in `against` that cannot be asked. All begin anew `starts` times and take
    `rounds` turns each time. `each(text)` hears how far it is.
    """
    say, why = each or (lambda text: None), dict.fromkeys(against)
    about, samples, spent, square = {}, {}, {}, 0
    for start in range(starts):
        with contextlib.ExitStack() as stack:

            def begun(work, name, settings=cfg, stack=stack, **more):
                say(f"{cfg.method}: {name}")
                return stack.enter_context(Child(work, cfg=settings, threads=threads, clock=clock, **more))

            cases = {
                name: begun(works.steps, name, settings, who="mimlab")
                for name, settings in {"mimlab": cfg, **tried}.items()
            }
            for who in against:
                why[who] = why[who] or others.missing(who, cfg.method, cases["mimlab"].first["sizes"])
                if why[who] is None:
                    try:
                        cases[who] = begun(works.steps, who, who=who, fused=fused)
                    except Failed as error:  # another version of a peer may have any
                        why[who] = f"does not run here: {error}"
            around = begun(works.around, "the products of its step")
            work = {name: partial(asked, child, spent.setdefault(name, [])) for name, child in cases.items()}
            work |= {name: partial(around, name) for name in ("replay", "square")}
            told = f"{cfg.method}, start {start + 1} of {starts}, round"
            heard = partial(lambda told, turn, name: say(f"{told} {turn + 1} of {rounds}: {name}"), told)
            for name, found in turns(work, rounds, cfg.seed + start, patience, heard).items():
                samples.setdefault(name, []).extend(found)
            spent.setdefault("around", []).extend(around("parts") for _ in range(rounds))
            about = {name: child.first for name, child in cases.items()} | about  # later, what is compiled is cached
            square = around.first
    series = {name: Series(found, clock, limit) for name, found in samples.items() if len(found) == starts * rounds}
    peak = square / series["square"].best
    rows = []
    for name in (name for name in about if name in series):
        case, own = about[name], series[name]
        row = {
            "method": cfg.method,
            "who": name if name in tried else case["who"],
            "note": case["note"],
            "batch": case["images"],
            **speed(own, case["images"]),
            "ratio": own.over(series["mimlab"]) * cfg.batch_size / case["images"],
            "parts_ms": parts(spent[name]),
            "gflop_per_image": case["flops"] / 1e9,
            "gflop_per_s": case["flops"] * case["images"] / own.median / 1e9,
            "peak_gflop_per_s": peak / 1e9,
            "of_peak": case["flops"] * case["images"] / own.median / peak,
            "parameters": case["parameters"],
            "products": case["products"],
        }
        if name == "mimlab":
            row["parts_ms"] = parts(spent["around"]) | row["parts_ms"]
            row["replay_ms"] = 1e3 * series["replay"].median
            row["of_replay"] = 1 / own.over(series["replay"])
        elif name not in tried:
            row["differs"] = others.differs(about["mimlab"], case)
        if tried and name in ("mimlab", *tried):  # that of what is compiled is long
            row["first_s"] = case["first_s"]
        rows.append(row | {"asked": name})
    return rows, [{"method": cfg.method, "who": who, "why": text} for who, text in why.items() if text is not None]


def asked(child, spent):
    """The `Sample` of a case's next step; the seconds of its parts join `spent`."""
    sample, seconds = child()
    spent.append(seconds)
    return sample


def compare(cfg, threads, clock="wall", limit=0.15, starts=1):
    """{images_per_s, ready_images_per_s, of_ready, ...}: `pretrain(cfg)` beside ready batches, a step of each in turns.

    Both begin anew `starts` times.
    """
    pairs = []
    for _ in range(starts):
        with (
            Child(works.ready, cfg=cfg, threads=threads, clock=clock) as ready,
            Child(works.loop, cfg=cfg, threads=threads) as loop,
        ):
            pairs += [(ready(), loop()) for _ in range(works.LINES - 1)]
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
