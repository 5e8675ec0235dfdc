"""Discrete tokens as maps."""

import colorsys

import numpy as np
import plotly.graph_objects as go

from mimlab.errors import Refused
from mimlab.figures.pictures import numpy
from mimlab.figures.style import TEMPLATE

_GOLDEN = (5**0.5 - 1) / 2  # multiples of it, modulo 1, stay far apart: neighbouring ids get different hues
_SHADES = 96


def _palette():
    """Discrete colour scale: neighbours in the table differ in hue and in lightness."""
    steps = []
    for k in range(_SHADES):
        red, green, blue = colorsys.hls_to_rgb(k / _SHADES, (0.4, 0.58, 0.74)[k % 3], (0.75, 0.5)[k % 2])
        colour = f"rgb({red * 255:.0f},{green * 255:.0f},{blue * 255:.0f})"
        steps += [[k / _SHADES, colour], [(k + 1) / _SHADES, colour]]
    return steps


def token_map(ids, grid, vocab, hover=None):
    """The token of each patch, coloured by id and named under the pointer; ids (B, N) below `vocab`.

    An id has the same colour in every figure of this vocabulary. `hover` maps an id to a text (dict, or a list
    of `vocab` texts).
    """
    ids, (h, w) = numpy(ids), grid
    if ids.ndim != 2 or ids.shape[1] != h * w or not len(ids):
        raise Refused(f"ids: shape {ids.shape} is not (B, {h * w}) for a grid of {h} x {w} patches")
    if ids.min() < 0 or ids.max() >= vocab:
        raise Refused(f"ids: {ids.min()} to {ids.max()} do not lie in 0 to {vocab - 1}; is vocab = {vocab} right?")
    batch = len(ids)
    sheet = np.full((h, batch * (w + 1) - 1), -1)  # maps side by side with an empty column between
    for k in range(batch):
        sheet[:, k * (w + 1) : k * (w + 1) + w] = ids[k].reshape(h, w)
    texts = dict(enumerate(hover)) if isinstance(hover, (list, tuple)) else hover or {}
    named = [
        [f"token {i}<br>{texts.get(i, '')}".removesuffix("<br>") if i >= 0 else "" for i in row]
        for row in sheet.tolist()
    ]
    cell = max(10, min(26, 190 // max(h, w)))
    figure = go.Figure(
        go.Heatmap(
            z=np.where(sheet < 0, np.nan, sheet * _GOLDEN % 1),
            text=named,
            zmin=0,
            zmax=1,
            colorscale=_palette(),
            showscale=False,
            hovertemplate="%{text}<extra></extra>",
            hoverongaps=False,
            xgap=1,
            ygap=1,
        )
    )
    for k in range(batch):
        used = len(np.unique(ids[k]))
        figure.add_annotation(
            text=f"image {k}: {used} of {h * w}",
            hovertext=f"{used} different tokens in {h * w} patches",
            x=k * (w + 1) + (w - 1) / 2,
            y=1,
            yref="paper",
            yanchor="bottom",
            showarrow=False,
            font={"size": 11},
        )
    figure.update_layout(
        template=TEMPLATE,
        title={"text": f"Tokens: {len(np.unique(ids))} of {vocab:,} in use"},
        width=max(340, cell * sheet.shape[1] + 24),
        height=cell * h + 88,
        margin={"l": 12, "r": 12, "t": 76, "b": 12},
    )
    figure.update_xaxes(visible=False, constrain="domain")
    figure.update_yaxes(visible=False, autorange="reversed", scaleanchor="x", constrain="domain")
    return figure
