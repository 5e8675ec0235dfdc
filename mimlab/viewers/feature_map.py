"""A map of images as points of a plane; the image itself shows under the mouse.

It needs no kernel at all, so it is the same HTML live and saved: feature_map.js with its points and one picture of all
thumbnails inline.
"""

import base64
import io
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch.nn.functional import interpolate

from mimlab.errors import Refused
from mimlab.layers import lost
from mimlab.viewers import embed, pictures

SOURCE = Path(__file__).with_name("feature_map.js")
# thumbnails' side in px by how many images there are at most; beyond MOST there is none
SIDES = ((300, 64), (1000, 48), (4000, 32))
MOST, QUALITY = 4000, 82
STILL = 440  # px of the static picture
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]  # figures.style's without black


class FeatureMap:
    """Points (M, 2) with their images (M, 3, S, S), uint8; `labels` (M,) and `classes` colour them.

    `title` stands above, `note` says how the points came about. Beyond 4,000 images the mouse tells labels alone. Refuses
    points that are not finite.
    """

    def __init__(self, points, images, labels=None, classes=None, title="", note=""):
        if lost(points):
            raise Refused("features are not finite (nan or inf): the encoder has diverged; use an earlier checkpoint")
        low, span = points.amin(dim=0), (points.amax(dim=0) - points.amin(dim=0)).max().clamp(min=1e-12)
        middle = (points.amax(dim=0) - low) / span / 2
        places = ((points - low) / span - middle + 0.5).clamp(0, 1)  # one scale for both axes
        found = labels if labels is not None else torch.zeros(len(points), dtype=torch.long)
        names = list(classes) if classes else [f"class {k}" for k in range(int(found.max()) + 1)]
        self.title, self.images = title, images
        self.state = {
            "points": (places * 10_000).round().int().tolist(),
            "labels": None if labels is None else found.tolist(),
            "classes": names if labels is not None else [],
            "sprite": _sprite(images) if len(images) <= MOST else None,
            "title": title,
            "note": note + ("" if labels is not None else "; no labels, so one colour"),
            "colours": COLOURS,
        }

    def _still(self):
        """The static picture: every image's point, in the colour of its class."""
        picture = Image.new("RGB", (STILL, STILL), "white")
        draw, labels = ImageDraw.Draw(picture), self.state["labels"]
        for k, (x, y) in enumerate(self.state["points"]):
            x, y = (10 + (STILL - 20) * part / 10_000 for part in (x, 10_000 - y))
            draw.ellipse((x - 3, y - 3, x + 3, y + 3), COLOURS[(labels[k] if labels else 0) % len(COLOURS)])
        return base64.b64encode(pictures.png(picture)).decode()

    def _repr_mimebundle_(self, **options):
        still, words = self._still(), f"map of features: {self.title}; {self.state['note']}"
        html = embed.html(SOURCE.read_text(encoding="utf-8"), self.state, f"data:image/png;base64,{still}", words)
        return {"text/plain": words, "text/html": html, "image/png": still}


def _sprite(images):
    """All images as one picture: {"src", "side", "columns"}."""
    side = min(next(side for most, side in SIDES if len(images) <= most), max(images.shape[2:]))
    small = interpolate(images / 255, size=(side, side), mode="area") if max(images.shape[2:]) != side else images / 255
    columns = max(1, round(len(images) ** 0.5))
    rows = -(-len(images) // columns)
    blank = torch.ones(rows * columns - len(images), 3, side, side)
    grid = torch.cat([small, blank]).unflatten(0, (rows, columns))  # (rows, columns, 3, side, side)
    pixels = (grid.permute(0, 3, 1, 4, 2).reshape(rows * side, columns * side, 3) * 255).round().byte()
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "JPEG", quality=QUALITY)
    src = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"src": src, "side": side, "columns": columns}
