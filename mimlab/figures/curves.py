"""Logged quantities against step, epoch, images or hours, for one run or many; seeds of one configuration as a band.

A value of `metrics` is a run's rows, or a list of such lists: the seeds of one configuration. Of seeds the mean is
drawn, with the range from the lowest to the highest as a band, where all of them have logged; each stays faint behind.
"""

import html
import math

import numpy as np
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb
from plotly.subplots import make_subplots

from mimlab.errors import Refused, shown
from mimlab.figures.style import COLOURS, TEMPLATE, empty, heading
from mimlab.find import closest

MOST = 2000  # points a trace
ALL = 24_000  # points a panel; with many runs each gets fewer
LINE = 15  # pixels of a line of text
FEW = 30  # below that, points are marked, and not smoothed
QUIET = {"showlegend": False, "hoverinfo": "skip"}
DASHES = ["solid", "dash", "dot"]  # with seven colours, 21 lines that differ
AXES = {"images": "images seen", "hours": "hours of training", "images_per_s": "images/s", "memory_mb": "memory (MB)"}
AXES |= {"knn_top1": "k-NN top-1 (%)", "lr": "learning rate", "grad_norm": "gradient norm", "seconds_left": "s left"}
AXES |= {f"loss_{part}": f"loss_{part} (nats)" for part in ("inpaint", "tokens", "generator", "match")}
AXES |= {f"{part}accuracy": f"{part}accuracy (share)" for part in ("", "token_", "match_", "revdet_")}
AXES |= {"teacher_entropy": "teacher entropy (nats)"}


def series(rows, y, x="step"):
    """Two float arrays of the rows that have both quantities; a NaN or infinite y stays, as NaN."""
    pairs = [(row[x], row[y]) for row in rows if row.get(x) is not None and row.get(y) is not None]
    xs, ys = (np.array(part, float) for part in zip(*pairs, strict=True)) if pairs else (np.empty(0), np.empty(0))
    return xs, np.where(np.isfinite(ys), ys, np.nan)


