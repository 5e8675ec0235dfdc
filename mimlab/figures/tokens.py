"""Discrete tokens as maps."""

import colorsys

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mimlab.errors import Refused
from mimlab.figures.pictures import numpy
from mimlab.figures.style import SCALE, TEMPLATE, empty

_GOLDEN = (5**0.5 - 1) / 2  # multiples of it, modulo 1, stay far apart: neighbouring ids get different hues
_SHADES = 96
ABREAST = 4  # images side by side
HEAD = 30  # px above a map for its name


def _palette():
    """Discrete colour scale: neighbours in the table differ in hue and in lightness."""
    steps = []
    for k in range(_SHADES):
        red, green, blue = colorsys.hls_to_rgb(k / _SHADES, (0.4, 0.58, 0.74)[k % 3], (0.75, 0.5)[k % 2])
        colour = f"rgb({red * 255:.0f},{green * 255:.0f},{blue * 255:.0f})"
        steps += [[k / _SHADES, colour], [(k + 1) / _SHADES, colour]]
    return steps


def guesses(tokens, mask, grid, vocab):
    """What a method says of hidden tokens: the true map of all, the most probable one, and the rank of the true token.

    `tokens` has true (B, N), likely and chance (B, N, k) and rank (B, N), as `methods.Tokens`, or is None; mask bool (B, N).
    Under the pointer, in the last two maps: the true token, its rank, the likely ones with their probabilities. Only the
    first four images are shown, and counted in the title.
    """
    if tokens is None:
        return empty("This method predicts no tokens.", "Tokens")
    true, likely, chance, rank = (numpy(x)[:ABREAST] for x in tokens)
    hidden, (h, w), batch = numpy(mask).astype(bool)[:ABREAST], grid, len(true)
    if true.shape != hidden.shape or true.shape[1:] != (h * w,) or not batch:
        raise Refused(f"tokens {true.shape}, mask {hidden.shape} are not (B, {h * w}) for a grid of {h} x {w} patches")
    named, said = _said(true, likely, chance, rank, hidden)
    ranks = _sheet(np.log10(np.where(hidden, rank, np.nan)), grid, np.nan)
    top, cell = float(np.log10(vocab)), _cell(grid)
    height = 3 * cell * h + 2 * HEAD
    figure = make_subplots(
        3, 1, vertical_spacing=HEAD / height, subplot_titles=["true", "most probable", "rank of the true"]
    )
    ids = {"colorscale": _palette(), "zmin": 0, "zmax": 1, "showscale": False}
    bar = {"title": {"text": "rank", "side": "right"}, "thickness": 12, "len": 0.3, "y": 0.0, "yanchor": "bottom"}
    bar |= {"tickvals": list(range(int(top) + 1)), "ticktext": [f"{10**k:,}" for k in range(int(top) + 1)]}
    scale = {"colorscale": SCALE, "reversescale": True, "zmin": 0, "zmax": top, "colorbar": bar | {"outlinewidth": 0}}
    maps = (
        (_hue(_sheet(true, grid)), named, ids),
        (_hue(_sheet(np.where(hidden, likely[..., 0], -1), grid)), said, ids),
        (ranks, said, scale),
    )
    cells = {"hovertemplate": "%{text}<extra></extra>", "hoverongaps": False, "xgap": 1, "ygap": 1, "col": 1}
    for row, (sheet, texts, colours) in enumerate(maps, start=1):
        figure.add_heatmap(z=sheet.round(4), text=_sheet(texts, grid, ""), row=row, **cells, **colours)
        figure.update_xaxes(visible=False, constrain="domain", row=row, col=1)
        anchor = f"x{row if row > 1 else ''}"
        figure.update_yaxes(visible=False, autorange="reversed", scaleanchor=anchor, constrain="domain", row=row, col=1)
    k = likely.shape[2]
    first, near = (float((rank[hidden] <= most).mean()) if hidden.any() else 0.0 for most in (1, k))
    return figure.update_layout(
        template=TEMPLATE,
        title=f"Tokens: {first:.0%} right, {near:.0%} among the {k} most probable of {vocab:,}",
        width=max(480, cell * (batch * (w + 1) - 1) + 98),
        height=height + 92,
        margin={"l": 12, "r": 86, "t": 80, "b": 12},
    )


def _said(true, likely, chance, rank, hidden):
    """Two texts for each patch (B, N): its true token; and of a hidden one what was said of it."""
    named, said = np.full(true.shape, "", object), np.full(true.shape, "", object)
    for k, i in np.ndindex(true.shape):
        named[k, i] = f"token {true[k, i]}"
        if hidden[k, i]:
            five = "".join(f"<br>{token} {share:.1%}" for token, share in zip(likely[k, i], chance[k, i], strict=True))
            said[k, i] = f"image {k}, patch {i}: token {true[k, i]}, rank {rank[k, i]:,}{five}"
    return named, said


def _sheet(values, grid, between=-1):
    """Maps (B, N) side by side with an empty column between: (h, B * (w + 1) - 1)."""
    h, w = grid
    sheet = np.full((h, len(values) * (w + 1) - 1), between, values.dtype)
    for k, row in enumerate(values):
        sheet[:, k * (w + 1) : k * (w + 1) + w] = row.reshape(h, w)
    return sheet


def _hue(sheet):
    """Places of ids on the colour scale, NaN for -1."""
    return np.where(sheet < 0, np.nan, sheet * _GOLDEN % 1)


def _cell(grid):
    """px of a patch on screen."""
    return max(10, min(26, 190 // max(grid)))


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
    batch, sheet = len(ids), _sheet(ids, grid)
    texts = dict(enumerate(hover)) if isinstance(hover, (list, tuple)) else hover or {}
    named = [
        [f"token {i}<br>{texts.get(i, '')}".removesuffix("<br>") if i >= 0 else "" for i in row]
        for row in sheet.tolist()
    ]
    cell = _cell(grid)
    figure = go.Figure(
        go.Heatmap(
            z=_hue(sheet),
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
