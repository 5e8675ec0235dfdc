"""Results of a study: accuracy against what was varied. `rows` are those of results.csv.

A mean has the 95 % interval of Student's t over its values from three on; with fewer the values alone are shown.
"""

import html
import math
import statistics

import plotly.graph_objects as go

from mimlab.figures.style import COLOURS, TEMPLATE, empty, heading

ABOUT = (
    "run",
    "state",
    "said",
    "images",
    "steps",
    "images_per_s",
    "hours",
    "evaluation",
    "start",
    "values",
    "seconds",
    "seed",
)
SAID = {"top1": "top-1", "fraction": "share of the images that pre-training saw"}
NOTHING = "no results yet: run the study first"


def measured(rows, y="top1", evaluation=None):
    """The rows that have a number `y`; of one `evaluation` (its name, with or without its hash) if that is given."""
    return [
        row
        for row in rows
        if isinstance(row.get(y), (int, float))
        and math.isfinite(row[y])
        and (evaluation is None or str(row.get("evaluation", "")).rpartition("-")[0] == evaluation or row.get("evaluation") == evaluation)
    ]  # fmt: skip


def varied(rows):
    """Names of what a study varies: the columns before `run`, without the seed and whatever an earlier one determines."""
    names = list(rows[0]) if rows else []
    kept = []
    for name in names[: names.index("run")] if "run" in names else ():
        told = [{(row.get(before), row.get(name)) for row in rows} for before in kept]
        told = any(len(pairs) == len({before for before, _ in pairs}) for pairs in told)
        if name not in ABOUT and not told:
            kept.append(name)
    return kept


def values(rows, y="top1"):
    """All values of some rows: one a seed of the evaluation where they are told, else the rows' own."""
    found = []
    for row in rows:
        told = str(row.get("values") or "") if y == "top1" else ""
        found += [float(one) for one in told.split(";")] if told else [row[y]]
    return found


def interval(some):
    """Half the width of the mean's 95 % interval (Student's t), or None for fewer than three values."""
    if len(some) < 3:
        return None
    from scipy.stats import t

    return float(t.ppf(0.975, len(some) - 1)) * statistics.stdev(some) / math.sqrt(len(some))


def _alike(rows, by):
    """{values of the columns `by`: the rows that have them}, in the rows' order."""
    found = {}
    for row in rows:
        found.setdefault(tuple(row.get(name) for name in by), []).append(row)
    return found


def groups(rows, by, y="top1"):
    """{values of the columns `by`: all values of y}, in the rows' order."""
    return {key: values(some, y) for key, some in _alike(rows, by).items()}


def summary(rows, y="top1"):
    """A row for each combination and evaluation: n, mean, deviation, half the 95 % interval, hours of training."""
    rows, table = measured(rows, y), []
    by = [*varied(rows), "evaluation", "start"]
    for key, group in _alike(rows, by).items():
        row, some = dict(zip(by, key, strict=True)), values(group, y)
        spent = [one["hours"] for one in group if one.get("hours")]
        row |= {"n": len(some), "mean": statistics.mean(some)}
        row |= {"deviation": statistics.stdev(some) if len(some) > 1 else None, "± 95 %": interval(some)}
        table.append(row | {"hours": statistics.mean(spent) if spent else None})
    return table or [{"results": NOTHING}]


def against(rows, x, y="top1", by="method", evaluation=None, reference=None, scratch=None, log=False):
    """y against the numbers of column `x`, one line a value of `by`; every value a faint point, the mean a line.

    Rows whose `start` is scratch are a dashed line across. `reference` is label -> (xs, ys), published numbers, dotted in
    the colour of their label; `scratch` their value without pre-training.
    """
    rows = measured(rows, y, evaluation)
    base = _untrained(rows)
    rows = [row for row in rows if row.get("start") != "scratch" and isinstance(row.get(x), (int, float))]
    if not rows and not base and not reference:
        return empty(NOTHING)
    figure, lines = go.Figure(), {}
    for (label, at), some in groups(rows, (by, x), y).items():
        lines.setdefault(label, {})[at] = some
    names = list(dict.fromkeys([*lines, *(reference or {})]))
    colours = {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(names)}
    every = sorted({at for found in lines.values() for at in found})
    for k, (label, found) in enumerate(lines.items()):
        aside = _aside(every, k - (len(lines) - 1) / 2, log)
        _line(figure, str(label), dict(sorted(found.items())), colours[label], aside)
    for label, (xs, ys) in (reference or {}).items():
        look = {"color": colours[label], "dash": "dot", "width": 1.3}
        figure.add_scatter(
            x=xs,
            y=ys,
            name=f"{label}, the paper",
            mode="lines+markers",
            line=look,
            marker={"size": 5, "symbol": "x"},
            opacity=0.7,
        )
    if base:
        some = values(base, y)
        _across(
            figure, statistics.mean(some), f"no pre-training ({statistics.mean(some):.1f}, n = {len(some)})", "dash"
        )
    if scratch is not None:
        _across(figure, scratch, f"no pre-training, the paper ({scratch:g})", "dot")
    across, up = SAID.get(x, x), SAID.get(y, y)
    figure.update_layout(
        template=TEMPLATE, title=_title(f"{up} against {across}", evaluation), height=476, width=820, margin_t=78
    )
    figure.update_xaxes(
        title_text=across,
        type="log" if log else "linear",
        tickvals=every or None,
        ticktext=[f"{at:g}" for at in every] or None,
    )
    return figure.update_yaxes(title_text=f"{up} (%)")


