"""What a method fills in."""

import numpy as np
from plotly.subplots import make_subplots

from mimlab.errors import Refused
from mimlab.figures.masks import hide
from mimlab.figures.pictures import ACROSS, cells, colours, numpy, painted, panels
from mimlab.figures.style import COLOURS, FAINT, SCALE, TEMPLATE, empty

BAR, ROOM = 74, 26  # px that a colour bar takes, and what long numbers beside the last one need further
NONE = np.array([226, 226, 226], np.uint8)  # where a patch has no number
LEAKS = "Leaking: with the true statistics put back"


def _blend(images, mask, grid, filled):
    """The visible patches of `images`, the hidden ones of `filled`: uint8 (B, H, W, 3)."""
    hidden = cells(mask, grid, images.shape[1:3])[..., None].astype(bool)
    return np.where(hidden, filled, images)


def _same(name, pictures, images):
    if pictures.shape != images.shape:
        raise Refused(
            f"{name}: {pictures.shape[0]} of {pictures.shape[1]} x {pictures.shape[2]} px; "
            f"images are {images.shape[0]} of {images.shape[1]} x {images.shape[2]} px"
        )
    return pictures


def panel(images, mask, grid, filled=None, target=None, note=None, loss=None, rows=None, title="Reconstruction"):
    """Original, what the encoder saw, what the method filled in, both together, the error, and the loss of each patch.

    All images (B, 3, H, W) in [0, 1], mask bool (B, N). The error is the absolute difference of filled and
    `target` (the images where None), averaged over colours, all rows on one scale. `loss` (B, N) has its own scale,
    from 0; visible patches, of which none is asked, are grey. `note` says under the title what a reader must know, such
    as that de-normalising used the true patch mean and deviation. `rows` are B labels, such as each image's PSNR.
    Without `mask` the note is all there is to see; without `filled` the pictures that need it are left out.
    """
    if mask is None:
        return empty(note or "nothing is hidden", title)
    original = colours(images)
    columns, top = {"image": original}, None
    visible = colours(hide(images, mask, grid))
    if filled is None:
        columns["visible"] = visible
    else:
        guess = _same("filled", colours(filled, "filled"), original)
        truth = original if target is None else _same("target", colours(target, "target"), original)
        error = np.abs(guess.astype(float) - truth).mean(-1) / 255  # (B, H, W)
        top = float(np.ceil(error.max() * 20) / 20)
        if target is not None:
            columns["target"] = truth
        columns |= {
            "visible": visible,
            "filled in": guess,
            "visible + filled in": _blend(original, mask, grid, guess),
            "error": painted(error, top),
        }
    scales = [] if top is None else [(top, "absolute error")]
    if loss is not None:
        columns["loss of a patch"], most = _heat(loss, grid, images.shape[2:], mask)
        scales.append((most, "loss"))
    room = BAR + ROOM if len(scales) > 1 else 0
    figure = panels(columns, title=title, note=note, rows=rows, scale=scales[0] if scales else None, room=room)
    return _further_bar(figure, *scales[1]) if len(scales) > 1 else figure


def _heat(values, grid, size, mask=None, top=None):
    """Numbers (B, N) as pictures on the shared scale, grey where visible or NaN: uint8 (B, H, W, 3), and the scale's top."""
    values = numpy(values).astype(float)
    shown = np.isfinite(values) if mask is None else np.isfinite(values) & numpy(mask).astype(bool)
    if top is None:
        most = float(values[shown].max()) if shown.any() else 0.0
        digit = 10.0 ** np.floor(np.log10(most)) / 10 if most > 0 else 1.0
        top = float(np.ceil(most / digit - 1e-9) * digit)  # two digits, upwards
    pictures = painted(cells(np.where(shown, values, 0), grid, size), top)
    return np.where(cells(shown, grid, size)[..., None], pictures, NONE), top


def _further_bar(figure, top, label):
    """A second colour bar beside that of `panels`."""
    layout = figure.layout
    wide = layout.width - layout.margin.l - layout.margin.r
    bar = {"title": {"text": label, "side": "right"}, "thickness": 12, "len": 1, "outlinewidth": 0}
    bar |= {"x": 1.02 + BAR / wide, "xanchor": "left", "tickformat": ".3~g"}
    marker = {"color": [0], "cmin": 0, "cmax": top or 1, "colorscale": SCALE, "colorbar": bar, "showscale": True}
    figure.add_scatter(x=[None], y=[None], mode="markers", showlegend=False, hoverinfo="skip", marker=marker)
    return figure.update_layout(width=layout.width + BAR + ROOM, margin_r=layout.margin.r + BAR + ROOM)


def leaking(images, mask, grid, filled, note=None):
    """`panel` of a picture that was given true statistics of the hidden pixels, and says so; `note` where there is none."""
    if filled is None:
        return empty(note or "This picture needs no true statistics: none is put back, and nothing leaks.", LEAKS)
    note = "The true mean and deviation of each hidden patch or window are put back: part of the answer is given away."
    return panel(images, mask, grid, filled, note=note, title=LEAKS)


