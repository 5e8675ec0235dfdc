"""What a model looks at: maps by layer and head, DINO's mass, rollout, and numbers against depth.

Maps are weights (..., N) on patches in raster order. Each is coloured from its own smallest to its own largest weight,
as in DINO's visualize_attention.py, since heads differ by orders of magnitude.
"""

import colorsys

import numpy as np
import plotly.graph_objects as go
from plotly.colors import hex_to_rgb

from mimlab.errors import Refused
from mimlab.figures.pictures import cells, colours, numpy, painted, panels
from mimlab.figures.style import COLOURS, TEMPLATE, empty
from mimlab.looking.attention import mass

VEIL = 0.6  # of the map over the image
FAINT = 0.2  # of a head's largest weight: what is below has no colour
SLATE = np.array([92, 106, 138])  # what is outside the mass; seldom a colour of an image
MARKER = np.array([230, 30, 30], np.uint8)
MOST = 12  # layers in one figure


def palette(count):
    """A colour (3,) uint8 for each of `count` heads: the figures' own, more than six go once around the hues."""
    if count <= 6:
        return np.array([hex_to_rgb(colour) for colour in COLOURS[:count]], np.uint8)
    hues = [colorsys.hsv_to_rgb(k / count, 0.75, 0.9 if k % 2 else 0.65) for k in range(count)]
    return np.array([[round(255 * part) for part in rgb] for rgb in hues], np.uint8)


def shares(maps):
    """Maps (..., N) from 0, a map's smallest weight, to 1, its largest; a map without contrast is 0."""
    maps = numpy(maps).astype(np.float64)
    low, high = maps.min(-1, keepdims=True), maps.max(-1, keepdims=True)
    return np.divide(maps - low, high - low, out=np.zeros_like(maps), where=high > low)


def overlay(images, maps, grid):
    """Maps (B, N) over their images (B, 3, H, W): uint8 (B, H, W, 3)."""
    pixels = colours(images)
    drawn = painted(cells(shares(maps), grid, pixels.shape[1:3]), 1)
    return ((1 - VEIL) * pixels + VEIL * drawn).round().astype(np.uint8)


def in_colours(images, maps, grid):
    """All heads of each image in one picture, a colour a head by strength: uint8 (B, H, W, 3) of maps (B, heads, N).

    A head's weights from its smallest to its largest, below a fifth dropped, the square root as opacity; strong
    colours win. Source: Caron et al. 2021, figure 3, as the authors describe it in facebookresearch/dino, issue 92.
    """
    pixels, strength = colours(images), shares(maps)  # (B, heads, N)
    strength = np.sqrt(np.where(strength < FAINT, 0, strength))
    total = strength.sum(1, keepdims=True)
    mixed = np.divide(strength, total, out=np.zeros_like(strength), where=total > 0)
    colour = np.einsum("bhn,hc->bnc", mixed, palette(strength.shape[1]).astype(float))  # (B, N, 3)
    size, opacity = pixels.shape[1:3], strength.max(1)
    spread = np.stack([cells(colour[..., part], grid, size) for part in range(3)], -1)
    opacity = cells(opacity, grid, size)[..., None] * 0.85
    grey = pixels.mean(-1, keepdims=True) * 0.6  # of the image only light and dark remain, so that hues are the heads'
    return ((1 - opacity) * grey + opacity * spread).round().astype(np.uint8)


def kept(images, maps, grid, threshold):
    """Images whose patches outside the mass of maps (B, N) are veiled: uint8 (B, H, W, 3)."""
    pixels = colours(images)
    inside = cells(numpy(mass(numpy(maps), threshold)), grid, pixels.shape[1:3])[..., None]
    return np.where(inside, pixels, (0.15 * pixels + 0.85 * SLATE).astype(np.uint8))


