"""Results side by side."""

import html
from textwrap import wrap

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mimlab.errors import Refused
from mimlab.figures.style import COLOURS, TEMPLATE, empty, heading


def bars(groups, title="Evaluations", unit="%", chance=None):
    """Mean of each group as a bar, each seed as a point; `groups` is label -> values over seeds.

    `unit` "%" takes values in [0, 100]. `chance` is drawn dashed. Values that are NaN or None are left out, and
    a group without any says so.
    """
    if not groups:
        raise Refused("groups: an empty dict shows nothing; give label -> values over seeds")
    values = {
        label: np.array([np.nan if v is None else v for v in np.atleast_1d(many)], float)
        for label, many in groups.items()
    }
    values = {label: many[np.isfinite(many)] for label, many in values.items()}
    if not any(len(many) for many in values.values()):
        return empty("no results yet", title=title)
    labels = [str(label) for label in values]
    means = [many.mean() if len(many) else None for many in values.values()]
    sign = unit if unit == "%" else f" {unit}" if unit else ""
    tops = [many.max() if len(many) else 0 for many in values.values()]
    figure = go.Figure(
        go.Bar(
            x=labels,
            y=means,
            marker={
                "color": [COLOURS[k % len(COLOURS)] for k in range(len(labels))],
                "opacity": 0.75,
            },
            width=0.6,
            customdata=[len(many) for many in values.values()],
            hovertemplate="%{x}<br>mean %{y:.2f}" + sign + " over %{customdata} seeds<extra></extra>",
            showlegend=False,
        )
    )
    figure.add_scatter(
        x=[label for label, many in zip(labels, values.values(), strict=True) for _ in many],
        y=[value for many in values.values() for value in many],
        mode="markers",
        marker={
            "color": "white",
            "size": 7,
            "line": {"color": "#222222", "width": 1.3},
        },
        hovertemplate="%{x}<br>%{y:.2f}" + sign + "<extra>one seed</extra>",
        showlegend=False,
    )
    for label, many, top in zip(labels, values.values(), tops, strict=True):
        said = f"{many.mean():.1f}{sign}" if len(many) else "no result"
        if len(many) > 1:
            said += f"<br>± {many.std(ddof=1):.1f}"
        figure.add_annotation(
            x=label,
            y=max(top, 0),
            text=said,
            yanchor="bottom",
            yshift=7,
            showarrow=False,
            font={"size": 12},
        )
    if chance is not None:
        figure.add_hline(
            y=chance,
            line={"color": "#666666", "width": 1.2, "dash": "dash"},
            annotation={
                "text": f"chance ({chance:.3g}{sign})",
                "font": {"size": 11, "color": "#555555"},
            },
            annotation_position="top right",
        )
    figure.update_layout(
        template=TEMPLATE,
        title=title,
        height=380,
        width=max(360, 120 * len(labels) + 120),
        yaxis={
            "title": unit,
            "range": [
                min(0, *(many.min() for many in values.values() if len(many)), 0),
                max([*tops, chance or 0]) * 1.2 or 1,
            ],
        },
        xaxis={"type": "category"},
    )
    return figure


def beside(results, chance=None, unit="%"):
    """Protocols side by side, a panel each: bars of means, points of seeds; one colour a label in all panels.

    `results` is protocol -> label -> values over seeds, in [0, 100] for "%"; `chance` is protocol -> value, drawn dashed.
    A label that a protocol has not says "not evaluated": no value of another protocol takes its place.
    """
    labels = list(dict.fromkeys(str(label) for values in results.values() for label in values))[
        ::-1
    ]  # first one on top
    if not labels:
        return empty("no evaluations yet: notebook 06 makes them")
    heads = ["<br>".join(wrap(html.escape(protocol, quote=False), 44)) for protocol in results]
    lines = max(head.count("<br>") for head in heads)
    figure = make_subplots(1, len(results), subplot_titles=heads, shared_yaxes=True, horizontal_spacing=0.06)
    for column, (protocol, values) in enumerate(results.items(), 1):
        for place, label in enumerate(labels):
            some = [v for v in values.get(label, []) if v is not None and np.isfinite(v)]
            name, at = html.escape(label, quote=False), {"row": 1, "col": column}
            if not some:
                figure.add_annotation(
                    x=0, y=name, text="not evaluated", xanchor="left", showarrow=False, font={"size": 11}, **at
                )
                figure.add_bar(x=[None], y=[name], orientation="h", showlegend=False, **at)
                continue
            colour = COLOURS[(len(labels) - 1 - place) % len(COLOURS)]
            spread = f" ± {np.std(some, ddof=1):.1f}" if len(some) > 1 else ""
            figure.add_bar(
                x=[np.mean(some)], y=[name], orientation="h", marker={"color": colour, "opacity": 0.75}, showlegend=False, width=0.6,
                text=f"{np.mean(some):.1f}{spread}", textposition="inside", insidetextanchor="start",
                hovertemplate=f"%{{y}}<br>mean %{{x:.2f}} {unit} over {len(some)}<extra></extra>", **at,
            )  # fmt: skip
            figure.add_scatter(
                x=some, y=[name] * len(some), mode="markers", showlegend=False,
                marker={"color": "white", "size": 7, "line": {"color": "#222222", "width": 1.3}},
                hovertemplate=f"%{{y}}<br>%{{x:.2f}} {unit}<extra>one seed</extra>", **at,
            )  # fmt: skip
        if (chance or {}).get(protocol) is not None:
            line = {"color": "#666666", "width": 1.2, "dash": "dash"}
            figure.add_vline(x=chance[protocol], line=line, row=1, col=column)
        said = "" if (chance or {}).get(protocol) is None else f"; dashed: chance, {chance[protocol]:.3g}"
        figure.update_xaxes(title_text=f"{unit}{said}", row=1, col=column)
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(type="category")
    height, width = 126 + 46 * len(labels) + 18 * lines, 140 + 7 * max(map(len, labels)) + 320 * len(results)
    title = heading("Evaluations", "bar: mean, point: one seed; a panel for each protocol")
    return figure.update_layout(
        template=TEMPLATE, title=title, height=max(226, height), width=width, margin_t=76 + 18 * lines
    )
