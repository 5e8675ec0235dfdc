"""How every figure of mimlab looks: one template, one palette, one colour scale."""

import textwrap

import plotly.graph_objects as go

from mimlab.errors import Refused

# Okabe and Ito's palette, safe for the common kinds of colour blindness; yellow left out (unreadable on white)
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
SCALE = "Viridis"
INK, FAINT = "#222222", "#d9d9d9"

_AXIS = {
    "gridcolor": "#ececec",
    "linecolor": "#888888",
    "zerolinecolor": FAINT,
    "ticks": "outside",
    "ticklen": 4,
    "automargin": True,
}

# The background is painted white on purpose: the figure stays readable as a card in a dark notebook theme.
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "Helvetica, Arial, sans-serif", "size": 13, "color": INK},
        "title": {
            "font": {"size": 16},
            "x": 0.0,
            "xref": "container",
            "xanchor": "left",
            "pad": {"l": 14},
        },
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "colorway": COLOURS,
        "colorscale": {"sequential": SCALE},
        "margin": {"l": 60, "r": 20, "t": 50, "b": 45},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "hoverlabel": {"font": {"size": 12}},
        "legend": {"bgcolor": "rgba(255,255,255,0.7)"},
    }
)


def heading(title, about=""):
    """A title for `update_layout(title=...)`, and under it what the figure is of, such as the images and the seed."""
    said = {"text": about, "font": {"size": 12}}
    place = {"y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 12, "l": 14}}
    return {"text": title, "subtitle": said} | place


def empty(reason, title=None):
    """A figure that says why it shows nothing, such as a run that has logged no step yet."""
    figure = go.Figure()
    height = 70 + 18 * reason.count("<br>") + (34 if title else 0)
    figure.update_layout(
        template=TEMPLATE, title=title, height=height, margin={"l": 14, "t": 46 if title else 12, "b": 12}
    )
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.add_annotation(
        text=reason,
        showarrow=False,
        x=0,
        y=0.5,
        xref="paper",
        yref="paper",
        xanchor="left",
        align="left",
        font={"size": 14},
    )
    return figure


def drawn(figure, arguments):
    """`figure(**arguments())`, or a figure that says in one line why there is none, where that is `Refused`."""
    try:
        return figure(**arguments())
    except Refused as reason:
        return empty("<br>".join(textwrap.wrap(str(reason), 90)))
