"""Vocabularies: what their tokens look like, how evenly they are used, and what is left of an image."""

import math

import numpy as np
import plotly.graph_objects as go

from mimlab.errors import Refused
from mimlab.figures.pictures import colours, numpy, panels, pngs
from mimlab.figures.style import COLOURS, TEMPLATE, heading
from mimlab.figures.tokens import token_map

ACROSS, CELL, GAP = 16, 44, 4  # tokens in a row; pixels on screen of one, and between two
DASHES = ("solid", "dash", "dot", "dashdot")


def maps(images, ids, grid, vocab, about=""):
    """Images in the top row, and below it the tokens of each tokenizer, coloured by number and named under the pointer.

    `images` (B, 3, H, W) in [0, 1]; `ids` name -> (B, N) and `vocab` name -> size. A colour stands for one token
    within a row only: two tokenizers share no numbers. How many different ones there are stands above each map.
    `about`, here and in the other figures: which images these are, and the seed.
    """
    (h, w), batch = grid, len(images)
    cell = max(5, min(22, 168 // max(h, w)))
    step, band = w + 1.5, h + 1.8  # from map to map, in patches
    figure = go.Figure()
    for k, uri in enumerate(pngs(list(colours(images)))):
        figure.add_layout_image(
            source=uri, x=k * step - 0.5, y=-0.5, sizex=w, sizey=h, xref="x", yref="y", sizing="stretch", layer="above"
        )
    labels = {"image": 0.0}
    for row, (name, some) in enumerate(ids.items(), 1):
        some, labels[name] = numpy(some), row * band
        for k in range(batch):
            trace = token_map(some[k : k + 1], grid, vocab[name]).data[0]
            trace.update(x0=k * step, y0=row * band, dx=1, dy=1, xgap=0.5, ygap=0.5)
            figure.add_trace(trace)
            figure.add_annotation(
                text=f"{len(np.unique(some[k]))} of {h * w}", x=k * step + (w - 1) / 2, y=row * band - 0.5,
                yanchor="bottom", showarrow=False, font={"size": 10},
            )  # fmt: skip
    for name, at in labels.items():
        figure.add_annotation(
            text=name, x=-1, y=at + (h - 1) / 2, xanchor="right", showarrow=False, textangle=-90, font={"size": 12}
        )
    wide, tall = batch * step + 1.5, (len(ids) + 1) * band
    figure.update_layout(
        template=TEMPLATE,
        title=heading("The same images as tokens", about),
        width=max(340, round(cell * wide) + 16),
        height=round(cell * tall) + 72,
        margin={"l": 8, "r": 8, "t": 60, "b": 8},
    )
    figure.update_xaxes(visible=False, range=[-3.5, wide - 3.5], constrain="domain")
    return figure.update_yaxes(visible=False, range=[tall - 1, -1], scaleanchor="x", constrain="domain")


def galleries(pictures, counts, ids, most=2 * ACROSS, about=""):
    """`gallery` of several tokenizers below each other; name -> pictures (S, 3, P, P), counts (K,) of the whole
    vocabulary, and ids (S,) of the pictures, of which the first `most` are shown.
    """
    figure, top, rows = go.Figure(), 0.0, 0
    for name, all_counts in counts.items():
        shown = numpy(ids[name])[:most]
        used = numpy(all_counts)[shown]
        one = gallery(numpy(pictures[name])[:most], used, shown)
        picture, marks = one.layout.images[0], one.data[0]
        figure.add_layout_image(picture.update(y=picture.y + top))
        marks.y = [y + top for y in marks.y]
        figure.add_trace(marks)
        share = used.sum() / max(numpy(all_counts).sum(), 1)
        said = f"<b>{name}</b>: the {len(shown)} most used tokens are {share:.0%} of all patches"
        figure.add_annotation(text=said, x=0, y=top - 0.15, xanchor="left", yanchor="bottom", showarrow=False)
        down = math.ceil(len(shown) / ACROSS)
        top, rows = top + down + 0.9, rows + down + 0.9
    figure.update_layout(
        template=TEMPLATE,
        title=heading("What the most used tokens look like", about),
        width=ACROSS * CELL + 24,
        height=round(rows * CELL) + 76,
        margin={"l": 12, "r": 12, "t": 60, "b": 4},
        dragmode="pan",
    )
    figure.update_xaxes(visible=False, range=[-0.1, ACROSS], constrain="domain")
    return figure.update_yaxes(visible=False, range=[rows - 0.9, -0.9], scaleanchor="x", constrain="domain")


def gallery(pictures, counts, ids=None, title=None):
    """Pictures of tokens, the most used first, each with its number and share under the pointer.

    `pictures` (K, H, W, 3) or (K, 3, H, W), float [0, 1] or uint8; `counts` (K,) how often each was used; `ids` (K,)
    their numbers, 0 to K - 1 where None. Shares are of these tokens together. Unused ones come last.
    """
    pictures, counts = numpy(pictures), _counts(counts, "counts")
    if pictures.ndim == 4 and pictures.shape[1] != 3 and pictures.shape[3] == 3:
        pictures = pictures.transpose(0, 3, 1, 2)
    tiles, ids = colours(pictures, "pictures"), np.arange(len(pictures)) if ids is None else numpy(ids)  # (K, H, W, 3)
    if not len(tiles) == len(counts) == len(ids):
        raise Refused(f"{len(tiles)} pictures, {len(counts)} counts and {len(ids)} ids; there must be equally many")
    order = np.argsort(-counts, kind="stable")
    across = min(ACROSS, len(order))
    down = math.ceil(len(order) / across)
    sheet, edge = _sheet(tiles[order], across, down)
    share = counts / max(counts.sum(), 1)
    figure = go.Figure()
    figure.add_layout_image(
        source=pngs([sheet])[0], x=-edge, y=-edge, sizex=across + edge, sizey=down + edge, xref="x", yref="y",
        sizing="stretch", layer="above",
    )  # fmt: skip
    figure.add_scatter(  # nothing to see: it carries the hover texts
        x=[k % across + (1 - edge) / 2 for k in range(len(order))],
        y=[k // across + (1 - edge) / 2 for k in range(len(order))],
        mode="markers",
        marker={"size": CELL * 0.8, "opacity": 0, "symbol": "square"},
        hovertext=[f"token {ids[k]}<br>{counts[k]:,.0f} times, {100 * share[k]:.2g} %<br>rank {r + 1}" for r, k in enumerate(order)],
        hoverinfo="text",
        showlegend=False,
    )  # fmt: skip
    figure.update_layout(
        template=TEMPLATE,
        title=title or f"{len(order)} tokens, the most used first",
        width=across * CELL + 24,
        height=down * CELL + 72,
        margin={"l": 12, "r": 12, "t": 56, "b": 12},
        dragmode="pan",
    )
    figure.update_xaxes(visible=False, range=[-edge, across], constrain="domain")
    return figure.update_yaxes(visible=False, range=[down, -edge], scaleanchor="x", constrain="domain")


def _sheet(tiles, across, down):
    """Tiles (K, H, W, 3) in rows on grey with gaps, each enlarged by a whole factor; and the gap as a share of a cell."""
    factor = max(1, CELL // max(tiles.shape[1:3]))
    tiles = tiles.repeat(factor, axis=1).repeat(factor, axis=2)
    height, width = tiles.shape[1] + GAP, tiles.shape[2] + GAP
    sheet = np.full((down * height + GAP, across * width + GAP, 3), 217, np.uint8)  # white tokens would vanish on white
    for k, tile in enumerate(tiles):
        y, x = k // across * height + GAP, k % across * width + GAP
        sheet[y : y + height - GAP, x : x + width - GAP] = tile
    return sheet, GAP / width


def usage(counts, about=""):
    """Share of each token against its rank, both logarithmic: a flat line uses the vocabulary evenly.

    `counts` (K,) how often each token of the vocabulary was used, or name -> counts for several. Entropy and
    perplexity (2 to the entropy: as many tokens in even use would say as much) stand in the title, or the legend.
    """
    many = counts if isinstance(counts, dict) else {"": counts}
    if not many:
        raise Refused("counts: an empty dict shows nothing; give name -> counts")
    figure, said = go.Figure(), {}
    for k, (name, values) in enumerate(many.items()):
        values = _counts(values, f"counts {name}".strip())
        share = np.sort(values[values > 0])[::-1] / values.sum()
        entropy = -(share * np.log2(share)).sum() + 0.0
        said[name] = f"{len(share):,} of {len(values):,} in use, {entropy:.2f} bits, perplexity {2**entropy:,.0f}"
        ranks = _thinned(len(share))
        figure.add_scatter(
            x=ranks + 1,
            y=share[ranks],
            mode="lines+markers" if len(ranks) < 30 else "lines",
            name=f"{name}<br>{said[name]}",
            line={"color": COLOURS[k % len(COLOURS)], "dash": DASHES[k // len(COLOURS) % len(DASHES)], "width": 1.8},
            hovertemplate=f"{name}<br>rank %{{x}}<br>%{{y:.3%}} of the patches<extra></extra>".removeprefix("<br>"),
        )
    figure.update_layout(
        template=TEMPLATE,
        title=heading(f"Use of the vocabulary{'' if isinstance(counts, dict) else ': ' + said['']}", about),
        width=900 if isinstance(counts, dict) else 720,
        height=394,
        margin_t=64,
        showlegend=isinstance(counts, dict),
    )
    figure.update_xaxes(title="rank of the token", type="log", dtick=1)
    return figure.update_yaxes(title="share of the patches", type="log", tickformat="~%", dtick=1)


def _thinned(count, most=400):
    """At most about `most` ranks, evenly on a logarithmic axis, with both ends."""
    return np.unique(np.geomspace(1, count, most).round().astype(int)) - 1


def roundtrip(images, decoded, about=""):
    """Each image beside what every tokenizer makes of it; the PSNR over these images stands above each column.

    `images` (B, 3, H, W) in [0, 1]; `decoded` is name -> pictures of the same shape.
    """
    original, columns = colours(images), {"image": colours(images)}
    for name, pictures in decoded.items():
        tiles = colours(pictures, name)
        if tiles.shape != original.shape:
            raise Refused(f"{name}: {numpy(pictures).shape} are not pictures of the {numpy(images).shape} images")
        error = np.square((tiles.astype(float) - original) / 255).mean()
        columns[f"{name}<br>{-10 * math.log10(max(error, 1e-12)):.1f} dB"] = tiles
    return panels(columns, title="Round trips", note="; ".join(filter(None, ["PSNR over these images", about])))


def _counts(values, name):
    values = numpy(values).astype(float)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all() or (values < 0).any() or not values.sum():
        raise Refused(f"{name}: shape {values.shape} with sum {values.sum():g}; give (K,) counts from 0, not all 0")
    return values
