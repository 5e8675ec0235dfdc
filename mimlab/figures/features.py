"""Features: components as colours, neighbours, CKA, rank and collapse, accuracy by layer."""

import textwrap

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mimlab.figures.pictures import colours as pixels
from mimlab.figures.pictures import numpy, panels
from mimlab.figures.style import COLOURS, SCALE, TEMPLATE

RIGHT, WRONG, PLAIN = (0, 114, 178), (213, 94, 0), (217, 217, 217)  # frames: blue, vermilion, grey
SYMBOLS = ["circle", "square", "diamond", "cross"]


def _name(layer):
    return str(layer)


def _short(title, most=76):
    return title if len(title) <= most else f"{title[: most - 1]}…"


def _and(note, about):
    """A note and, in a further line, which images these are."""
    return f"{note}<br>{about}" if about else note


def components(images, colours, share, foreground=None, second=None, title="", about=""):
    """Images (B, 3, H, W) beside their patches' first three components as red, green and blue, `colours` (B, h, w, 3).

    `share` (k,): their shares of the variance. `foreground` (B, h, w, 3): colours by the components of the foreground
    alone, black elsewhere, with the shares `second`; None: there is none. `about`, here and in the other figures: which
    images these are.
    """
    shown, percent = pixels(images), [round(100 * float(x)) for x in numpy(share)]
    size = shown.shape[1:3]
    columns = {"image": shown, "components": _cells(colours, size)}
    note = f"red, green, blue: {', '.join(map(str, percent))} % of the variance of all patches shown"
    if foreground is not None:
        columns["of the foreground"] = _cells(foreground, size)
        note += f"<br>foreground alone: {', '.join(str(round(100 * float(x))) for x in numpy(second))} %"
    figure = panels(columns, title=_short(f"Components of the patches: {title}"), note=_and(note, about))
    figure.update_layout(width=max(figure.layout.width, 560))
    figure.update_xaxes(constraintoward="left")
    return figure


