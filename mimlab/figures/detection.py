"""Objects on images: boxes, masks and classes, true beside found; precision against recall; average precision as a table."""

import math

import numpy as np
import plotly.graph_objects as go

from mimlab.errors import Refused
from mimlab.figures.pictures import colours, numpy, pngs
from mimlab.figures.style import COLOURS, SCALE, TEMPLATE
from mimlab.figures.tables import table

SIDE = 250  # px on screen, the width of one picture
TINT = 0.45  # opacity of a mask
LEGEND = 12  # more classes than this are named on the pictures only
NUMBERS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def colour(code, count):
    """The colour "#rrggbb" of class `code` (from 1) of `count`: the palette, and where that is too short the colour scale."""
    if count <= len(COLOURS):
        return COLOURS[code - 1]
    from plotly.colors import sample_colorscale, unlabel_rgb

    (found,) = sample_colorscale(SCALE, [0.3 + 0.7 * ((code - 1) * 0.618034 % 1)])  # neighbours far apart, none dark
    return "#{:02x}{:02x}{:02x}".format(*(round(v) for v in unlabel_rgb(found)))


def objects(pictures, detections, classes, least=0.5, title="Objects"):
    """A row an image: what is there, and beside it what was found with a score of `least` or more.

    pictures: `Picture` each (see `mimlab.detection.data`); detections: a dict each of boxes (K, 4), labels (K,), scores (K,), masks
    (K, H, W) bool; or None for the truth alone, two images a row. A click in the legend hides a class.
    """
    if not len(pictures):
        raise Refused("pictures: none to show; give at least one")
    if detections is None:
        shown = [(None, picture.image, _of(picture)) for picture in pictures]
        columns = min(4, len(shown))
    else:
        shown, columns = [], 2
        for picture, one in zip(pictures, detections, strict=True):
            kept = numpy(one["scores"]) >= least
            found = {name: numpy(one[name])[kept] for name in ("boxes", "labels", "scores", "masks")}
            shown += [("true", picture.image, _of(picture)), ("found", picture.image, found)]
    return _laid_out(
        shown, columns, classes, title, [] if detections is None else ["what is there", f"found (score ≥ {least:g})"]
    )


def segments(pictures, found, classes, title="Classes of pixels"):
    """A row an image: the image, its true classes, and those found; `found`: int (H, W) each, 0 background."""
    if not len(pictures):
        raise Refused("pictures: none to show; give at least one")
    shown = []
    for picture, labels in zip(pictures, found, strict=True):
        shown.append((None, picture.image, _of(picture, 0)))
        for values in (picture.semantic(), labels):
            values = numpy(values)
            codes = [code for code in range(1, len(classes) + 1) if (values == code).any()]
            masks = np.array([values == code for code in codes]).reshape(-1, *values.shape)
            shown.append((None, picture.image, {"boxes": np.zeros((0, 4)), "labels": np.array(codes), "masks": masks}))
    return _laid_out(shown, 3, classes, title, ["image", "what is there", "found"])


def precision_recall(results, kind="mask", title=None):
    """Precision against recall at IoU 0.5 and 0.75, the mean over classes; `results` is label -> a stored result.

    kind: "box" or "mask".
    """
    if not results:
        raise Refused("results: an empty dict shows nothing; give label -> result")
    figure = go.Figure()
    for number, (label, result) in enumerate(results.items()):
        for (threshold, precision), dash in zip(result["curves"][kind].items(), ("solid", "dot"), strict=False):
            figure.add_scatter(
                x=np.linspace(0, 1, len(precision)),
                y=precision,
                name=f"{label}, IoU {threshold}",
                line={"color": COLOURS[number % len(COLOURS)], "dash": dash},
                hovertemplate="recall %{x:.2f}<br>precision %{y:.3f}<extra></extra>",
            )
    figure.update_layout(
        template=TEMPLATE, width=620, height=380, title=title or f"{kind}: precision against recall", margin_t=44,
        xaxis={"title": "recall", "range": [0, 1]}, yaxis={"title": "precision", "range": [0, 1.02]},
    )  # fmt: skip
    return figure


def precision_table(results, title=None):
    """COCO's twelve numbers of one or many results, percent; a dash where there is no such object."""
    rows = []
    for label, result in results.items():
        for kind in ("box", "mask"):
            rows.append(
                {"": label, "of": kind}
                | {_named(name): _percent(result["numbers"][f"{kind}_{name}"]) for name in NUMBERS}
            )
    return table(rows, title=title)


def class_bars(result, title=None):
    """Intersection over union of each class of a segmentation's result."""
    each = {name: line[0] for name, line in result["curves"]["iou"].items()}
    order = sorted(each, key=each.get)
    figure = go.Figure(go.Bar(x=[each[name] for name in order], y=order, orientation="h", marker_color=COLOURS[0]))
    figure.update_layout(
        template=TEMPLATE, width=620, height=90 + 24 * len(order), title=title or f"mIoU {result['numbers']['miou']:.1f} %", margin_t=44,
        xaxis={"title": "intersection over union, %", "range": [0, 100]},
    )  # fmt: skip
    return figure