def marked(image, query, grid):
    """A picture (H, W, 3) uint8 with a red frame around the patch `query`; as it is for "cls"."""
    if query == "cls":
        return image
    (height, width), (row, column) = image.shape[:2], query
    top, bottom = row * height // grid[0], (row + 1) * height // grid[0]
    left, right = column * width // grid[1], (column + 1) * width // grid[1]
    thick, framed = max(1, height // 112), image.copy()
    for edge in (np.s_[top : top + thick, left:right], np.s_[bottom - thick : bottom, left:right],
                 np.s_[top:bottom, left : left + thick], np.s_[top:bottom, right - thick : right]):  # fmt: skip
        framed[edge] = MARKER
    return framed


def _asked(query):
    return "CLS" if query == "cls" else f"the patch in row {query[0]}, column {query[1]}"


def _noted(*parts):
    """The note under a title, of the parts that say something."""
    return "; ".join(part for part in parts if part)


def heads(image, maps, grid, query="cls", title="Attention by layer and head", about=""):
    """One image (3, H, W): a row a layer, a column a head, of maps (L, heads, N); the image comes first in each row.

    Of more than `MOST` layers that many are shown, evenly spread with the first and the last.
    """
    maps = numpy(maps)
    (layers, many, _), chosen = maps.shape, np.arange(len(maps))
    if layers > MOST:
        chosen = np.linspace(0, layers - 1, MOST).round().astype(int)
    first = _resized(marked(colours(numpy(image)[None])[0], query, grid)[None])
    columns = {"image": np.repeat(first, len(chosen), 0)}
    columns |= {f"head {head}": _drawn(maps[chosen, head], grid) for head in range(many)}
    if many > 1:
        columns["mean"] = _drawn(maps[chosen].mean(1), grid)
    note = f"weights that {_asked(query)} gives to patches, each map from its smallest (dark) to its largest (bright)"
    return panels(columns, title, _noted(note, about), [f"layer {layer}" for layer in chosen])


def _drawn(maps, grid):
    """Maps (L, N) alone, a pixel a patch: uint8 (L, h, w, 3)."""
    return painted(shares(maps).reshape(-1, *grid), 1)


def _resized(pictures, longest=112):
    from PIL import Image

    share = min(1, longest / max(pictures.shape[1:3]))
    size = [max(1, round(side * share)) for side in pictures.shape[2:0:-1]]
    return np.stack([np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BOX)) for one in pictures])


def gallery(images, maps, grid, query="cls", title="Attention", about=""):
    """Each image (B, 3, H, W), its mean map over the heads, all heads in colours, and each head, of maps (B, heads, N).

    `about`, here and in the other figures: which images these are, for the note.
    """
    maps, many = numpy(maps), maps.shape[1]
    columns = {"image": np.stack([marked(one, query, grid) for one in colours(images)])}
    columns["mean"] = overlay(images, maps.mean(1), grid)
    if many > 1:
        columns["heads in colours"] = in_colours(images, maps, grid)
        columns |= {_named(head, many): overlay(images, maps[:, head], grid) for head in range(many)}
    return panels(columns, title, _noted(f"of {_asked(query)}", about))


def _named(head, many):
    """A head's title with a dot of its colour."""
    red, green, blue = palette(many)[head]
    return f'<span style="color:rgb({red},{green},{blue})">●</span> head {head}'


def masses(images, maps, grid, threshold, query="cls", about=""):
    """DINO's figure: for each image and head the patches that hold `threshold` of the attention, of maps (B, heads, N)."""
    maps, many = numpy(maps), maps.shape[1]
    columns = {"image": np.stack([marked(one, query, grid) for one in colours(images)])}
    columns |= {_named(head, many): kept(images, maps[:, head], grid, threshold) for head in range(many)}
    note = f"the fewest patches that hold {threshold:.0%} of what {_asked(query)} gives to patches"
    return panels(columns, "Attention mass", _noted(note, about))


