"""Images in figures: PNG data URIs laid out as rows and columns on one pair of hidden axes."""

import base64
import io
import math
import textwrap

import numpy as np
import plotly.graph_objects as go
from PIL import Image
from plotly.colors import sample_colorscale, unlabel_rgb

from mimlab.errors import Refused
from mimlab.figures.style import SCALE, TEMPLATE

LEAST = 96  # px; a browser smooths pictures that it enlarges, so small ones are enlarged here, by whole factors
BUDGET = 220_000  # bytes of text for all pictures of one figure
CELL = 140  # px on screen for one picture
ACROSS = 990  # px: a wider figure gets smaller pictures
LETTER = 6.2  # px of a letter of a note
SMALLEST = 56  # px of a picture
# tried in turn until a figure's pictures fit BUDGET: (longest side, colours), None = as it is
STEPS = [(None, None), (None, 256), (160, 256), (112, 128), (96, 64)]


def numpy(values):
    """Any array or tensor as a NumPy array on the CPU."""
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def colours(images, name="images"):
    """uint8 (B, H, W, 3) of float [0, 1] or uint8 images (B, 3, H, W); float values are clipped.

    Raises Refused for another shape, an empty batch or values that are not finite.
    """
    images = numpy(images)
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise Refused(f"{name}: shape {images.shape} is not (B, 3, H, W) with at least one image")
    if images.dtype != np.uint8:
        if not np.isfinite(images).all():
            raise Refused(f"{name}: some values are NaN or infinite; pictures need finite values in [0, 1]")
        images = (np.clip(images, 0, 1) * 255).round().astype(np.uint8)
    return images.transpose(0, 2, 3, 1)  # (B, H, W, 3)


def _encode(pixels, longest=None, palette=None):
    picture = Image.fromarray(pixels)
    if longest and max(picture.size) > longest:
        share = longest / max(picture.size)
        picture = picture.resize([max(1, round(side * share)) for side in picture.size], Image.Resampling.BOX)
    if max(picture.size) < LEAST:
        factor = math.ceil(LEAST / max(picture.size))
        picture = picture.resize([side * factor for side in picture.size], Image.Resampling.NEAREST)
    if palette:
        picture = picture.quantize(palette)
    file = io.BytesIO()
    picture.save(file, "PNG", compress_level=6)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def png(image):
    """PNG data URI of one image (3, H, W), float [0, 1] or uint8; enlarged by a whole factor if under 96 px."""
    return _encode(colours(numpy(image)[None], "image")[0])


def pngs(pictures):
    """Data URIs of many uint8 (H, W, 3): exact where they are light, with fewer colours or pixels where not."""
    for longest, palette in STEPS:
        uris = []
        for pixels in pictures:
            uris.append(_encode(pixels, longest, palette))
            if sum(map(len, uris)) > BUDGET and (longest, palette) != STEPS[-1]:
                break
        else:
            return uris


def cells(values, grid, size):
    """One value a patch (B, N), raster order, spread over the pixels: (B, H, W).

    Raises Refused where N is not h * w.
    """
    values, (h, w), (height, width) = numpy(values), grid, size
    if values.ndim != 2 or values.shape[1] != h * w or 0 in values.shape:
        raise Refused(f"mask: shape {values.shape} is not (B, {h * w}) for a grid of {h} x {w} patches")
    rows, columns = np.arange(height) * h // height, np.arange(width) * w // width
    return values.reshape(-1, h, w)[:, rows[:, None], columns[None]]


def painted(values, top):
    """uint8 (B, H, W, 3) of values (B, H, W) on the shared colour scale from 0 to `top`."""
    table = np.array([unlabel_rgb(c) for c in sample_colorscale(SCALE, np.linspace(0, 1, 256))])
    share = np.clip(values / top if top > 0 else np.zeros_like(values), 0, 1)
    return table.round().astype(np.uint8)[(share * 255).round().astype(int)]