def _aside(every, place, log):
    """Where a value of x is drawn: beside the other lines, so that their intervals do not lie on each other."""
    if log:
        return lambda at: at * 1.05**place
    step = 0.012 * (every[-1] - every[0]) if every else 0
    return lambda at: at + step * place


def _untrained(rows):
    """The rows without pre-training, each once: one run may stand for it in several combinations."""
    found = {(row.get("run"), row.get("evaluation")): row for row in rows if row.get("start") == "scratch"}
    return list(found.values())


def _title(what, evaluation):
    return heading(what, f"{evaluation or 'every evaluation'}; mean with its 95 % interval, n under the pointer")


def _line(figure, label, found, colour, aside):
    """One label: points of every value, and their means with intervals; `aside` says where an x is drawn."""
    name = html.escape(label, quote=False)
    points = [(at, value) for at, some in found.items() for value in some]
    figure.add_scatter(
        x=[aside(at) for at, _ in points], y=[value for _, value in points], mode="markers", legendgroup=name, showlegend=False, hoverinfo="skip",
        marker={"color": colour, "size": 6}, opacity=0.35,
    )  # fmt: skip
    halves = [interval(some) for some in found.values()]
    figure.add_scatter(
        x=[aside(at) for at in found], y=[statistics.mean(some) for some in found.values()], name=name, legendgroup=name, mode="lines+markers",
        line={"color": colour}, customdata=[(len(some), at) for at, some in found.items()],
        error_y={"array": [half or 0 for half in halves], "thickness": 1.2, "width": 4} if any(halves) else None,
        hovertemplate="%{fullData.name}<br>%{customdata[1]}: %{y:.2f}, n = %{customdata[0]}<extra></extra>",
    )  # fmt: skip


def _across(figure, at, said, dash):
    note = {"text": said, "font": {"size": 11, "color": "#555555"}, "bgcolor": "rgba(255,255,255,0.7)", "borderpad": 0}
    line = {"color": "#666666", "width": 1.2, "dash": dash}
    figure.add_hline(y=at, line=line, annotation=note, annotation_position="bottom right")


def beside(rows, column, y="top1", by="method", evaluation=None, reference=None):
    """Bars of each `by`, one a value of `column`, such as object against scene; `reference` label -> published values."""
    rows = [
        row for row in measured(rows, y, evaluation) if row.get("start") == "scratch" or row.get(column) is not None
    ]
    if not rows and not reference:
        return empty(NOTHING)
    base = _untrained(rows)
    rows = [row for row in rows if row.get("start") != "scratch"]
    kinds, figure = list(dict.fromkeys(str(row[column]) for row in rows)), go.Figure()
    for k, kind in enumerate(kinds):
        found = groups([row for row in rows if str(row[column]) == kind], (by,), y)
        halves = [interval(some) for some in found.values()]
        figure.add_bar(
            x=[str(key[0]) for key in found], y=[statistics.mean(some) for some in found.values()], name=kind, offsetgroup=kind,
            marker={"color": COLOURS[k % len(COLOURS)], "opacity": 0.75}, customdata=[len(some) for some in found.values()],
            error_y={"array": [half or 0 for half in halves], "thickness": 1.2, "width": 4} if any(halves) else None,
            hovertemplate="%{x}, %{fullData.name}<br>mean %{y:.2f}, n = %{customdata}<extra></extra>",
        )  # fmt: skip
    for label, published in (reference or {}).items():
        for kind, value in published.items():
            figure.add_scatter(
                x=[label], y=[value], name=f"{kind}, the paper", legendgroup=kind, showlegend=label == next(iter(reference)),
                mode="markers", marker={"symbol": "x", "size": 9, "color": "#222222" if kind == next(iter(published)) else "#888888"},
                hovertemplate="%{x}, %{fullData.name}: %{y}<extra></extra>",
            )  # fmt: skip
    if base:
        some = values(base, y)
        _across(
            figure, statistics.mean(some), f"no pre-training ({statistics.mean(some):.1f}, n = {len(some)})", "dash"
        )
    up = SAID.get(y, y)
    figure.update_layout(
        template=TEMPLATE,
        title=_title(f"{up} by {by} and {column}", evaluation),
        height=456,
        margin_t=78,
        width=820,
        barmode="group",
    )
    return figure.update_xaxes(type="category").update_yaxes(title_text=f"{up} (%)")


def overview(rows, y="top1"):
    """Every combination of a study, one row each: its mean as a bar, its values as points; an evaluation a panel."""
    from mimlab.figures.evaluations import beside as panels

    rows = measured(rows, y)
    if not rows:
        return empty(NOTHING)
    names, found = varied(rows), {}
    for (evaluation, *key), some in groups(rows, ("evaluation", *names), y).items():
        label = ", ".join(str(value) for value in key if value is not None) or "all"
        found.setdefault(str(evaluation), {})[label] = some
    return panels(found)