def overlays(images, maps, grid, title, note=None, query="cls", about=""):
    """Each image beside overlays of several maps: `maps` is title -> (B, N)."""
    if not maps:
        raise Refused("maps: an empty dict shows nothing; give title -> weights (B, N)")
    columns = {"image": np.stack([marked(one, query, grid) for one in colours(images)])}
    columns |= {name: overlay(images, one, grid) for name, one in maps.items()}
    return panels(columns, title, _noted(note, about))


def beside(models, about=""):
    """Two models on the same images: `models` is title -> (images (B, 3, H, W), maps (B, N), grid)."""
    size = max((numpy(images).shape[2:] for images, _, _ in models.values()), key=max)
    columns = {}
    for title, (images, maps, grid) in models.items():
        columns |= {"image": colours(images)} if not columns else {}
        columns[_broken(title)] = overlay(images, maps, grid)
    columns = {
        name: pictures if pictures.shape[1:3] == size else _enlarged(pictures, size)
        for name, pictures in columns.items()
    }
    return panels(columns, "The same images", _noted("mean over the heads", about))


def _enlarged(pictures, size):
    from PIL import Image

    return np.stack([np.asarray(Image.fromarray(one).resize(size[::-1], Image.Resampling.NEAREST)) for one in pictures])


def _broken(title):
    """A long title in lines of at most 18 letters."""
    return "<br>".join(title[at : at + 18] for at in range(0, min(len(title), 72), 18))


def by_depth(values, title, label, measured=None, about=""):
    """One dot a head against depth, a line through the mean, an area from the least to the most: title -> (L, heads)."""
    if not values:
        return empty("no model to show", title)
    figure = go.Figure()
    for k, (name, found) in enumerate(values.items()):
        found, colour = numpy(found).astype(float), COLOURS[k % len(COLOURS)]
        layers, many = np.arange(len(found)), found.shape[1]
        red, green, blue = hex_to_rgb(colour)
        figure.add_scatter(
            x=[*layers, *layers[::-1]],
            y=[*found.max(1), *found.min(1)[::-1]],
            fill="toself",
            fillcolor=f"rgba({red},{green},{blue},0.12)",
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_scatter(
            x=layers,
            y=found.mean(1),
            mode="lines",
            name=name,
            line={"color": colour, "width": 2},
            hovertemplate=f"layer %{{x}}<br>mean of the heads %{{y:.4g}} {label}<extra>{name}</extra>",
        )
        figure.add_scatter(
            x=np.repeat(layers, many),
            y=found.ravel(),
            mode="markers",
            customdata=np.tile(np.arange(many), len(found)),
            marker={"color": colour, "size": 7, "opacity": 0.75, "line": {"color": "white", "width": 0.5}},
            hovertemplate=f"layer %{{x}}, head %{{customdata}}<br>%{{y:.4g}} {label}<extra>{name}</extra>",
            showlegend=False,
        )
    said = _noted("one dot a head, the line their mean", f"over {measured} images" if measured else "", about)
    figure.update_layout(
        template=TEMPLATE,
        title={"text": title, "subtitle": {"text": said, "font": {"size": 12}}},
        width=760,
        height=400,
        margin={"t": 76},
        showlegend=len(values) > 1,
        legend={"orientation": "h", "y": -0.22},
    )
    figure.update_xaxes(title="layer", dtick=max(1, max(len(v) for v in values.values()) // 12))
    return figure.update_yaxes(title=label, rangemode="tozero")


def channels(weights, title="Cross-covariance attention", about=""):
    """Channels that an XCiT's blocks mix: (L, heads, d, d), rows are outputs; each map from 0 to its largest weight."""
    weights = numpy(weights)
    tops = weights.max((-1, -2), keepdims=True)
    drawn = weights / np.where(tops > 0, tops, 1)
    columns = {f"head {head}": painted(drawn[:, head], 1) for head in range(weights.shape[1])}
    note = f"softmax weights between the {weights.shape[-1]} channels of a head; each map from 0 to its largest weight"
    return panels(columns, title, _noted(note, about), [f"layer {layer}" for layer in range(len(weights))])