def _of(picture, count=None):
    """Boxes, labels and masks of a `Picture`, or of its first `count` objects."""
    return {name: numpy(getattr(picture, name))[:count] for name in ("boxes", "labels", "masks")}


def _named(name):
    first, _, size = name.partition("_")
    return first.upper() + (f" {size}" if size else "")


def _percent(value):
    return None if value is None else round(value, 1)


def _tinted(image, found, count):
    """uint8 (H, W, 3) of an image with its masks in the colours of their classes, dark at their edges."""
    pixels = colours(numpy(image)[None])[0].astype(np.float32)
    for label, mask in zip(found["labels"], found["masks"], strict=True):
        mask = np.asarray(mask, bool)
        paint = np.array([int(colour(int(label), count)[k : k + 2], 16) for k in (1, 3, 5)], np.float32)
        pixels[mask] = (1 - TINT) * pixels[mask] + TINT * paint
    return pixels.round().astype(np.uint8)


def _laid_out(shown, columns, classes, title, heads):
    """Pictures in rows of `columns`, a picture's width being 1; boxes of a class are one trace."""
    rows = math.ceil(len(shown) / columns)
    tall = [max(im.shape[1] / im.shape[2] for _, im, _ in shown[r * columns : (r + 1) * columns]) for r in range(rows)]
    tops = np.cumsum([0, *(height + 0.03 for height in tall)])
    figure, lines, texts = go.Figure(), {}, []
    uris = pngs([_tinted(image, found, len(classes)) for _, image, found in shown])
    named = len(classes) > LEGEND or any("scores" in found for _, _, found in shown)
    for k, (_, image, found) in enumerate(shown):
        row, column = divmod(k, columns)
        width = image.shape[2]
        figure.add_layout_image(
            source=uris[k], x=column + 0.01, y=tops[row], sizex=0.98, sizey=0.98 * image.shape[1] / width, xref="x", yref="y",
            sizing="stretch", layer="below",
        )  # fmt: skip
        for j, (label, edges) in enumerate(zip(found["labels"], found["boxes"], strict=False)):
            left, top, right, bottom = (0.98 * float(v) / width for v in edges)
            left, right, top, bottom = left + column + 0.01, right + column + 0.01, top + tops[row], bottom + tops[row]
            name = str(classes[int(label) - 1])
            said = f"{name} {float(found['scores'][j]):.2f}" if "scores" in found else name
            lines.setdefault(int(label), []).append(
                ((left, right, right, left, left, None), (top, top, bottom, bottom, top, None), said)
            )
            if named:
                texts.append((left, top, said, int(label)))
        for label in found["labels"] if not len(found["boxes"]) else ():
            lines.setdefault(int(label), [])
    for label, some in sorted(lines.items()):
        figure.add_scatter(
            x=[x for one in some for x in one[0]] or [None],
            y=[y for one in some for y in one[1]] or [None],
            text=[one[2] for one in some for _ in one[0]],
            mode="lines",
            name=str(classes[label - 1]),
            line={"color": colour(label, len(classes)), "width": 1.6},
            hoverinfo="text",
            legendgroup=str(label),
            showlegend=len(classes) <= LEGEND,
        )
    for label in sorted({text[3] for text in texts}):
        some = [text for text in texts if text[3] == label]
        figure.add_scatter(
            x=[text[0] for text in some], y=[text[1] for text in some], text=[text[2] for text in some], mode="text",
            textposition="top right", textfont={"size": 9, "color": "white", "shadow": "0 0 3px black, 0 0 2px black, 0 0 2px black"},
            hoverinfo="skip", legendgroup=str(label), showlegend=False,
        )  # fmt: skip
    for column, head in enumerate(heads):
        figure.add_annotation(text=head, x=column + 0.5, y=1, xref="x", yref="paper", yanchor="bottom", showarrow=False)
    above, legend = 26 + (26 if title else 0), 150 if len(classes) <= LEGEND else 8
    figure.update_layout(
        template=TEMPLATE, title={"text": title or "", "y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 10, "l": 12}},
        width=columns * SIDE + 8 + legend, height=round(tops[-1] * SIDE) + above + 8, dragmode="pan", hovermode="closest",
        margin={"l": 8, "r": legend, "t": above, "b": 8, "autoexpand": False},
    )  # fmt: skip
    figure.update_xaxes(visible=False, range=[0, columns], constrain="domain")
    figure.update_yaxes(visible=False, range=[tops[-1], 0], scaleanchor="x", constrain="domain")
    return figure
