"""What masking strategies hide: example by example, on average, in numbers, and side by side."""

import math

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mimlab.errors import Refused, shown
from mimlab.figures.pictures import cells, colours, numpy, panels
from mimlab.figures.style import COLOURS, SCALE, TEMPLATE, heading
from mimlab.looking import statistics

ABREAST = 5  # strategies side by side; more of them go on in further rows
WIDE = 158  # px of a heat map
TITLE = 44  # px of a title with a line under it
SMALLER = 0.7  # size of a picture where the strategies stand below each other
DASHES = ["solid", "dash", "dot"]  # with seven colours, 21 lines that differ
LEAST = 1e-2  # of the power: what is below lies on the lower border of a logarithmic axis
SAID = ("ratio", "hidden")  # the same for all strategies that are compared, so no panel


def _masks(masks, grid):
    """The dict of masks as bool NumPy arrays (B, N), or Refused."""
    if not masks:
        raise Refused("masks: an empty dict shows nothing; give title -> bool (B, N)")
    grids = {title: statistics.on_grid(mask, grid, f"masks[{shown(title)}]") for title, mask in masks.items()}
    return {title: found.reshape(len(found), -1) for title, found in grids.items()}


def hide(images, mask, grid, colour=0.5):
    """Images with the hidden patches filled grey: NumPy (B, 3, H, W), of the type that came in.

    images (B, 3, H, W) float [0, 1] or uint8, mask bool (B, N), `colour` in [0, 1].
    """
    images = numpy(images)
    if len(images) != len(mask):
        raise Refused(f"mask: {len(mask)} rows for {len(images)} images; give one row an image")
    fill = round(colour * 255) if images.dtype == np.uint8 else colour
    hidden = cells(mask, grid, images.shape[2:])[:, None].astype(bool)  # (B, 1, H, W)
    return np.where(hidden, np.asarray(fill, images.dtype), images)


def _beside(images, columns, title, about):
    """Each image, then its version in each column; more than `ABREAST` of them go below each other instead.

    `columns` is title -> uint8 (B, H, W, 3), all of one size. Pictures below each other are smaller.
    """
    columns = {"image": images} | columns
    if len(columns) <= ABREAST + 1:
        return panels(columns, title, about)
    turned = np.stack(list(columns.values()), 1)  # (B, strategies + 1, H, W, 3)
    figure = panels({f"image {k}": pictures for k, pictures in enumerate(turned)}, title, about, rows=list(columns))
    layout, left = figure.layout, 14 + 7 * max(len(line) for title in columns for line in title.split("<br>"))
    width = layout.width - layout.margin.l - layout.margin.r
    height = layout.height - layout.margin.t - layout.margin.b
    share = max(SMALLER, 40 * len(columns) / height)  # two lines fit beside a flat picture
    return figure.update_layout(
        width=round(share * width) + left + layout.margin.r,
        height=round(share * height) + layout.margin.t + layout.margin.b,
        margin_l=left,
    )


def gallery(images, masks, grid, title="What each strategy hides", about=""):
    """Each image, then its visible part under each strategy; `masks` is name -> bool (B, N).

    `about`, here and in the other figures: which images or masks these are, and their seed.
    """
    found = {
        f"{name}<br>{mask.mean():.0%} hidden": colours(hide(images, mask, grid))
        for name, mask in _masks(masks, grid).items()
    }
    return _beside(colours(images), found, title, about)


def filled(images, fills, about="", title="What the best linear prediction fills in"):
    """Each image, then what is filled in for each strategy; `fills` is name -> images (B, 3, H, W), as `images`."""
    if not fills:
        raise Refused("fills: an empty dict shows nothing; give name -> images (B, 3, H, W)")
    original = colours(images)
    found = {name: colours(fill, f"fills[{shown(name)}]") for name, fill in fills.items()}
    for name, fill in found.items():
        if fill.shape != original.shape:
            raise Refused(
                f"fills[{shown(name)}]: {fill.shape[:3]} (B, H, W) differs from the images' {original.shape[:3]}"
            )
    return _beside(original, found, title, about)