def _cells(values, size):
    """Colours (B, h, w, 3) in [0, 1] over the pixels, nearest: uint8 (B, H, W, 3)."""
    values = numpy(values)
    rows, columns = (np.arange(side) * count // side for side, count in zip(size, values.shape[1:3], strict=True))
    return (values[:, rows[:, None], columns[None]].clip(0, 1) * 255).round().astype(np.uint8)


def neighbours(images, nearest, cosine, labels=None, classes=None, agreement=None, title="", about=""):
    """The first images and those most alike to each: images (M, 3, H, W); nearest and cosine (Q, k).

    With `labels` (M,) a neighbour's frame is blue where its label is the query's and vermilion where not. `agreement`
    {"top1", "chance"} in percent is told under the title.
    """
    shown, nearest, cosine = pixels(images), numpy(nearest), numpy(cosine)
    labels = None if labels is None else numpy(labels)
    edge = max(1, shown.shape[1] // 16)
    columns, said = {"query": _framed(shown[: len(nearest)], [PLAIN] * len(nearest), edge)}, []
    for k in range(nearest.shape[1]):
        same = [None if labels is None else labels[j] == labels[i] for i, j in enumerate(nearest[:, k])]
        frames = [PLAIN if s is None else RIGHT if s else WRONG for s in same]
        columns[f"{k + 1}."] = _framed(shown[nearest[:, k]], frames, edge)
    for i, row in enumerate(nearest):
        said.append(f"image {i}{_label(labels, classes, i)}")
        said += [
            f"image {j}{_label(labels, classes, j)}<br>cosine {c:.3f}" for j, c in zip(row, cosine[i], strict=True)
        ]
    note = "no labels, so right and wrong cannot be told"
    if labels is not None:
        note = "blue: the query's class, vermilion: another"
        if agreement:
            note += (
                f"<br>the nearest of all {len(images):,} images has the class of the query for "
                f"{agreement['top1']:.1f} % (chance {agreement['chance']:.1f} %)"
            )
    rows = None if labels is None else [_label(labels, classes, i, "")[:18] for i in range(len(nearest))]
    figure = panels(columns, title=_short(f"Nearest images: {title}"), note=_and(note, about), rows=rows)
    figure.data[0].hovertext = said
    figure.update_layout(width=max(figure.layout.width, 560))
    return figure


def _label(labels, classes, i, before="<br>"):
    if labels is None:
        return ""
    return f"{before}{classes[int(labels[i])] if classes else f'class {int(labels[i])}'}"


def _framed(pictures, frames, edge):
    """Pictures (B, H, W, 3) inside frames of a colour each and a white line."""
    b, height, width = pictures.shape[:3]
    found = np.full((b, height + 4 * edge, width + 4 * edge, 3), 255, np.uint8)
    for picture, frame, target in zip(pictures, frames, found, strict=True):
        target[...] = frame
        target[edge:-edge, edge:-edge] = 255
        target[2 * edge : -2 * edge, 2 * edge : -2 * edge] = picture
    return found


def similarity(values, rows, columns, first, second, count, about=""):
    """Linear CKA (L1, L2) between the layers `rows` of `first` and `columns` of `second`, over `count` images."""
    values = numpy(values)
    same = first == second
    figure = go.Figure(
        go.Heatmap(
            z=[[None if np.isnan(value) else float(value) for value in row] for row in values],
            x=[_name(layer) for layer in columns],
            y=[_name(layer) for layer in rows],
            zmin=0,
            zmax=1,
            colorscale=SCALE,
            colorbar={"title": {"text": "CKA", "side": "right"}, "thickness": 12, "outlinewidth": 0},
            text=[["–" if np.isnan(value) else f"{value:.2f}" for value in row] for row in values],
            texttemplate="%{text}" if max(values.shape) <= 14 else None,
            hovertemplate="layer %{y} and layer %{x}<br>CKA %{text}<extra></extra>",
        )
    )
    side = 44 if max(values.shape) <= 14 else 24
    note = _and(f"linear, unbiased over minibatches (Nguyen et al. 2021); {count:,} images", about)
    what = f"Similarity of layers: {first}" if same else "Similarity of layers between two models"
    figure.update_layout(
        template=TEMPLATE,
        title={"text": _short(what, 70), "subtitle": {"text": note, "font": {"size": 12}}},
        width=max(660, side * len(columns) + 190),
        height=max(320, side * len(rows) + 150) + 16,
        margin={"t": 92},
    )
    # a name is longer than a side
    sides = {name: "<br>".join(textwrap.wrap(f"layer of {_short(name, 44)}", 24)) for name in (first, second)}
    figure.update_xaxes(title="layer" if same else sides[second], type="category")
    figure.update_yaxes(title="layer" if same else sides[first], type="category")
    return figure


def ranks(rows, layers, title="", about=""):
    """Effective rank and signs of collapse by layer: `rows` is "images" or "patches" -> a dict for each layer.

    Each has "rank", "most" (the largest it could be), "rows", "cosine" and "spread", as `geometry` measures them.
    """
    names = [_name(layer) for layer in layers]
    heads = ["effective rank", "mean cosine of pairs", "spread (std × √D)"]
    figure = make_subplots(1, 3, subplot_titles=heads, horizontal_spacing=0.09)
    for k, (what, measured) in enumerate(rows.items()):
        for column, key in enumerate(("rank", "cosine", "spread"), 1):
            hover = "<br>of at most %{customdata[0]}, from %{customdata[1]:,} rows" if key == "rank" else ""
            figure.add_scatter(
                x=names,
                y=[_finite(row[key]) for row in measured],
                customdata=[[row["most"], row["rows"]] for row in measured],
                name=what,
                legendgroup=what,
                showlegend=column == 1,
                mode="lines+markers",
                line={"color": COLOURS[k], "dash": "solid" if k == 0 else "dot"},
                marker={"symbol": SYMBOLS[k], "size": 7},
                hovertemplate=f"layer %{{x}}<br>%{{y:.3f}}{hover}<extra>{what}</extra>",
                row=1,
                col=column,
            )
    figure.update_xaxes(title="layer", type="category", tickangle=0 if len(names) < 10 else None)
    figure.update_yaxes(rangemode="tozero", row=1)
    figure.update_yaxes(range=[0, None], row=1, col=1)
    note = f"collapse: rank 1, cosine 1, spread 0{about and '; ' + about}"
    figure.update_layout(
        template=TEMPLATE,
        title={"text": _short(f"Rank and collapse: {title}"), "subtitle": {"text": note, "font": {"size": 12}}},
        width=980,
        height=380,
        margin={"t": 106},
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.16, "yanchor": "bottom"},
    )
    return figure


def _finite(value):
    return float(value) if np.isfinite(value) else None


def accuracies(rows, layers, chance, title="", note=""):
    """Top-1 accuracy in percent by layer, `rows` is protocol -> one value a layer; `chance` is drawn dashed."""
    names = [_name(layer) for layer in layers]
    figure = go.Figure()
    for k, (what, values) in enumerate(rows.items()):
        figure.add_scatter(
            x=names,
            y=[_finite(value) for value in values],
            name=what,
            mode="lines+markers",
            line={"color": COLOURS[k]},
            marker={"symbol": SYMBOLS[k], "size": 8},
            hovertemplate="layer %{x}<br>%{y:.1f} %<extra>" + what + "</extra>",
        )
    figure.add_hline(
        y=chance,
        line={"color": "#666666", "width": 1.2, "dash": "dash"},
        annotation={"text": f"most frequent class ({chance:.1f} %)", "font": {"size": 11, "color": "#555555"}},
        annotation_position="bottom right",
    )
    lines = textwrap.wrap(note, 105)
    figure.update_layout(
        template=TEMPLATE,
        title={
            "text": _short(f"Accuracy by layer: {title}"),
            "subtitle": {"text": "<br>".join(lines), "font": {"size": 12}},
        },
        width=760,
        height=400 + 15 * len(lines),
        margin={"t": 62 + 15 * len(lines)},
    )
    figure.update_xaxes(title="layer", type="category")
    top = max([chance, *(value for values in rows.values() for value in values if np.isfinite(value))])
    figure.update_yaxes(title="top-1 accuracy (%)", range=[0, 1.1 * top])
    return figure
