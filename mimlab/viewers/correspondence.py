"""Correspondence: click a patch in any image, and see which patches of all images are like it.

The browser (correspondence.js) holds the patches' features as small integers and computes every cosine itself, so a click
needs no kernel. The kernel is asked for another layer. Nothing raises into a widget: what goes wrong is said in one line.
"""

import base64
from pathlib import Path

import anywidget
import ipywidgets
import torch
import traitlets
from PIL import Image
from torch.nn.functional import interpolate, normalize

from mimlab.errors import Refused, shown
from mimlab.layers import lost
from mimlab.viewers import embed, pictures
from mimlab.viewers.latest import Latest

SOURCE = Path(__file__).with_name("correspondence.js")
ROOM, SAVED = 1_500_000, 420_000  # bytes of a layer's features, live and in a copy, before base64 adds a third
PICTURES = 160_000  # bytes of text of all pictures
SIDES = (224, 160, 112, 80, 56)  # px that pictures are shrunk to until they fit
STILL = 5  # images in the static picture
TOLD = 64  # patches that the error of the cosines is measured on


def packed(features, room=SAVED):
    """Features (B, h, w, D) of length 1 as bytes: {"grid", "dims", "values", "scales", "note"}.

    `values` are int8 (B * h * w, dims), each row to be multiplied by its float32 in `scales`, both base64. Where
    they would not fit `room` bytes, only the first axes of a decomposition of all patches stay. `note` says so, and how far
    the cosines are off. Refuses features that are not finite.
    """
    if lost(features):
        raise Refused("features are not finite (nan or inf): the encoder has diverged; use an earlier checkpoint")
    *_, h, w, width = features.shape
    exact = normalize(features.flatten(0, 2).float(), dim=1)  # (M, D)
    dims = min(width, max(1, room // len(exact)))
    rows = exact
    if dims < width:
        axes = torch.linalg.eigh(exact.double().T @ exact.double()).eigenvectors  # ascending
        rows = exact @ axes[:, -dims:].float()
    scales = rows.abs().amax(dim=1).clamp(min=1e-12) / 127
    values = (rows / scales[:, None]).round().to(torch.int8)
    some = torch.arange(0, len(rows), max(1, len(rows) // TOLD))
    back = values.float() * scales[:, None]
    off = float((back[some] @ back.T - exact[some] @ exact.T).abs().max())
    kept = f"{width} dimensions" if dims == width else f"{dims} of {width} dimensions, by PCA"
    return {
        "grid": [h, w],
        "dims": dims,
        "values": base64.b64encode(values.numpy().tobytes()).decode(),
        "scales": base64.b64encode(scales.numpy().astype("<f4").tobytes()).decode(),
        "note": f"{kept}, as 8-bit numbers; cosines are off by at most {max(off, 0.0005):.1g}",
    }


class CorrespondenceView(anywidget.AnyWidget):
    """The part that lives in the browser; its traits are the whole state, and what a saved page holds.

    pictures [{src, width, height, name}]; cells: `packed` features with their "layer"; layers: those that can be asked
    for; layer: the one wanted; query [image, patch]; k: patches outlined; others: whether they must lie in other images;
    strength: opacity of the heat map; scale: 256 colours; title; said: what went wrong; live: whether there is a kernel.
    """

    _esm = traitlets.Unicode().tag(sync=True)
    pictures = traitlets.List().tag(sync=True)
    cells = traitlets.Dict().tag(sync=True)
    layers = traitlets.List().tag(sync=True)
    layer = traitlets.Unicode().tag(sync=True)
    query = traitlets.List().tag(sync=True)
    k = traitlets.Int(5).tag(sync=True)
    others = traitlets.Bool(True).tag(sync=True)
    strength = traitlets.Float(0.6).tag(sync=True)
    scale = traitlets.List().tag(sync=True)
    title = traitlets.Unicode("").tag(sync=True)
    said = traitlets.Unicode("").tag(sync=True)
    live = traitlets.Bool(True).tag(sync=True)


KEPT = ("pictures", "cells", "layers", "layer", "query", "k", "others", "strength", "scale", "title")


class Correspondence(ipywidgets.VBox):
    """A `CorrespondenceView`, `.view`, over images (B, 3, H, W) in [0, 1] and their features (B, h, w, D).

    `layer`: what they are of; `layers` and `ask`: what else there is, and the function that gives it, layer -> (B, h, w, D);
    None: nothing. `k`: how many patches are outlined at first. Refuses what does not fit together.
    """

    def __init__(self, images, features, *, layer="output", layers=None, ask=None, k=5, title=""):
        if features.ndim != 4 or len(features) != len(images) or not len(images):
            raise Refused(f"features: {tuple(features.shape)} is not (B, h, w, D) for {len(images)} images")
        self._images, self._ask, self._features = images, ask, {str(layer): features}
        self._layers = {str(one): one for one in (layers if ask and layers else [layer])}
        self._asked = Latest()
        h, w = features.shape[1:3]
        self.view = CorrespondenceView(
            _esm=SOURCE.read_text(encoding="utf-8"),
            pictures=_pictures(images),
            cells=packed(features, ROOM) | {"layer": str(layer)},
            layers=list(self._layers),
            layer=str(layer),
            query=[0, h // 2 * w + w // 2],
            k=k,
            others=len(images) > 1,
            scale=_scale(),
            title=title,
        )
        super().__init__([self.view])
        self.view.observe(self._wanted, "layer")

    @property
    def query(self):
        """The chosen patch: image, row, column."""
        image, patch = self.view.query
        return image, *divmod(patch, self.view.cells["grid"][1])

    def _wanted(self, change):
        name = change["new"]

        def work():
            if name not in self._layers:
                raise Refused(f"layer = {shown(name)}; there are: {', '.join(self._layers)}")
            if name not in self._features:
                self._features[name] = self._ask(self._layers[name])
            return packed(self._features[name], ROOM) | {"layer": name}

        def answer(found, said):
            with self.view.hold_sync():
                self.view.said = said or ""
                if found:
                    self.view.query = _carried(self.view.query, self.view.cells["grid"], found["grid"])
                    self.view.cells = found
                else:
                    self.view.layer = self.view.cells["layer"]

        if name != self.view.cells["layer"]:
            self._asked.ask("layer", work, answer)

    def _copy(self):
        view = self.view
        state = {name: getattr(view, name) for name in KEPT} | {"said": "", "live": False}
        state["layer"] = layer = view.cells["layer"]
        state["cells"] = packed(self._features[layer]) | {"layer": layer}
        picture = base64.b64encode(pictures.png(pictures.strip(self._still()))).decode()
        image, row, column = self.query
        words = f"patches like row {row}, column {column} of image {image}, {view.title}, layer {layer}"
        html = embed.html(view._esm, state, f"data:image/png;base64,{picture}", words)
        return {"text/plain": words, "text/html": html, "image/png": picture}

    def _still(self):
        """The static picture: captions and images under their heat maps."""
        from mimlab.figures.pictures import painted

        cells = normalize(self._features[self.view.cells["layer"]].float(), dim=-1)  # (B, h, w, D)
        image, row, column = self.query
        heat = cells @ cells[image, row, column]  # (B, h, w)
        low, high = heat.min(), heat.max()
        shares = ((heat - low) / (high - low).clamp(min=1e-6)).numpy()
        size, found = self._images.shape[2:], []
        for k in sorted({image, *range(min(STILL, len(shares)) - (image >= STILL))}):
            one, colours = self._images[k], torch.from_numpy(painted(shares[k : k + 1], 1.0)[0])
            over = interpolate(colours.permute(2, 0, 1)[None].float(), size=size, mode="nearest")[0]
            mixed = (0.4 * 255 * one + 0.6 * over).round().byte()
            found.append((f"image {k}" + (" (query)" if k == image else ""), mixed))
        return found

    def _repr_mimebundle_(self, **options):
        if embed.batch():  # a saved widget without its state would show an error
            return self._copy()
        return super()._repr_mimebundle_(**options) | self._copy()


def _carried(query, old, new):
    """The patch at the same place of another grid."""
    image, patch = query
    row, column = divmod(patch, old[1])
    return [image, row * new[0] // old[0] * new[1] + column * new[1] // old[1]]


def _pictures(images):
    """Data URIs of images (B, 3, H, W) in [0, 1], shrunk until all of them fit `PICTURES`."""
    for side in SIDES:
        share = min(1.0, side / max(images.shape[2:]))
        small = images if share == 1 else interpolate(images, scale_factor=share, mode="area")
        uris = [_uri((one * 255).round().byte(), exact=share == 1) for one in small]
        if sum(map(len, uris)) <= PICTURES:
            break
    height, width = images.shape[2:]
    return [{"src": uri, "width": width, "height": height, "name": f"image {k}"} for k, uri in enumerate(uris)]


def _uri(image, exact):
    if exact:
        return pictures.uri(image)
    return pictures.data_uri(Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()), "JPEG")


def _scale():
    from plotly.colors import sample_colorscale, unlabel_rgb

    from mimlab.figures.style import SCALE

    stops = sample_colorscale(SCALE, [k / 255 for k in range(256)])
    return ["#" + "".join(f"{round(part):02x}" for part in unlabel_rgb(stop)) for stop in stops]
