"""The training film as pictures: steps side by side, and a GIF."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mimlab import files
from mimlab.errors import Refused
from mimlab.figures.masks import hide
from mimlab.figures.pictures import cells, colours, painted, panels
from mimlab.figures.style import COLOURS, FAINT, INK, empty
from mimlab.looking.film import projected

MOST = 5  # steps side by side: as wide as a notebook
SIDE, LINE, GAP = 128, 20, 8  # of a GIF, px: a picture, a line of text, between pictures
EVEN = 3  # times 1 / N is at least the top of the scale of attention
PACE, HELD = 350, 1500  # ms: a frame of a GIF, and the last one
FILLED, ATTENTION, FEATURES = "visible + filled in", "attention", "features"


def evenly(count, most):
    """At most `most` of `count` frames, evenly, with the first and the last: a list of places."""
    return sorted({round(k) for k in np.linspace(0, count - 1, min(count, most))})


def layers(film):
    """What a `mimlab.looking.film.Film` shows, name -> uint8 (F, B, h, w, 3): the filled-in image at pixels, others a cell a patch.

    Attention: from 0 to the highest value of that image in the whole film, at least `EVEN` times even attention, so that
    frames can be compared and even attention is dark. Features: `film.projected`.
    """
    found, (h, w) = {}, film.grid
    if film.filled is not None:
        original = colours(film.images)
        cover = cells(film.mask, film.grid, film.images.shape[2:])[..., None].astype(bool)
        found[FILLED] = np.stack([np.where(cover, colours(one), original) for one in film.filled])
    if film.attention is not None:
        values = np.nan_to_num(film.attention.astype(np.float32))  # (F, B, N); a run that diverged is dark
        top = np.maximum(values.max(axis=(0, 2)), EVEN / (h * w))[:, None, None]
        found[ATTENTION] = np.stack([painted(one.reshape(-1, h, w) / top, 1) for one in values])
    if film.features is not None:
        found[FEATURES] = projected(film.features).reshape(*film.features.shape[:2], h, w, 3)
    return found


def stills(film):
    """What does not change, name -> uint8 (B, H, W, 3): the images, and what the method sees of them."""
    found = {"image": colours(film.images)}
    if film.filled is not None:
        found["visible"] = colours(hide(film.images, film.mask, film.grid))
    return found


def enlarged(pictures, size):
    """Pictures (..., h, w, 3) at `size` = (H, W) by repeating cells."""
    rows, columns = (np.arange(big) * small // big for big, small in zip(size, pictures.shape[-3:-1], strict=True))
    return pictures[..., rows[:, None], columns, :]


def strip(film, images=2, most=MOST):
    """A `mimlab.looking.film.Film` as a small multiple: a column for each of at most `most` steps, for each image a row of what the
    run fills in, one of its attention and one of its features, as far as there are any.
    """
    if not film.steps:
        return empty(film.note, "Training film")
    size, shown, count = film.images.shape[2:], layers(film), min(images, len(film.images))
    original = stills(film)
    columns = {"image": np.stack([_still(original, name)[k] for k in range(count) for name in shown])}
    for at in evenly(len(film.steps), most):
        rows = [enlarged(shown[name][at, k], size) for k in range(count) for name in shown]
        columns[f"step {film.steps[at]:,}"] = np.stack(rows)
    labels = [name.replace("visible + ", "") for _ in range(count) for name in shown]
    said = {
        FILLED: "what is filled in",
        ATTENTION: "attention of the last layer",
        FEATURES: "components of the features",
    }
    note = f"{', '.join(said[name] for name in shown)}; {film.note}"
    return panels(columns, title="Training film", note=note, rows=labels)


def _still(original, name):
    return original["visible" if name == FILLED else "image"]


def frames(film):
    """Each step as one picture, uint8 (F, H, W, 3): a row for each image, a column for each quantity, the step above."""
    shown, fixed = layers(film), stills(film)
    names, count = [*fixed, *shown], len(film.images)
    wide, tall = len(names) * (SIDE + GAP) + GAP, count * (SIDE + GAP) + 2 * LINE + 2 * GAP
    font, bold = ImageFont.load_default(12), ImageFont.load_default(14)
    found = []
    for at, step in enumerate(film.steps):
        page = Image.new("RGB", (wide, tall), "white")
        draw = ImageDraw.Draw(page)
        draw.text((GAP, 4), f"step {step:,} of {film.steps[-1]:,}", INK, bold)
        draw.rectangle((wide // 2, 10, wide - GAP, 14), FAINT)
        share = step / max(film.steps[-1], 1)
        draw.rectangle((wide // 2, 10, wide // 2 + round((wide - GAP - wide // 2) * share), 14), COLOURS[0])
        for column, name in enumerate(names):
            draw.text((GAP + column * (SIDE + GAP), LINE + 6), name, INK, font)
            pictures = fixed[name] if name in fixed else shown[name][at]
            for row in range(count):
                tile = Image.fromarray(pictures[row])
                smooth = Image.Resampling.NEAREST if max(tile.size) < SIDE else Image.Resampling.BOX
                place = (GAP + column * (SIDE + GAP), 2 * LINE + GAP + row * (SIDE + GAP))
                page.paste(tile.resize((SIDE, SIDE), smooth), place)
        found.append(np.asarray(page))
    return np.stack(found)


def gif(film, path):
    """Write a film as an animated GIF that loops, each frame labelled with its step; returns the path.

    Raises Refused for a film without frames, and where the file cannot be written.
    """
    if not film.steps:
        raise Refused(f"film: {film.note}")
    pages = [Image.fromarray(page) for page in frames(film)]
    # one palette for all frames, or colours would flicker; from the first, the middle and the last
    sample = np.concatenate([np.asarray(pages[k]) for k in evenly(len(pages), 3)])
    palette = Image.fromarray(sample).quantize(256, Image.Quantize.FASTOCTREE)  # keeps white white, unlike the default
    pages = [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]
    file = io.BytesIO()
    pace = [PACE] * (len(pages) - 1) + [HELD]
    pages[0].save(file, "GIF", save_all=True, append_images=pages[1:], loop=0, duration=pace, disposal=1)
    path = Path(path)
    files.replaceable(path, "path", lambda raw: raw.startswith(b"GIF8"))
    files.write(path, file.getvalue())
    return path