def keep(xs, ys, most=MOST):
    """Indices of about `most` points: the ends, and the lowest and highest of each stretch, so no spike is lost.

    Stretches are equal in x, not in points: thinning again what was thinned before keeps the density even.
    """
    if len(ys) <= most:
        return np.arange(len(ys))
    if (np.diff(xs) < 0).any() or xs[0] == xs[-1]:
        xs = np.arange(len(ys))  # x runs back, as after a resume: take the order of logging
    count = max(1, (most - 2) // 2)
    stretch = np.minimum((xs - xs[0]) / (xs[-1] - xs[0]) * count, count - 1).astype(int)
    starts = np.flatnonzero(np.diff(stretch, prepend=-1))  # in either order each stretch is one piece, NaN at its end
    lowest, highest = (np.lexsort((values, stretch))[starts] for values in (ys, -ys))
    return np.unique(np.concatenate([[0, len(ys) - 1], lowest, highest]))


def smoothed(ys, smooth):
    """Exponential moving average with weight `smooth` on the past, started without bias; NaN is passed over."""
    total, weight, out = 0.0, 0.0, np.full(len(ys), np.nan)
    for k, value in enumerate(ys):
        if math.isfinite(value):
            total, weight = smooth * total + (1 - smooth) * value, smooth * weight + (1 - smooth)
            out[k] = total / weight
    return out


def band(seeds):
    """Mean, lowest and highest of several (xs, ys), at every x of any of them that all have reached: four arrays.

    Between its own points a seed is interpolated. Empty arrays where the seeds have no range in common.
    """
    first, last = max(xs.min() for xs, _ in seeds), min(xs.max() for xs, _ in seeds)
    at = np.unique(np.concatenate([xs for xs, _ in seeds]))
    at = at[(at >= first) & (at <= last)]
    values = []
    for xs, ys in seeds:
        order = np.argsort(xs, kind="stable")
        values.append(np.interp(at, xs[order], ys[order]))
    values = np.array(values)  # (seeds, points)
    return at, values.mean(0), values.min(0), values.max(0)


def seeds(value):
    """One run's rows as a list of one; the rows of several seeds as they are."""
    return value if value and isinstance(value[0], list) else [value]


def curves(metrics, y="loss", x="step", smooth=0.0, baseline=None):
    """Quantity `y` against `x`, one line a label; `metrics` is label -> rows of metrics.jsonl, or label -> seeds.

    `smooth` in [0, 1) adds a moving average and keeps the raw curve faint behind it. `baseline` is name -> value, drawn
    dashed; None: what guessing reaches, where that was logged (`guesses`). Raises Refused where no run has logged `y`,
    naming what there is.
    """
    if not metrics:
        raise Refused("metrics: an empty dict shows nothing; give label -> rows")
    figure = go.Figure()
    height = max(394, 130 + 30 * len(metrics))  # the legend has no room to scroll in a printed page
    if not _draw(figure, metrics, y, x, smooth, baseline, height - 130):
        return empty("nothing logged yet", title=y)
    width = 640 + _legend(metrics)
    figure.update_layout(template=TEMPLATE, height=height, width=width, margin_t=64, uirevision=f"{y} {x}")
    title = f"{AXES.get(y, y)} by {x}"
    title = title if title.startswith("k-NN") else title[0].upper() + title[1:]
    figure.update_layout(title=_title(title, metrics, [y], smooth))
    return figure.update_xaxes(title_text=AXES.get(x, x), tickformat=",~r").update_yaxes(title_text=AXES.get(y, y))


def grid(metrics, ys, x="step", smooth=0.0, columns=2):
    """`curves` of several quantities side by side, in one figure; runs share colours and one legend."""
    if not metrics or not ys:
        raise Refused("metrics and ys: nothing to show; give label -> rows and at least one name")
    columns = min(columns, len(ys))
    height = math.ceil(len(ys) / columns)
    figure = make_subplots(
        height,
        columns,
        subplot_titles=[AXES.get(y, y) for y in ys],
        horizontal_spacing=0.09,
        vertical_spacing=0.26 / height,
    )
    drawn = [
        _draw(figure, metrics, y, x, smooth, None, 170, legend=k == 0, row=k // columns + 1, col=k % columns + 1)
        for k, y in enumerate(ys)
    ]
    if not any(drawn):
        return empty("nothing logged yet")
    width = 60 + 350 * columns + _legend(metrics)
    figure.update_layout(template=TEMPLATE, height=112 + 245 * height, width=width, margin_t=92)
    figure.update_layout(title=_title("What was logged", metrics, ys, smooth))
    return figure.update_xaxes(tickformat=",~r").update_xaxes(title_text=AXES.get(x, x), row=height)


def _named(metrics):
    """Whether a legend says something: several labels, or one whose seeds are counted."""
    return len(metrics) > 1 or any(len(seeds(value)) > 1 for value in metrics.values())


def _legend(metrics):
    """Pixels of the legend beside the panels."""
    return 60 + min(320, 8 * max(len(str(label)) for label in metrics)) if _named(metrics) else 0


def _title(text, metrics, ys, smooth):
    """A title, and under it what a line and a band are."""
    every = [rows for value in metrics.values() for rows in seeds(value)]
    many = any(len(series(rows, y)[0]) >= FEW for rows in every for y in ys)
    said = [f"moving average with weight {smooth:g} on the past; faint: as logged"] if smooth and many else []
    if any(len(seeds(value)) > 1 for value in metrics.values()):
        said.append("line: mean of the seeds, band: lowest to highest")
    return heading(text, "; ".join(said))


def _draw(figure, metrics, y, x, smooth, baseline, pixels, legend=True, **place):
    """Draw one quantity of all labels in a panel of so many pixels; returns whether anything was there."""
    if not 0 <= smooth < 1:
        raise Refused(f"smooth = {shown(smooth)} is not in [0, 1); 0.9 averages about 10 rows")
    known = {name for value in metrics.values() for rows in seeds(value) for row in rows for name in row}
    for name in (y, x):
        if known and name not in known:
            raise Refused(
                f"no run has logged {shown(name)}{closest(name, known)}; there are: {', '.join(sorted(known))}"
            )
    most = max(100, min(MOST, ALL // (2 * sum(len(seeds(value)) for value in metrics.values()))))
    drawn, reach = 0, []
    for number, (label, value) in enumerate(metrics.items()):
        found = [(xs, ys) for xs, ys in (series(rows, y, x) for rows in seeds(value)) if len(xs)]
        look = {"color": COLOURS[number % len(COLOURS)], "dash": DASHES[number // len(COLOURS) % len(DASHES)]}
        common = {"legendgroup": str(label), "name": html.escape(str(label), quote=False)} | place
        for trace in _lines(found, smooth, look, most, f"{x} %{{x}}<br>{y} "):
            trace.setdefault("showlegend", legend and _named(metrics))
            figure.add_scatter(**common, **trace)
            finite = trace["y"][np.isfinite(trace["y"])]
            reach += [finite.min(), finite.max()] if len(finite) else []
        drawn += len(found)
    lines = guesses(metrics, y) if baseline is None else [(name, at, None) for name, at in baseline.items()]
    if drawn and lines:
        _guessed(figure, sorted(lines, key=lambda line: line[1]), reach, pixels, place)
    return bool(drawn)


def _guessed(figure, lines, reach, pixels, place):
    """Dashed lines [(name, value, number or None)], lowest first, each named above it, moved where names would overlap."""
    low, high = min([*reach, *(at for _, at, _ in lines)]), max([*reach, *(at for _, at, _ in lines)])
    own = [(at - low) / ((high - low) or 1) * pixels for _, at, _ in lines]  # pixels above the lowest
    moved, top = [], -LINE
    for at in own:
        top = max(at, top + LINE)
        moved.append(top)
    for k in reversed(range(len(moved))):  # what has grown beyond the panel comes down again
        moved[k] = min(moved[k], pixels - LINE * (len(moved) - 1 - k))
    for (name, at, number), mine, height in zip(lines, own, moved, strict=True):
        colour = "#666666" if number is None else COLOURS[number % len(COLOURS)]
        said = {"text": f"{html.escape(name, quote=False)} ({at:.4g})", "font": {"size": 11, "color": "#444444"}}
        said |= {"yshift": round(height - mine), "bgcolor": "rgba(255,255,255,0.5)", "borderpad": 0}
        dashed = {"color": colour, "width": 1.2, "dash": "dash"}
        figure.add_hline(y=at, line=dashed, annotation=said, annotation_position="top right", **place)


def _lines(found, smooth, look, most, hover):
    """The scatter traces of one label, the one that stands in the legend last."""
    few = max((len(xs) for xs, _ in found), default=0) < FEW  # an average over a handful of points would only hide them
    smooth = 0 if few else smooth
    mean = band([(xs, smoothed(ys, smooth)) for xs, ys in found]) if len(found) > 1 else None
    if mean is not None and not len(mean[0]):
        mean = None  # nothing in common: each seed by itself
    named = "<b>%{fullData.name}</b><br>" + hover
    for place, (xs, ys) in enumerate(found):
        kept = keep(xs, ys, most)
        behind = mean is not None or smooth
        if behind:
            faint = {"color": look["color"], "width": 1}
            yield {"x": xs[kept], "y": ys[kept], "mode": "lines", "line": faint, "opacity": 0.25} | QUIET
        if mean is None:
            kept = keep(xs, smoothed(ys, smooth), most) if smooth else kept
            ys = smoothed(ys, smooth) if smooth else ys
            mode = "lines+markers" if few else "lines"
            trace = {"x": xs[kept], "y": ys[kept], "mode": mode, "line": look}
            yield (
                trace | {"hovertemplate": named + "%{y:.5g}<extra></extra>"} | ({"showlegend": False} if place else {})
            )
    if mean is not None:
        xs, middle, low, high = mean
        kept = keep(xs, middle, most)
        edge = {"x": np.concatenate([xs[kept], xs[kept][::-1]]), "y": np.concatenate([high[kept], low[kept][::-1]])}
        fill = f"rgba{(*hex_to_rgb(look['color']), 0.18)}"
        yield edge | {"mode": "lines", "line": {"width": 0}, "fill": "toself", "fillcolor": fill} | QUIET
        told = f"%{{y:.5g}}, the mean of {len(found)} seeds<br>from %{{customdata[0]:.5g}} to %{{customdata[1]:.5g}}"
        ends = np.stack([low[kept], high[kept]], 1)
        line = {"x": xs[kept], "y": middle[kept], "mode": "lines+markers" if few else "lines", "line": look}
        yield line | {"customdata": ends, "hovertemplate": named + told + "<extra></extra>"}


# What a logged quantity is to be compared with: what guessing reaches, name -> the quantity that says it.
GUESSES = {
    "loss": {"uniform guess": "loss_uniform"},
    "loss_inpaint": {"uniform guess": "loss_uniform"},
    "loss_tokens": {"uniform guess": "loss_uniform"},
    "loss_generator": {"uniform guess": "loss_uniform"},
    "loss_match": {"chance": "match_chance"},
    "loss_respix": {"all zero": "respix_zero"},
    "token_accuracy": {"most frequent token": "token_majority", "uniform guess": "token_uniform"},
    "match_accuracy": {"chance": "match_chance"},
    "revdet_accuracy": {"always the commoner answer": "revdet_majority"},
    "accuracy": {"most frequent class": "majority", "chance": "chance"},
    "teacher_entropy": {"uniform": "loss_uniform"},
    "knn_top1": {"most frequent class": "knn_majority", "chance": "knn_chance"},
    "knn_balanced": {"chance": "knn_chance"},
}


def guesses(metrics, y):
    """Reference lines of a quantity, [(name, value, None or the number of the label it belongs to)].

    A token method's loss starts near ln V, V the vocabulary; DINO's uniform guess is ln K; InfoNCE's is ln of the number
    of candidates. A loss that is a sum of parts has none of its own: they stand beside the parts. Labels whose values
    are within 2 % share a line; one by itself among several is named.
    """
    found = []
    for name, source in GUESSES.get(y, {}).items():
        values = {}
        for number, (label, value) in enumerate(metrics.items()):
            rows = [row for one in seeds(value) for row in one]
            parts = {part for row in rows for part in row if part.startswith("loss_")} - {"loss_uniform"}
            told = (
                []
                if y == "loss" and parts
                else [row[source] for row in rows if row.get(source) is not None and y in row]
            )
            mean = float(np.mean(told)) if told else None
            if told and (y != "loss_match" or mean > 0):
                values[label] = number, -math.log(mean) if y == "loss_match" else mean
        every = {label for label, value in metrics.items() if any(y in row for one in seeds(value) for row in one)}
        while values:
            first = next(iter(values.values()))[1]
            same = {label: one for label, one in values.items() if abs(one[1] - first) <= 0.02 * abs(first)}
            values = {label: one for label, one in values.items() if label not in same}
            level = float(np.mean([one for _, one in same.values()]))
            if len(same) == 1 < len(every):
                found += [(f"{name}, {label}", level, number) for label, (number, _) in same.items()]
            else:
                found.append((name, level, None))
    return found


def overview(metrics, smooth=0.0, x="step"):
    """What methods log, each beside what guessing reaches, in one figure; `metrics` as in `curves`."""
    logged = {name for value in metrics.values() for rows in seeds(value) for row in rows for name in row}
    return grid(metrics, [name for name in GUESSES if name in logged], x=x, smooth=smooth)
