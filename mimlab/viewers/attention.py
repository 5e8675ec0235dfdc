"""The attention viewer: one query's attention over an image, by layer and head, for one model or two.

The browser (attention.js) draws from blocks of weights; the kernel gives the block of a layer when it is first asked
for, or one query's row where a whole layer would be large. Without a kernel the same module goes on with what was kept.
"""

import base64
from pathlib import Path

import anywidget
import numpy as np
import torch
import traitlets
from plotly.colors import sample_colorscale, unlabel_rgb

from mimlab.errors import Refused
from mimlab.figures.attention import overlay, palette
from mimlab.figures.style import SCALE
from mimlab.looking.attend import Attended, attend
from mimlab.looking.attention import one_query
from mimlab.viewers import embed, pictures
from mimlab.viewers.latest import Latest

SOURCE = Path(__file__).with_name("attention.js")
WHOLE = 4_000_000  # bytes of a layer that travels at once
ROOM = 700_000  # letters that the blocks of a saved page may take
STATE = ("pictures", "models", "image", "layer", "head", "query", "mass", "threshold", "opacity", "smooth", "scale")


def coded(weights, bits):
    """Weights (heads, queries, N) as ends (heads, queries, 2) float32, a row's least and most, and codes, uint8 or uint16.

    A weight is least + (most - least) (code / top)^2: with 16 bits off by less than 3e-5 of that range, with 8 by 4e-3.
    """
    top, kind = (255, np.uint8) if bits == 8 else (65535, np.uint16)
    weights = torch.as_tensor(weights).float().numpy()
    low, high = weights.min(axis=-1, keepdims=True), weights.max(axis=-1, keepdims=True)
    share = np.divide(weights - low, high - low, out=np.zeros_like(weights), where=high > low)
    return np.concatenate([low, high], axis=-1).astype("<f4"), (np.sqrt(share) * top).round().astype(kind)


def uncoded(ends, codes):
    """Weights (heads, queries, N) of `coded`'s ends and codes."""
    low, high = ends[..., :1], ends[..., 1:]
    return low + (high - low) * (codes.astype(np.float64) / np.iinfo(codes.dtype).max) ** 2