def coverage(masks, grid, about=""):
    """How often each cell is hidden, one heat map a strategy, all on the scale from 0 to 1.

    `masks` is title -> bool (many, N). Titles give the count that each mask hides and the mean over all.
    """
    masks, (h, w) = _masks(masks, grid), grid
    titles = []
    for title, mask in masks.items():
        least, most = mask.sum(1).min(), mask.sum(1).max()
        exact = f"{least} of {h * w} in every mask" if least == most else f"{least} to {most} of {h * w}"
        titles.append(f"{title}<br>{exact}<br>mean {mask.mean():.3f}")
    across, head = min(len(masks), ABREAST), 64  # px above each map for its three lines
    down, tall = math.ceil(len(masks) / across), round(min(max(WIDE * h / w, 96), 2 * WIDE))
    height = down * (tall + head)
    figure = make_subplots(
        down,
        across,
        subplot_titles=titles,
        horizontal_spacing=0.12 / across,
        vertical_spacing=head / (height - head) if down > 1 else 0,
    )
    for k, mask in enumerate(masks.values()):
        place = {"row": k // across + 1, "col": k % across + 1}
        figure.add_heatmap(
            z=statistics.often(mask, grid).round(4),
            coloraxis="coloraxis",
            hovertemplate="row %{y}, column %{x}<br>hidden in %{z:.1%}<extra></extra>",
            **place,
        )
        figure.update_yaxes(scaleanchor=f"x{k + 1 if k else ''}", **place)
    figure.update_xaxes(visible=False, constrain="domain")
    figure.update_yaxes(visible=False, autorange="reversed", constrain="domain", constraintoward="top")
    bar = {
        "title": {"text": "share of masks", "side": "right"},
        "thickness": 12,
        "tickformat": ".0%",
        "lenmode": "pixels",
        "len": min(height - head, 200),
    }
    figure.update_layout(
        template=TEMPLATE,
        title=heading("How often each patch is hidden", about),
        width=round(WIDE * 1.12) * across + 110,
        height=height + 16 + TITLE,
        margin={"l": 8, "r": 90, "t": head + 8 + TITLE, "b": 8},
        coloraxis={"cmin": 0, "cmax": 1, "colorscale": SCALE, "colorbar": bar},
    )
    return figure.update_annotations(font={"size": 12})


def spectra(found, grid, about=""):
    """Power of the masks against spatial frequency, one line a strategy, beside random masks at 1.

    `found` is title -> (frequencies in cycles per patch, power), as `statistics.spectrum` gives them.
    """
    if not found:
        raise Refused("found: an empty dict shows nothing; give title -> (frequencies, power)")
    figure = go.Figure()
    values = np.concatenate([np.asarray(power, float) for _, power in found.values()])
    for k, (title, (frequencies, power)) in enumerate(found.items()):
        figure.add_scatter(
            x=frequencies,
            y=np.maximum(power, LEAST),
            customdata=np.stack([1 / np.asarray(frequencies), power], 1),
            mode="lines+markers",
            name=title,
            line={"color": COLOURS[k % len(COLOURS)], "dash": DASHES[k // len(COLOURS) % len(DASHES)], "width": 1.8},
            marker={"size": 5},
            hovertemplate=f"{title}<br>%{{x:.3f}} cycles per patch (a period of %{{customdata[0]:.1f}} patches)"
            "<br>power %{customdata[1]:.3g} times that of random masks<extra></extra>",
        )
    figure.add_hline(y=1, line={"color": "#666666", "width": 1.2, "dash": "dash"})
    figure.add_annotation(  # its y is a logarithm, where a line's is not
        text="random masks (1)",
        x=1,
        y=0,
        xref="x domain",
        xanchor="right",
        yanchor="bottom",
        showarrow=False,
        font={"size": 11, "color": "#555555"},
    )
    least, most = (f(values[np.isfinite(values)], initial=1) for f in (np.min, np.max))
    edges = math.log10(max(least, LEAST) / 1.3), math.log10(max(most, 1) * 1.3)
    figure.update_layout(
        template=TEMPLATE,
        title=heading(f"Power spectrum of masks, {grid[0]} × {grid[1]} patches", about),
        width=860,
        height=max(400, 130 + 20 * len(found)),
        showlegend=True,
        margin={"l": 70, "r": 20, "t": 64, "b": 55},
    )
    figure.update_xaxes(title="frequency (cycles per patch; above 0.5 only diagonals)", range=[0, 0.74])
    return figure.update_yaxes(
        title="power (random masks = 1)", type="log", range=edges, dtick=1, tickformat="~g", minor={"showgrid": False}
    )


def comparison(rows, about=""):
    """Strategies side by side: one panel a number, one line a strategy, in the order of the rows.

    `rows` are dicts with "strategy" and numbers, such as those of `statistics.summary` and `difficulty.score`;
    the ratio and the count of hidden patches, alike for all, get no panel. Each panel has a scale of its own.
    """
    names = list(dict.fromkeys(name for row in rows for name in row if name not in ("strategy", *SAID)))
    if not names or not all("strategy" in row for row in rows):
        raise Refused('rows: nothing to compare; give one dict a strategy, with "strategy" and at least one number')
    labels = [str(row["strategy"]) for row in rows]
    if len(set(labels)) < len(labels):
        raise Refused(f"rows: two rows have the same strategy among {', '.join(labels)}; give each a name of its own")
    across = min(len(names), 4)
    down, tall, head = math.ceil(len(names) / across), 21 * len(rows) + 12, 58
    height = down * (tall + head)
    figure = make_subplots(
        down,
        across,
        shared_yaxes=True,
        subplot_titles=[f"<b>{name}</b><br>{_unit(name)}" for name in names],
        horizontal_spacing=0.025,
        vertical_spacing=head / (height - head) if down > 1 else 0,
    )
    for k, name in enumerate(names):
        values = np.array([np.nan if row.get(name) is None else row[name] for row in rows], float)
        finite = values[np.isfinite(values)]
        low, high = (finite.min(), finite.max()) if len(finite) else (0, 1)
        wide, said = (high - low) or abs(high) or 1, _texts(values)
        place = {"row": k // across + 1, "col": k % across + 1}
        figure.add_scatter(
            x=np.where(np.isfinite(values), values, low),
            y=labels,
            mode="markers+text",
            # the number stands on the side that has room
            text=[f" {value} " for value in said],
            textposition=["middle left" if value > (low + high) / 2 else "middle right" for value in values],
            textfont={"size": 11},
            marker={"size": 8, "color": COLOURS[0], "opacity": np.isfinite(values).astype(float)},
            customdata=said,
            hovertemplate=f"%{{y}}<br>{name} %{{customdata}} {_unit(name)}<extra></extra>",
            showlegend=False,
            **place,
        )
        figure.update_xaxes(range=[low - 0.12 * wide, high + 0.12 * wide], **place)
    figure.update_xaxes(showticklabels=False, ticks="", showgrid=False, zeroline=False, showline=False)
    figure.update_yaxes(type="category", categoryarray=labels, range=[len(rows) - 0.4, -0.6], ticks="", showline=False)
    left = 14 + 7 * max(map(len, labels))
    figure.update_layout(
        template=TEMPLATE,
        title=heading("The strategies in numbers", about),
        width=left + 215 * across + 12,
        height=height + 16 + TITLE,
        margin={"l": left, "r": 12, "t": head + TITLE, "b": 16},
    )
    return figure.update_annotations(font={"size": 12})


def _texts(values):
    """Numbers of one panel with equally many decimals, three digits for the largest; a dash for NaN."""
    peak = np.abs(values[np.isfinite(values)]).max(initial=0)
    decimals = max(0, 2 - math.floor(math.log10(peak))) if peak else 0
    return [f"{round(value, decimals) + 0.0:.{decimals}f}" if np.isfinite(value) else "–" for value in values]


def _unit(name):
    return "dB" if name.startswith("psnr") else statistics.UNITS.get(name, "")