def panels(columns, title=None, note=None, rows=None, scale=None, room=0):
    """Pictures in rows and columns: `columns` is title -> uint8 (B, H, W, 3), equal B and sizes alike.

    `note` goes under the title, `rows` are B labels at the left, `scale` = (top, label) adds the colour bar of `painted`.
    All pictures share one pair of axes: light to draw, and zooming is possible. They are smaller where the figure would
    be wider than `ACROSS`, less `room` px for what the caller adds.
    """
    names, batch = list(columns), min(len(pictures) for pictures in columns.values())
    height, width = next(iter(columns.values())).shape[1:3]
    tall = height / width  # of one cell, whose width is 1
    left = 8 + (8 * max(len(str(label)) for label in rows) if rows else 0)
    right = 82 if scale else 8
    cell = max(SMALLEST, min(CELL, (ACROSS - left - right - room) / len(names)))  # px
    letters = 13 if cell > 115 else 11 if cell > 80 else 9
    uris = iter(pngs([columns[name][row] for row in range(batch) for name in names]))
    figure = go.Figure()
    figure.layout.images = [  # at once: plotly checks all that are there with each that is added
        {"source": next(uris), "x": column + 0.03, "y": (row + 0.03) * tall, "sizex": 0.94, "sizey": 0.94 * tall}
        | {"xref": "x", "yref": "y", "sizing": "stretch", "layer": "above", "name": name}
        for row in range(batch)
        for column, name in enumerate(names)
    ]
    figure.add_scatter(  # nothing to see: it carries the hover texts
        x=[column + 0.5 for _ in range(batch) for column in range(len(names))],
        y=[(row + 0.5) * tall for row in range(batch) for _ in names],
        mode="markers",
        marker={"size": cell * 0.7, "opacity": 0, "symbol": "square"},
        hovertext=[
            f"{name.replace('<br>', ', ')}<br>{rows[row] if rows else f'image {row}'}"
            for row in range(batch)
            for name in names
        ],
        hoverinfo="text",
        showlegend=False,
    )
    for column, name in enumerate(names):
        figure.add_annotation(
            text=name,
            x=column + 0.5,
            y=1,
            xref="x",
            yref="paper",
            yanchor="bottom",
            showarrow=False,
            yshift=2,
            font={"size": letters},
        )
    for row, label in enumerate(rows or []):
        figure.add_annotation(
            text=str(label),
            x=0,
            y=(row + 0.5) * tall,
            xref="paper",
            yref="y",
            xanchor="right",
            showarrow=False,
            font={"size": letters},
        )
    if scale:
        top, label = scale
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="markers",
            showlegend=False,
            hoverinfo="skip",
            marker={
                "color": [0],
                "cmin": 0,
                "cmax": top or 1,
                "colorscale": SCALE,
                "colorbar": {
                    "title": {"text": label, "side": "right"},
                    "thickness": 12,
                    "len": 1,
                    "outlinewidth": 0,
                },
                "showscale": True,
            },
        )
    lines = 1 + max(name.count("<br>") for name in names)
    across = round(len(names) * cell) + left + right
    told = _wrapped(note or "", (across + room - 20) / LETTER)
    top_margin = 12 + 17 * lines + (28 if title else 0) + (8 + 16 * len(told) if told else 0)
    figure.update_layout(
        template=TEMPLATE,
        title={
            "text": title or "",
            "subtitle": {"text": "<br>".join(told), "font": {"size": 12}},
            "y": 1,
            "yref": "container",
        }
        | {"yanchor": "top", "pad": {"t": 10, "l": 12}},
        width=across,
        height=round(batch * cell * tall) + top_margin + 8,
        margin={
            "l": left,
            "r": right,
            "t": top_margin,
            "b": 8,
            "autoexpand": False,
        },
        dragmode="pan",
    )
    figure.update_xaxes(visible=False, range=[0, len(names)], constrain="domain")
    figure.update_yaxes(visible=False, range=[batch * tall, 0], scaleanchor="x", constrain="domain")
    return figure


def _wrapped(note, letters):
    """A note, lines between <br>, as lines of at most so many letters, or 50 if that is more."""
    return [line for part in note.split("<br>") for line in textwrap.wrap(part, max(50, int(letters)))]
