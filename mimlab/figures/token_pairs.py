"""Which tokens lie beside which: how often, and how much more often than by chance."""

import numpy as np
import plotly.graph_objects as go

from mimlab.errors import Refused
from mimlab.figures.pictures import colours, numpy, pngs
from mimlab.figures.style import FAINT, TEMPLATE, heading

SIDE = 18  # pixels on screen of one pair of tokens
DIVERGING = "RdBu_r"  # white at 0, readable with the common kinds of colour blindness


def neighbours(found, pictures=None, about=""):
    """How much more often than by chance a token has another at its right, and below it; buttons show the counts.

    `found`: name -> `mimlab.looking.tokens.Neighbours` (S tokens by use); `pictures`: name -> (S' >= S, 3, P, P), drawn along
    the axes. Rows are the left or upper token of a pair, columns the right or lower one. Pairs that never occur are
    grey. Pointwise mutual information is log2 of the count over what independence would give, in bits.
    """
    if not found:
        raise Refused("found: an empty dict shows nothing; give name -> neighbours")
    figure, bits, times = go.Figure(), [], []
    most = max(len(one.tokens) for one in found.values())
    step, band = most + 3.2, most + 4.2  # from map to map, in tokens
    for row, (name, one) in enumerate(found.items()):
        tokens, counts, expected, pmi = (numpy(x) for x in (one.tokens, one.counts, one.expected, one.pmi))
        size = len(tokens)
        for k in (0, 1):
            x0, y0 = k * step, row * band
            seen = counts[k] > 0
            bits.append(np.where(seen, pmi[k].round(2), None).tolist())
            times.append(np.where(seen, np.log10(np.maximum(counts[k], 1)).round(2), None).tolist())
            told = np.stack(
                np.broadcast_arrays(tokens[:, None], tokens, counts[k], expected[k], np.where(seen, pmi[k], -np.inf)), 2
            )
            beside = "below it" if k else "at its right"
            figure.add_heatmap(
                z=bits[-1],
                customdata=told.astype(np.float32),
                x0=x0,
                dx=1,
                y0=y0,
                dy=1,
                coloraxis="coloraxis",
                hoverongaps=True,
                hovertemplate=f"{name}: token %{{customdata[0]}}, {beside} token %{{customdata[1]}}<br>%{{customdata[2]:,}} times, "
                "%{customdata[3]:,.1f} expected<br>PMI %{customdata[4]:+.2f} bits<extra></extra>",
                xgap=0.5,
                ygap=0.5,
            )
            figure.add_shape(
                type="rect", x0=x0 - 0.5, x1=x0 + size - 0.5, y0=y0 - 0.5, y1=y0 + size - 0.5, fillcolor=FAINT,
                line_width=0, layer="below",
            )  # fmt: skip
            title = f"{'<b>' + name + '</b>: ' if k == 0 else ''}{'lower' if k else 'right'} neighbour"
            figure.add_annotation(text=title, x=x0 - 0.5, y=y0 - 1.7, xanchor="left", yanchor="bottom", showarrow=False)
            if pictures is not None:
                tiles = colours(pictures[name][:size])  # (S, P, P, 3)
                _rail(figure, tiles, x0 - 0.5, y0 - 1.6, down=False)
                _rail(figure, tiles, x0 - 1.6, y0 - 0.5, down=True)
    top = max((abs(v) for z in bits for line in z for v in line if v is not None), default=1) or 1
    axes = [
        {"colorscale": DIVERGING, "cmin": -top, "cmax": top, "colorbar": {"title": {"text": "PMI (bits)"}}},
        {"colorscale": "Viridis", "cmin": 0, "cmax": _most(times), "colorbar": {"title": {"text": "log10 count"}}},
    ]
    for axis in axes:
        axis["colorbar"] |= {
            "thickness": 12,
            "outlinewidth": 0,
            "len": 320,
            "lenmode": "pixels",
            "y": 1,
            "yanchor": "top",
        }
    buttons = [
        {"label": label, "method": "update", "args": [{"z": z}, {"coloraxis": axis}]}
        for label, z, axis in (("PMI", bits, axes[0]), ("counts", times, axes[1]))
    ]
    figure.update_layout(
        template=TEMPLATE,
        title=heading("Neighbouring tokens", about),
        coloraxis=axes[0],
        width=round(SIDE * 2 * step) + 110,
        height=round(SIDE * len(found) * band) + 106,
        margin={"l": 10, "r": 96, "t": 96, "b": 8},
        updatemenus=[
            {"type": "buttons", "direction": "right", "buttons": buttons, "x": 1, "xanchor": "right", "y": 1, "yanchor": "bottom", "pad": {"b": 12}}
        ],
    )  # fmt: skip
    figure.update_xaxes(visible=False, range=[-2, 2 * step - 2], constrain="domain")
    return figure.update_yaxes(
        visible=False, range=[len(found) * band - 3.4, -3.4], scaleanchor="x", constrain="domain"
    )


def _rail(figure, tiles, x, y, down):
    """Pictures of tokens (S, P, P, 3) along an axis, one cell each."""
    strip = np.concatenate(list(tiles), axis=0 if down else 1)
    size = len(tiles)
    figure.add_layout_image(
        source=pngs([strip])[0], x=x, y=y, sizex=1 if down else size, sizey=size if down else 1, xref="x", yref="y",
        sizing="stretch", layer="above",
    )  # fmt: skip


def _most(z):
    return max((v for one in z for line in one for v in line if v is not None), default=1) or 1
