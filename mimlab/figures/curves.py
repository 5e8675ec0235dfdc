"""Logged quantities against the step, for one run or many."""

import math

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mimlab.errors import Refused
from mimlab.figures.style import COLOURS, TEMPLATE, empty
from mimlab.find import closest

MOST = 2000  # points a trace
FEW = 30  # below that, points are marked, and not smoothed


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
    kept = {0, len(ys) - 1}
    for places in np.split(np.arange(len(ys)), np.flatnonzero(np.diff(stretch)) + 1):
        values = ys[places]
        if np.isnan(values).all():
            kept.add(int(places[0]))
        else:
            kept |= {int(places[np.nanargmin(values)]), int(places[np.nanargmax(values)])}
    return np.array(sorted(kept))


def smoothed(ys, smooth):
    """Exponential moving average with weight `smooth` on the past, started without bias; NaN is passed over."""
    total, weight, out = 0.0, 0.0, np.full(len(ys), np.nan)
    for k, value in enumerate(ys):
        if math.isfinite(value):
            total, weight = (
                smooth * total + (1 - smooth) * value,
                smooth * weight + (1 - smooth),
            )
            out[k] = total / weight
    return out


def _draw(figure, metrics, y, x, smooth, baseline, legend=True, **place):
    """Draw one quantity of all runs; returns whether anything was there."""
    if not 0 <= smooth < 1:
        raise Refused(f"smooth = {smooth!r} is not in [0, 1); 0.9 averages about 10 rows")
    known = {name for rows in metrics.values() for row in rows for name in row}
    for name in (y, x):
        if known and name not in known:
            raise Refused(f"no run has logged {name!r}{closest(name, known)}; there are: {', '.join(sorted(known))}")
    drawn = False
    for number, (label, rows) in enumerate(metrics.items()):
        xs, ys = series(rows, y, x)
        colour = COLOURS[number % len(COLOURS)]
        drawn |= len(xs) > 0
        few = "lines+markers" if len(xs) < FEW else "lines"
        common = {
            "legendgroup": label,
            "line_color": colour,
            "hovertemplate": f"{label}<br>{x} %{{x}}<br>{y} %{{y:.5g}}<extra></extra>",
        }
        if smooth and len(xs) >= FEW:  # an average over a handful of points would only hide them
            figure.add_scatter(
                x=xs[keep(xs, ys)],
                y=ys[keep(xs, ys)],
                mode="lines",
                opacity=0.25,
                showlegend=False,
                hoverinfo="skip",
                legendgroup=label,
                line={"color": colour, "width": 1},
                **place,
            )
            ys, few = smoothed(ys, smooth), "lines"
        kept = keep(xs, ys)
        figure.add_scatter(
            x=xs[kept],
            y=ys[kept],
            mode=few,
            name=str(label),
            showlegend=legend and len(metrics) > 1,
            **common,
            **place,
        )
    for name, value in baseline.items():
        figure.add_hline(
            y=value,
            line={"color": "#666666", "width": 1.2, "dash": "dash"},
            annotation={
                "text": f"{name} ({value:.4g})",
                "font": {"size": 11, "color": "#555555"},
            },
            annotation_position="top right",
            **place,
        )
    return drawn


def curves(metrics, y="loss", x="step", smooth=0.0, baseline=None):
    """Quantity `y` against `x`, one line a run; `metrics` is label -> rows of metrics.jsonl.

    `smooth` in [0, 1) adds a moving average and keeps the raw curve faint behind it. `baseline` is
    name -> value, drawn dashed. Raises Refused where no run has logged `y`, naming what there is.
    """
    if not metrics:
        raise Refused("metrics: an empty dict shows nothing; give label -> rows")
    figure = go.Figure()
    if not _draw(figure, metrics, y, x, smooth, baseline or {}):
        return empty("nothing logged yet", title=y)
    figure.update_layout(
        template=TEMPLATE,
        height=360,
        width=720,
        xaxis_title=x,
        yaxis_title=y,
        margin_t=30,
    )
    return figure


def grid(metrics, ys, x="step", smooth=0.0, columns=2, baselines=None):
    """`curves` of several quantities side by side, in one figure; runs share colours and one legend.

    `baselines` is y -> {name: value}, drawn dashed in that quantity's panel.
    """
    if not metrics or not ys:
        raise Refused("metrics and ys: nothing to show; give label -> rows and at least one name")
    columns = min(columns, len(ys))
    height = math.ceil(len(ys) / columns)
    figure = make_subplots(
        height,
        columns,
        subplot_titles=list(ys),
        horizontal_spacing=0.09,
        vertical_spacing=0.22 / height,
    )
    drawn = [
        _draw(
            figure,
            metrics,
            y,
            x,
            smooth,
            (baselines or {}).get(y, {}),
            legend=k == 0,
            row=k // columns + 1,
            col=k % columns + 1,
        )
        for k, y in enumerate(ys)
    ]
    if not any(drawn):
        return empty("nothing logged yet")
    figure.update_layout(template=TEMPLATE, height=60 + 240 * height, width=420 * columns, margin_t=40)
    return figure.update_xaxes(title_text=x, row=height)


# What a logged quantity is to be compared with: the loss and the accuracy of guessing.
GUESSES = {
    "loss": {"uniform guess": "loss_uniform"},
    "loss_inpaint": {"uniform guess": "loss_uniform"},
    "loss_match": {},
    "token_accuracy": {"most frequent token": "token_majority", "uniform guess": "token_uniform"},
    "match_accuracy": {"chance": "match_chance"},
    "knn_top1": {"chance": "knn_chance"},
}


def overview(metrics, smooth=0.0):
    """What a run's method logs, each beside what guessing reaches, in one figure; `metrics` as in `curves`."""
    logged = {name for rows in metrics.values() for row in rows for name in row}
    wanted, guesses = [name for name in GUESSES if name in logged], {}
    for y in wanted:
        if y == "loss" and "loss_match" in logged:  # a sum of two losses has no guess of its own
            continue
        for name, source in GUESSES[y].items():
            values = np.concatenate([series(rows, source)[1] for rows in metrics.values()])
            if len(values):
                guesses.setdefault(y, {})[name] = float(np.nanmean(values))
    return grid(metrics, wanted, smooth=smooth, baselines=guesses)
