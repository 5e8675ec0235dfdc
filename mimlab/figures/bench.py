"""Speeds as `mimlab bench` measured them: methods beside others, and where a step's time goes."""

import plotly.graph_objects as go

from mimlab.errors import Refused
from mimlab.figures.style import COLOURS, FAINT, TEMPLATE

PARTS = ("data", "mask", "tokenizer", "forward", "backward", "optimiser")


def speeds(result):
    """Images a second of each case over mimlab's own, by method; `result` is what `mimlab bench --out` wrote.

    The ratios are those of the same rounds. Raises Refused where nothing was measured.
    """
    rows = _rows(result)
    asked = [who for who in dict.fromkeys(row["asked"] for row in rows) if who != "mimlab"]
    figure = go.Figure()
    for who, colour in zip(asked, COLOURS, strict=False):
        own = [row for row in rows if row["asked"] == who]
        figure.add_bar(
            x=[row["method"] for row in own],
            y=[1 / row["ratio"] for row in own],
            name=who,
            marker_color=colour,
            customdata=[(row["who"], row["images_per_s"], row["ratio"]) for row in own],
            hovertemplate="%{customdata[0]}: %{customdata[1]:.4g} images/s; mimlab is %{customdata[2]:.2f} x<extra></extra>",
        )
    figure.add_hline(y=1, line={"color": "black", "width": 1}, annotation_text="mimlab")
    figure.update_layout(
        template=TEMPLATE, barmode="group", title=f"Speed beside mimlab's: {_where(result)}", height=400, width=900
    )
    figure.update_yaxes(title="images/s over mimlab's", rangemode="tozero")
    return figure


def steps(result):
    """Where the time of mimlab's step goes, in percent of it, by method; and the time of its matrix products alone.

    Data, mask and tokenizer come on top of forward, backward and optimiser, which make 100 %.
    """
    rows = [row for row in _rows(result) if row["asked"] == "mimlab"]
    figure = go.Figure()
    methods = [row["method"] for row in rows]
    whole = [sum(row["parts_ms"].get(part, 0) for part in PARTS[3:]) for row in rows]
    for part, colour in zip((*PARTS[3:], *PARTS[:3]), COLOURS, strict=False):
        values = [row["parts_ms"].get(part, 0) for row in rows]
        figure.add_bar(
            x=methods,
            y=[100 * value / total for value, total in zip(values, whole, strict=True)],
            name=part,
            marker_color=colour,
            customdata=values,
            hovertemplate=f"{part}: %{{customdata:.3g}} ms, %{{y:.1f}} %<extra></extra>",
        )
    figure.add_scatter(
        x=methods,
        y=[100 * row["of_replay"] for row in rows],
        name="matrix products alone",
        mode="markers",
        marker={"symbol": "line-ew-open", "size": 30, "color": "black", "line": {"width": 3}},
    )
    figure.add_hline(y=100, line={"color": FAINT, "dash": "dot"})
    figure.update_layout(
        template=TEMPLATE, barmode="stack", title=f"Parts of a step: {_where(result)}", height=400, width=900
    )
    figure.update_yaxes(title="% of forward, backward, optimiser")
    return figure


def _rows(result):
    if not result.get("rows"):
        raise Refused("result: no rows; give what mimlab bench --out wrote")
    return result["rows"]


def _where(result):
    return f"{result['at']}, {result['threads']} threads, {result['machine']['processor']}"
