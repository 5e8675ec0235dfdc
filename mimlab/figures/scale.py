"""Cost against size on log-log axes, with the exponent of the line through the points."""

from plotly.subplots import make_subplots

from mimlab.errors import Refused
from mimlab.figures.style import COLOURS, FAINT, TEMPLATE
from mimlab.scale import power


def growth(rows, x, units, title="Cost as it grows", logarithmic=True, ideal=False):
    """One panel a quantity, one line a "method" of the rows; the legend has the fitted exponents where axes are logarithmic.

    rows: dicts with "method", `x` and the quantities. units: quantity -> the text of its axis. logarithmic: both axes, or
    neither. ideal: draws the line of proportion through the first point. Refuses fewer than two points a line.
    """
    if not rows:
        raise Refused("rows: an empty list shows nothing; give dicts with method and what varies")
    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure = make_subplots(1, len(units), horizontal_spacing=0.22 / len(units))
    for column, (name, unit) in enumerate(units.items(), 1):
        for k, method in enumerate(methods):
            points = sorted((row[x], row[name]) for row in rows if row["method"] == method)
            if len(points) < 2:
                raise Refused(f"{x}: {method} has {len(points)} point; two or more show how it grows")
            xs, ys = zip(*points, strict=True)
            label = method
            if logarithmic:
                label = f"{method}: {x}<sup>{power(xs, ys)[1]:.2f}</sup>"
            figure.add_scatter(
                x=xs,
                y=ys,
                name=label,
                mode="lines+markers",
                line_color=COLOURS[k % len(COLOURS)],
                legend="legend" if column == 1 else f"legend{column}",
                row=1,
                col=column,
            )
            if ideal and k == 0:
                best = [ys[0] * at / xs[0] for at in xs]
                line = {"color": FAINT, "dash": "dash"}
                figure.add_scatter(x=xs, y=best, name="in proportion", mode="lines", line=line, row=1, col=column)
        kind = {"type": "log", "dtick": "D2", "exponentformat": "power"} if logarithmic else {"rangemode": "tozero"}
        ticks = sorted({row[x] for row in rows})
        figure.update_xaxes(
            title_text=x,
            type="log" if logarithmic else "linear",
            tickvals=ticks,
            ticktext=[f"{t:,}" for t in ticks],
            col=column,
        )
        figure.update_yaxes(title_text=unit, **kind, col=column)
        left = (column - 1) / len(units)
        place = {"x": left + 0.02, "y": 1.02, "yanchor": "bottom", "orientation": "h", "font_size": 12}
        figure.update_layout({"legend" if column == 1 else f"legend{column}": place})
    room = 36 * ((len(methods) - 1) // 3)  # further lines of the legend, below a title in the middle of the margin
    return figure.update_layout(
        template=TEMPLATE,
        title=title,
        height=420 + room,
        width=120 + 480 * len(units),
        margin_t=95 + room,
        showlegend=True,
    )


def efficiency(rows, x, units, title="Share of the ideal speed"):
    """Shares of the ideal speed against the number of GPUs: `growth` on a logarithmic x and a y from 0 to 1."""
    figure = growth(rows, x, units, title, logarithmic=False)
    figure.update_xaxes(type="log")
    return figure.update_yaxes(range=[0, 1.05])