def own(images, grid, views, note="This method has no further pictures."):
    """Pictures that only one method has; `views` is title -> images (B, 3, H, W), or bool or float (B, N).

    Numbers of patches are painted on one scale: 0 to 1 where one of them is bool, else up to the highest. NaN is grey.
    """
    if not views:
        return empty(note, "The method's own")
    arrays = {title: numpy(view) for title, view in views.items()}
    maps = {title: view for title, view in arrays.items() if view.ndim == 2}
    top = 1.0 if any(view.dtype == bool for view in maps.values()) else None
    if top is None and maps:
        top = max(_heat(view, grid, images.shape[2:])[1] for view in maps.values())
    columns = {"image": colours(images)}
    for title, view in arrays.items():
        if view.ndim == 2:
            columns[title] = _heat(view, grid, images.shape[2:], top=top)[0]
        else:
            columns[title] = _same(title, colours(view, title), columns["image"])
    scale = (top, " · ".join(maps)) if maps else None
    return panels(columns, title="The method's own", scale=scale)


def sweep(images, grid, ratios, masks, fills, psnr, note=None):
    """Each image at rising ratios: what is visible, and below it the same with the rest filled in, its PSNR on it.

    By ratio: `masks` (B, N), `fills` (B, 3, H, W), `psnr` B numbers in dB. Without fills the note is all there is to see.
    """
    if not len(fills):
        return empty(note or "no picture", "From few patches hidden to nearly all")
    original, columns = colours(images), {}
    for ratio, mask, filled in zip(ratios, masks, fills, strict=True):
        visible, both = colours(hide(images, mask, grid)), _blend(original, numpy(mask), grid, colours(filled))
        columns[f"{ratio:.0%}"] = np.stack([visible, both], 1).reshape(-1, *original.shape[1:])  # rows by turns
    rows = [label for k in range(len(original)) for label in (f"image {k}", "filled in")]
    figure = panels(columns, title="From few patches hidden to nearly all", note=note, rows=rows)
    tall = original.shape[1] / original.shape[2]
    for column, values in enumerate(psnr):
        for k, value in enumerate(values):
            figure.add_annotation(
                text=f"{value:.1f} dB",
                x=column + 0.5,
                y=(2 * k + 1.95) * tall,
                yanchor="bottom",
                showarrow=False,
                font={"size": 11},
                bgcolor="rgba(255,255,255,0.85)",
                borderpad=1,
            )
    return figure


def by_distance(quantities, note=None):
    """Quality against the distance to the nearest visible patch, with 95 % intervals; below, how many patches there were.

    `quantities`: title -> series -> rows with distance (in patches), mean, error (or None) and patches.
    """
    if not quantities:
        return empty(note or "no patch was hidden", "By distance to the nearest visible patch")
    titles = list(quantities)
    figure = make_subplots(
        2, len(titles), row_heights=[0.75, 0.25], shared_xaxes=True, vertical_spacing=0.06, subplot_titles=titles
    )
    for column, (title, lines) in enumerate(quantities.items(), start=1):
        for colour, (name, rows) in zip(COLOURS, lines.items(), strict=False):
            across = [row["distance"] for row in rows]
            figure.add_scatter(
                x=across,
                y=[row["mean"] for row in rows],
                error_y={"array": [row["error"] or 0 for row in rows], "thickness": 1.2, "width": 4},
                mode="lines+markers",
                marker={"color": colour},
                name=name,
                customdata=[row["patches"] for row in rows],
                hovertemplate=f"{title}, {name}: %{{y:.3f}}<br>at %{{x}} patches, %{{customdata:,}} of them<extra></extra>",
                legend=f"legend{column if column > 1 else ''}",
                row=1,
                col=column,
            )
        figure.add_bar(
            x=across,
            y=[row["patches"] for row in rows],
            marker={"color": FAINT},
            hovertemplate="%{y:,} hidden patches at %{x}<extra></extra>",
            showlegend=False,
            row=2,
            col=column,
        )
        figure.update_xaxes(title_text="distance in patches", dtick=max(1, max(across) // 6), row=2, col=column)
        place = figure.layout[f"xaxis{column if column > 1 else ''}"].domain[0]
        key = {"x": place, "y": -0.22, "yanchor": "top", "xanchor": "left", "font": {"size": 11}}
        figure.update_layout({f"legend{column if column > 1 else ''}": key})
    figure.update_yaxes(title_text="patches", row=2, col=1)
    return figure.update_layout(
        template=TEMPLATE,
        title={
            "text": "By distance to the nearest visible patch",
            "subtitle": {"text": note or "bars: 95 % intervals, from the spread between images"},
        },
        width=min(90 + 250 * len(titles), ACROSS),
        height=460,
        margin={"t": 100, "b": 120},
        bargap=0.3,
    )


def branches(images, mask_a, mask_b, grid, filled_a, filled_b, note=None):
    """SplitMask's two branches: what each sees, how it completes it, and the two completions merged.

    The merged picture takes each patch from the branch that did not see it; a patch that neither branch had
    hidden stays the image's, one that both had hidden is the mean of the two. Figure 2 of the SplitMask paper.
    Without `filled_a` the note is all there is to see.
    """
    if filled_a is None:
        return empty(note or "no picture", "The two branches")
    original = colours(images)
    one = _same("filled_a", colours(filled_a, "filled_a"), original)
    other = _same("filled_b", colours(filled_b, "filled_b"), original)
    a, b = numpy(mask_a).astype(bool), numpy(mask_b).astype(bool)
    merged = _blend(_blend(original, a, grid, one), b, grid, other)
    mean = ((one.astype(int) + other) // 2).astype(np.uint8)
    columns = {
        "image": original,
        "A sees": colours(hide(images, a, grid)),
        "A's completion": _blend(original, a, grid, one),
        "B sees": colours(hide(images, b, grid)),
        "B's completion": _blend(original, b, grid, other),
        "merged": _blend(merged, a & b, grid, mean),
    }
    return panels(columns, title="The two branches", note=note)
