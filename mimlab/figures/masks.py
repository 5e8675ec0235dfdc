"""What masking strategies hide: example by example, on average, and in numbers."""

import numpy as np
from plotly.subplots import make_subplots
from scipy import ndimage

from mimlab.errors import Refused
from mimlab.figures.pictures import cells, colours, numpy, panels
from mimlab.figures.style import SCALE, TEMPLATE


def _masks(masks, grid):
    """The dict of masks as bool NumPy arrays, or Refused."""
    if not masks:
        raise Refused("masks: an empty dict shows nothing; give title -> bool (B, N)")
    found = {}
    for title, mask in masks.items():
        mask = numpy(mask)
        if mask.dtype != bool or mask.ndim != 2 or mask.shape[1] != grid[0] * grid[1] or not len(mask):
            raise Refused(
                f"masks[{title!r}]: {mask.dtype} {mask.shape} is not bool (B, {grid[0] * grid[1]}), True = hidden"
            )
        found[title] = mask
    return found


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


def gallery(images, masks, grid):
    """Each image, then its visible part under each strategy; `masks` is title -> bool (B, N)."""
    columns = {"image": colours(images)}
    for title, mask in _masks(masks, grid).items():
        columns[f"{title}<br>{mask.mean():.0%} hidden"] = colours(hide(images, mask, grid))
    return panels(columns)


def coverage(masks, grid):
    """How often each cell is hidden, one heat map a strategy, all on the scale from 0 to 1.

    `masks` is title -> bool (many, N). Titles give the count that each mask hides and the mean over all.
    """
    masks, (h, w) = _masks(masks, grid), grid
    titles = []
    for title, mask in masks.items():
        least, most = mask.sum(1).min(), mask.sum(1).max()
        exact = f"{least} of {h * w} in every mask" if least == most else f"{least} to {most} of {h * w}"
        titles.append(f"{title}<br>{exact}<br>mean {mask.mean():.3f}")
    figure = make_subplots(cols=len(masks), subplot_titles=titles, horizontal_spacing=0.12 / len(masks))
    for column, mask in enumerate(masks.values(), start=1):
        often = mask.mean(0).reshape(h, w)
        figure.add_heatmap(
            z=often.round(4),
            coloraxis="coloraxis",
            hovertemplate="row %{y}, column %{x}<br>hidden in %{z:.1%}<extra></extra>",
            row=1,
            col=column,
        )
        figure.update_yaxes(scaleanchor=f"x{column if column > 1 else ''}", col=column)
    figure.update_xaxes(visible=False, constrain="domain")
    figure.update_yaxes(visible=False, autorange="reversed", constrain="domain")
    bar = {
        "title": {"text": "share of masks that hide it", "side": "right"},
        "thickness": 12,
        "tickformat": ".0%",
    }
    figure.update_layout(
        template=TEMPLATE,
        width=210 * len(masks) + 110,
        height=round(200 * h / w) + 80,
        margin={"l": 8, "r": 90, "t": 72, "b": 8},
        coloraxis={"cmin": 0, "cmax": 1, "colorscale": SCALE, "colorbar": bar},
    )
    return figure.update_annotations(font={"size": 12})


def statistics(masks, grid):
    """Title -> numbers that tell strategies apart, averaged over the masks of (many, N).

    ratio: hidden share. hidden: patches hidden. regions: 4-connected hidden areas in one mask. largest region:
    share of the hidden patches that lies in the largest. hidden neighbours: share of a hidden patch's 4
    neighbours (inside the image) that are hidden too. distance to visible: Euclidean, in patches, from a hidden
    patch to the nearest visible one (1 = adjacent; NaN where nothing is visible).
    """
    table = {}
    cross = np.zeros((3, 3, 3), bool)
    cross[1] = [
        [0, 1, 0],
        [1, 1, 1],
        [0, 1, 0],
    ]  # connects within a mask, never from one to the next
    for title, mask in _masks(masks, grid).items():
        many = mask.reshape(-1, *grid)  # (M, h, w)
        hidden = many.sum((1, 2))
        labels, regions = ndimage.label(many, cross)
        sizes = np.bincount(labels.ravel(), minlength=regions + 1)[1:]
        largest = [sizes[np.unique(label[label > 0]) - 1].max() for label in labels if label.any()]
        across, down = many[:, :, 1:] & many[:, :, :-1], many[:, 1:] & many[:, :-1]
        pairs_across, pairs_down = (
            many[:, :, 1:].sum() + many[:, :, :-1].sum(),
            many[:, 1:].sum() + many[:, :-1].sum(),
        )
        inside = pairs_across + pairs_down  # neighbours that hidden patches have, counted from each hidden patch
        far = 10.0 * sum(grid)  # the next mask is out of reach
        distance = ndimage.distance_transform_edt(many, sampling=(far, 1, 1)) if not many.all() else None
        reached = many & (hidden < grid[0] * grid[1])[:, None, None]
        table[title] = {
            "ratio": float(mask.mean()),
            "hidden": float(hidden.mean()),
            "regions": regions / len(many),
            "largest region": float(np.sum(largest) / hidden.sum()) if hidden.any() else float("nan"),
            "hidden neighbours": float(2 * (across.sum() + down.sum()) / inside) if inside else float("nan"),
            "distance to visible": float(distance[reached].mean()) if reached.any() else float("nan"),
        }
    return table
