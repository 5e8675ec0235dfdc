"""Evaluations of several runs, each protocol by itself, and whether a difference is more than noise."""

import contextlib
import math
import statistics
from itertools import combinations

from mimlab import data, strict
from mimlab.errors import Refused
from mimlab.groups import flat, groups

SURE = 0.95  # confidence of a verdict


def found(runs):
    """Protocol -> label -> results (dicts of evals/*.json), of runs that differ in the seed alone together.

    A protocol is what a result says of itself, or else its file's name with the options that differ between the runs; so
    is another share of the labels, or other data. What was measured beside the run, such as the same encoder from
    scratch, has a label of its own.
    """
    read = []  # (label, start, name of the protocol, what else makes numbers comparable, the result)
    for label, some in groups(runs).items():
        for run in some:
            for name, one in run.evaluations().items():
                for start, result in one.get("results", {}).items():
                    way = _way(run, one.get("config", {}), "protocol" not in result)
                    metric = result.get("metric", "top1")
                    title = f"{result.get('protocol', name)}: {'top-1' if metric == 'top1' else metric}"
                    read.append((label, start, title, way, result))
    columns = {}
    for label, start, title, way, result in read:
        ways = [other for _, _, same, other, _ in read if same == title]
        options = sorted({option for other in ways for option in other})
        differ = [o for o in options if len({strict.dumps(other.get(o)) for other in ways}) > 1]
        column = ", ".join([title, *(f"{o.split('.')[-1]} {way.get(o, 'default')}" for o in differ)])
        who = label if start.startswith("after ") else f"{label}, {start}"
        columns.setdefault(column, {}).setdefault(who, []).append(result)
    return columns


def _way(run, config, options):
    """What makes one result comparable with another of its protocol: share of the labels, data, and the `options`."""
    names = ("fraction", "evaluation_args") if options else ("fraction",)
    settings = run.config["settings"]
    told = {name: config.get(name) for name in names} | {name: settings[name] for name in ("data", "data_args")}
    if not options and "." not in str(settings["data"]):  # the protocol says what the images are, wherever they lie
        with contextlib.suppress(Refused):
            where = data.location(settings["data"], settings["data_args"])
            told["data_args"] = {name: value for name, value in told["data_args"].items() if name not in where}
    return flat(told)


def pooled(some):
    """Values of all seeds of some results, in percent."""
    values = [v for one in some for v in (one.get("values") or [one.get(one.get("metric", "top1"))])]
    return [value for value in values if value is not None]


def results(runs):
    """For `figures.evaluations.beside`: (protocol -> label -> values in percent, protocol -> `references`)."""
    from mimlab.evals._result import references

    columns = found(runs)
    values = {column: {who: pooled(some) for who, some in by.items()} for column, by in columns.items()}
    chance = {
        c: references(one) for c, by in columns.items() for some in by.values() for one in some if references(one)
    }
    return values, chance


def evaluations(runs):
    """The same as rows of a table: one a label, mean of each protocol in percent, with its deviation over the values.

    Beside a top-1 stands the class-balanced one, where it is known; last what needs no skill.
    """
    values, chance = results(runs)
    columns = found(runs)
    table = []
    for who in dict.fromkeys(name for by in values.values() for name in by):
        row = {"encoder": who}
        for column, by in values.items():
            some = by.get(who, [])
            spread = f" ± {statistics.stdev(some):.1f}" if len(some) > 1 else ""
            row[f"{column} (%)"] = f"{statistics.mean(some):.1f}{spread} ({len(some)})" if some else "–"
            balanced = [one["balanced"] for one in columns[column].get(who, []) if one.get("balanced") is not None]
            if balanced:
                row[f"{column}, class-balanced (%)"] = f"{statistics.mean(balanced):.1f}"
        table.append(row)
    for name in dict.fromkeys(name for told in chance.values() for name in told):
        row = {f"{column} (%)": f"{chance[column][name]:.1f}" for column in values if name in chance.get(column, {})}
        table.append({"encoder": f"none: {name}"} | row)
    return table or [{"evaluations": "none of these runs has been evaluated; notebook 06 does"}]


def verdicts(runs):
    """Rows of a table: `between` for each protocol of some runs."""
    rows = [row for column, by in found(runs).items() for row in between(column, by)]
    return rows or [{"verdict": "there are no two encoders that were evaluated by the same protocol"}]


def between(column, by):
    """For each pair of labels of one protocol the difference, its 95 % interval, and what that says; `by`: label -> results.

    Over seeds where both have two or more (Welch's t), which are the evaluation's where there is one run of each; else from the intervals that the results bring along, those of
    a bootstrap over the test images, as if the two were independent: on the same test images that is cautious.
    """
    rows = []
    for (one, first), (other, second) in combinations(by.items(), 2):
        if not pooled(first) or not pooled(second):
            continue  # nothing to find in the test images
        difference, half, over = compared(first, second)
        if half is None:
            verdict = "cannot be said: one value without an interval"
        elif abs(difference) <= half:
            verdict = "within noise"
        else:
            verdict = f"{one if difference > 0 else other} is ahead"
        rows.append(
            {"protocol": column, "one": one, "other": other, "difference": f"{difference:+.1f}"}
            | {"± (95 %)": None if half is None else f"{half:.1f}", "over": over, "verdict": verdict}
        )
    return rows


def compared(first, second):
    """Difference of the means of two lists of results, half its 95 % interval or None, and what that is over."""
    one, other = pooled(first), pooled(second)
    difference = statistics.mean(one) - statistics.mean(other)
    spread = [statistics.variance(some) / len(some) if len(some) > 1 else 0.0 for some in (one, other)]
    if all(spread):
        from scipy.stats import t

        alone = len(first) == len(second) == 1  # one pre-training each: its own chance is not in the interval
        over = "seeds of the evaluation" if alone else "seeds"
        freedom = sum(spread) ** 2 / sum(v**2 / (len(some) - 1) for v, some in zip(spread, (one, other), strict=True))
        return difference, float(t.ppf((1 + SURE) / 2, freedom)) * math.sqrt(sum(spread)), over
    intervals = [some[0].get("interval") for some in (first, second)]
    if len(first) == len(second) == 1 and all(intervals):
        return difference, math.hypot(*((high - low) / 2 for low, high in intervals)), "test images"
    return difference, None, "nothing"
