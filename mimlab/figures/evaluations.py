"""Results side by side."""

import numpy as np
import plotly.graph_objects as go

from mimlab.errors import Refused
from mimlab.figures.style import COLOURS, TEMPLATE, empty


def bars(groups, title=None, unit="%", chance=None):
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