class AttentionView(anywidget.AnyWidget):
    """What the models of an `Attended` look at; its traits are the whole state, and what a saved page holds.

    pictures [{src, name}]; models, one or two of {title, grid, layers, heads, cls, all: whether patches are queries too,
    colours, said}; image, layer (of the first model), head: mean, colours or a number as text; query: [] for CLS or a place
    [y, x] in the image from 0 to 1; mass: whether only the share `threshold` is shown; opacity; smooth; kept: blocks that
    need no kernel; scale: the colours of weights; said: what went wrong; live: whether there is a kernel.
    """

    _esm = traitlets.Unicode().tag(sync=True)
    pictures = traitlets.List().tag(sync=True)
    models = traitlets.List().tag(sync=True)
    image = traitlets.Int(0).tag(sync=True)
    layer = traitlets.Int(0).tag(sync=True)
    head = traitlets.Unicode("mean").tag(sync=True)
    query = traitlets.List().tag(sync=True)
    mass = traitlets.Bool(False).tag(sync=True)
    threshold = traitlets.Float(0.6).tag(sync=True)
    opacity = traitlets.Float(0.7).tag(sync=True)
    smooth = traitlets.Bool(False).tag(sync=True)
    kept = traitlets.Dict().tag(sync=True)
    scale = traitlets.List().tag(sync=True)
    said = traitlets.Unicode("").tag(sync=True)
    live = traitlets.Bool(True).tag(sync=True)

    def __init__(self, attended):
        self._attended, self._latest = attended, Latest()
        first, shown = attended.first, (attended.first.images * 255).round().byte()
        super().__init__(
            _esm=SOURCE.read_text(encoding="utf-8"),
            pictures=[{"src": pictures.uri(one), "name": f"image {k}"} for k, one in enumerate(shown)],
            models=[_about(model) for model in attended.models],
            layer=first.layer,
            query=_start(first),
            threshold=attended.threshold,
            scale=_hex(unlabel_rgb(c) for c in sample_colorscale(SCALE, np.linspace(0, 1, 48))),
        )
        self.on_msg(self._heard)

    @classmethod
    def read(cls, cfg):
        """From a `mimlab.Attend`, or what `attend` has made of one."""
        return cls(cfg if isinstance(cfg, Attended) else attend(cfg))

    # what the browser asks

    def _heard(self, view, content, buffers):
        if content.get("type") != "ask":
            return
        model, image, layer, query = (int(content[name]) for name in ("model", "image", "layer", "query"))
        where = {"type": "block", "model": model}

        def answer(found, said):
            if said:
                self.send(where | {"refused": said})
            else:
                self.send(where | found[0], [part.tobytes() for part in found[1:]])

        self._latest.ask(model, lambda: self.block(model, image, layer, query), answer)

    def block(self, model, image, layer, query, bits=16, whole=None):
        """One query's weights, or its whole layer where that is light: {key, first, count, bits}, ends, codes.

        `query`: -1 for CLS, or a patch. `whole`: True or False to choose. Refuses what is not there.
        """
        looked = self._attended.models[model]
        if not 0 <= layer < looked.layers or not 0 <= image < len(looked.images):
            raise Refused(f"{looked.title}: there is no attention of image {image} in layer {layer}")
        about, prefix = self.models[model], looked.encoder.prefix
        n, first = looked.grid[0] * looked.grid[1], -1 if about["cls"] else 0
        last = n if about["all"] else 0
        if not first <= query < last:
            raise Refused(f"{looked.title}: there is no query {query}; they go from {first} to {last - 1}")
        whole = about["heads"] * (last - first) * n * bits // 8 <= WHOLE if whole is None else whole
        low, high = (first, last) if whole else (query, query + 1)
        rows = [0 if q < 0 else prefix + q for q in range(low, high)]
        weights = looked.captured(image)[layer][:, rows, -n:]
        key = f"{model}/{image}/{layer}"
        told = {"key": key if whole else f"{key}/{query}", "first": low, "count": high - low, "bits": bits}
        return told, *coded(weights, bits)

    # without a kernel

    def html(self, path=None):
        """The viewer as an HTML page that needs neither kernel nor network: its text, or its path once written."""
        page = embed.page(self._copy()["text/html"], "Attention")
        if path is None:
            return page
        return embed.write(path, page)

    def png(self):
        """What is shown first, as the bytes of a PNG."""
        return base64.b64decode(self._copy()["image/png"])

    def _copy(self):
        still = base64.b64encode(self._still()).decode()
        first = self._attended.first
        about = f"attention of {', '.join(m['title'] for m in self.models)} on {len(first.images)} images"
        state = {name: getattr(self, name) for name in STATE} | {"kept": self._keep(), "said": "", "live": False}
        html = embed.html(self._esm, state, f"data:image/png;base64,{still}", about)
        return {"text/plain": about, "text/html": html, "image/png": still}

    def _keep(self):
        """As many blocks as there is room for: CLS everywhere, then all queries of a layer after the other."""
        kept, room = {}, ROOM
        for wanted in self._order():
            about, n = self.models[wanted["model"]], self.models[wanted["model"]]["grid"]
            n = n[0] * n[1]
            codes = about["heads"] * (n + 1 if wanted["whole"] else 1) * (n * wanted.get("bits", 16) // 8 + 8)
            if codes * 4 / 3 > room:  # in letters; nothing is computed that would not fit
                continue
            key, block = _text(*self.block(**wanted))
            kept[key], room = block, room - len(block["ends"]) - len(block["codes"])
        return kept

    def _order(self):
        """What a saved page should keep, the most important first: the image and the layer that are shown, all CLS."""
        found = []
        for image in sorted(range(len(self.pictures)), key=lambda k: k != self.image):
            for model, (about, looked) in enumerate(zip(self.models, self._attended.models, strict=True)):
                query, later = self._query(looked), int(image != self.image)
                if (query < 0 and not about["cls"]) or (query >= 0 and not about["all"]):
                    query = -1 if about["cls"] else 0
                for at, layer in enumerate(sorted(range(looked.layers), key=lambda at: (at != looked.layer, -at))):
                    what = {"model": model, "image": image, "layer": layer}
                    one = {query, -1} if about["cls"] else {query}
                    found += [(later, what | {"query": q, "whole": False}) for q in sorted(one)]
                    if about["all"]:
                        tier = 2 + later + 2 * (at > 0)
                        found.append((tier, what | {"query": query, "whole": True, "bits": 8}))
        return [what for _, what in sorted(found, key=lambda pair: pair[0])]

    def _query(self, looked):
        """The query as shown, as a row of blocks: -1 for CLS, or a patch."""
        if not self.query:
            return -1
        row, column = (min(int(at * cells), cells - 1) for at, cells in zip(self.query, looked.grid, strict=True))
        return row * looked.grid[1] + column

    def _still(self):
        """The picture where scripts do not run: the image and each model's map, mean over the heads."""
        first, shown = self._attended.first, self.image
        cells = [(f"image {shown}", (first.images[shown] * 255).round().byte())]
        for model, looked in enumerate(self._attended.models):
            query = self._query(looked)
            try:
                _, *parts = self.block(model, shown, looked.layer, query, whole=False)
            except Refused:  # the browser says why
                continue
            maps = uncoded(*parts).mean(axis=0)  # (1, N)
            drawn = overlay(looked.images[shown : shown + 1], maps, looked.grid)[0]
            cells.append((looked.title, torch.from_numpy(np.ascontiguousarray(drawn.transpose(2, 0, 1)))))
        return pictures.png(pictures.strip(cells))

    def _repr_mimebundle_(self, **options):
        still = self._copy()
        if embed.batch():  # a saved widget without its state would show an error
            return still
        data, metadata = super()._repr_mimebundle_(**options)
        return data | still, metadata


def _about(looked):
    """What the browser knows of a model."""
    one, heads = one_query(looked.encoder), 0 if looked.entropy is None else looked.entropy.shape[1]
    return {
        "title": looked.title,
        "grid": list(looked.grid),
        "layers": looked.layers,
        "heads": heads,
        "cls": looked.encoder.has_cls,
        "all": not one,
        "colours": _hex(palette(heads)) if heads else [],
        "said": looked.why("maps"),
    }


def _start(looked):
    """The query shown first; the middle patch where there is no CLS."""
    if looked.query == "cls" and looked.encoder.has_cls:
        return []
    place = [cells // 2 for cells in looked.grid] if looked.query == "cls" else looked.query
    return [(at + 0.5) / cells for at, cells in zip(place, looked.grid, strict=True)]


def _hex(colours):
    return ["#" + "".join(f"{round(part):02x}" for part in colour) for colour in colours]


def _text(told, ends, codes):
    """A block's key, and the block as a saved page holds it."""
    parts = {name: base64.b64encode(part.tobytes()).decode() for name, part in (("ends", ends), ("codes", codes))}
    return told["key"], {name: told[name] for name in ("first", "count", "bits")} | parts
