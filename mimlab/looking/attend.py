"""What notebook 05 shows: the attention of one model, or two, on the same images."""

from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch.nn.functional import interpolate

from mimlab.encoders import Encoder
from mimlab.errors import Refused
from mimlab.looking import attention
from mimlab.looking.opened import open_model

MEASURED = 32  # images that distance and entropy are means over, however few are shown
KEPT = 2  # images whose attention stays in memory: of a ViT-B at 480 pixels an image has 0.5 GB


@dataclass
class Looked:
    """One model on images, (B, 3, H, W) in [0, 1]; what it has no attention for is None, and `said` tells why.

    `about`: which images they are, in words.

    `layers`: how many; `layer`: the chosen one; `query`: "cls" or (row, column); `maps` (L, B, heads, N): the query's
    weights on patches; `rolled` how the heads are fused -> (B, N), the query's row of the rollout; `distance` and `entropy` (L, heads) in
    pixels and nats, over `measured` images; `channels` (L, heads, d, d): an XCiT's cross-covariance of the first image.
    """

    title: str
    encoder: Encoder
    images: torch.Tensor
    grid: tuple
    about: str = ""
    layers: int = 0
    layer: int = 0
    query: str | tuple = "cls"
    measured: int = 0
    maps: torch.Tensor | None = None
    rolled: dict | None = None
    distance: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    channels: torch.Tensor | None = None
    said: dict = field(default_factory=dict)

    def __post_init__(self):
        self.captured = lru_cache(maxsize=KEPT)(self._captured)

    def _captured(self, k):
        """Attention (L, heads, Q, T) of image `k`, all layers."""
        return attention.captured(self.encoder, self.images[k : k + 1])[:, 0]

    def why(self, picture):
        """One line for a picture that there is not."""
        return self.said.get(picture, self.said.get("maps", ""))


@dataclass
class Attended:
    """`first`: a `Looked`; `other`: a second one on the same images, or None; `threshold`: of the mass."""

    first: Looked
    other: Looked | None
    threshold: float

    @property
    def models(self):
        return [self.first] if self.other is None else [self.first, self.other]

    @property
    def pair(self):
        """Title -> (images, maps (B, N), grid) of two models with maps, the mean over the heads; else nothing."""
        shown = [model for model in self.models if model.maps is not None]
        pair = {m.title: (m.images, m.maps[m.layer].mean(dim=1), m.grid) for m in shown}
        return pair if len(pair) == 2 else {}

    @property
    def alone(self):
        """Why there is no `pair`, in one line."""
        if self.other is None:
            return "one model is shown; set other to a second run or file"
        return next((model.why("maps") for model in self.models if model.maps is None), "")

    def by_depth(self, name):
        """Title -> (L, heads) of `distance` or `entropy`, for the models that have it."""
        found = {model.title: getattr(model, name) for model in self.models}
        return {title: values for title, values in found.items() if values is not None}

    # the arguments of each figure of notebook 05, or `Refused` with the line to show instead

    def gallery(self):
        one = self.first
        return {"maps": self._have("maps")[one.layer], "title": f"Attention in layer {one.layer}"} | self._shown(one)

    def masses(self):
        return {"maps": self._have("maps")[self.first.layer], "threshold": self.threshold} | self._shown(self.first)

    def heads(self):
        one = self.first
        given = {"image": one.images[0], "maps": self._have("maps")[:, 0], "grid": one.grid}
        return given | {"query": one.query, "about": self._of(one)}

    def rollout(self):
        named = {"title": "Attention rollout", "note": "by how the heads are fused"}
        return {"maps": self._have("rolled")} | named | self._shown(self.first)

    def distance(self):
        return self._depth("distance", "Mean attention distance", "pixels")

    def entropy(self):
        return self._depth("entropy", "Attention entropy", "nats")

    def channels(self):
        return {"weights": self._have("channels"), "about": self._of(self.first)}

    def beside(self):
        if not self.pair:
            raise Refused(self.alone)
        return {"models": self.pair, "about": self.first.about}

    def _have(self, picture):
        found = getattr(self.first, picture)
        if found is None:
            raise Refused(self.first.why(picture))
        return found

    def _shown(self, one):
        return {"images": one.images, "grid": one.grid, "query": one.query, "about": self._of(one)}

    def _of(self, one):
        return f"{one.title} on {one.about}"

    def _depth(self, name, title, label):
        if not self.by_depth(name):
            raise Refused(self.first.why(name))
        one = self.first
        given = {"values": self.by_depth(name), "title": title, "label": label}
        return given | {"measured": one.measured, "about": one.about}


def attend(cfg):
    """`Attended` of an `Attend`; refuses a layer or query that the first model does not have."""
    cfg = cfg.resolved()
    opened = _opened(cfg, cfg.run, cfg.step)
    count = max(cfg.images, MEASURED)
    found = opened.images(count, cfg.seed, cfg.data, cfg.split, cfg.image_size, **cfg.data_args)
    images = found.images
    first = look(opened.title, opened.encoder, images, cfg.images, cfg.layer, cfg.place_of_query(), cfg.discard)
    first.about = found.about
    if first.query != "cls" and first.maps is None and first.layers:
        raise Refused(first.said["maps"])
    if cfg.other is None:
        return Attended(first, None, cfg.threshold)
    opened = _opened(cfg, cfg.other, None)
    title = opened.title if opened.title != first.title else f"{opened.title} (other)"
    size = (cfg.image_size, cfg.image_size) if cfg.image_size else opened.size
    if size != images.shape[2:]:
        images = interpolate(images, size=size, mode="bilinear", antialias=True).clamp(0, 1)
    where = _same_place(cfg.place_of_query(), first.grid, opened.encoder.cells(images))
    layer = _same_layer(first, opened.encoder)
    other = look(title, opened.encoder, images, cfg.images, layer, where, cfg.discard)
    return Attended(first, other, cfg.threshold)


def _opened(cfg, name, step):
    """A file's encoder alone: its decoder has no part in this."""
    if cfg.is_file(name):
        return open_model(name, cfg.out, step=step, load={"encoder": True} | cfg.load)
    if cfg.load and not any(cfg.is_file(one) for one in (cfg.run, cfg.other) if one):
        raise Refused(f"load: {', '.join(cfg.load)} belong to files of weights; {name} has settings of its own")
    return open_model(name, cfg.out, step=step)


def _same_place(query, grid, other):
    """The patch of another grid at the same place of the image."""
    if query == "cls":
        return query
    return tuple(int((at + 0.5) / cells * others) for at, cells, others in zip(query, grid, other, strict=True))


def _same_layer(first, encoder):
    """The layer at the same share of the depth."""
    try:
        layers = attention.depth(encoder)
    except Refused:
        return "last"
    return str(round(first.layer / max(first.layers - 1, 1) * (layers - 1)))


@torch.inference_mode()
def look(title, encoder, images, shown, layer="last", query="cls", discard=0.0):
    """`Looked` of an encoder in eval mode on the first `shown` of the images, numbers over all of them.

    `layer`: a number from 0 as text, or "last"; `discard`: of one more rollout, where above 0. Refuses a layer that
    is not there; what a model cannot show is said.
    """
    grid = encoder.cells(images)
    found = Looked(title, encoder, images[:shown], grid, query=query)
    try:
        found.layers = attention.depth(encoder)
    except Refused as reason:
        found.said["maps"] = str(reason)
        return found
    found.layer = found.layers - 1 if layer == "last" else int(layer)
    if not 0 <= found.layer < found.layers:
        raise Refused(f"layer = {layer}: {title} has layers 0 to {found.layers - 1}")
    one = attention.one_query(encoder)
    try:
        row = attention.row_of(query, grid, encoder.prefix, 1 if one else None)
    except Refused as reason:
        row, found.said["maps"] = None, str(reason)
    ways = {fuse: (fuse, 0.0) for fuse in attention.FUSIONS}
    ways |= {f"mean without the<br>smallest {discard:.0%}": ("mean", discard)} if discard else {}
    maps, rolled, distances, entropies = [], {name: [] for name in ways}, [], []
    for k in range(len(images)):
        weights = found.captured(k) if k < shown else attention.captured(encoder, images[k : k + 1])[:, 0]
        entropies.append(attention.entropy(weights[:, None]))
        if not one:
            distances.append(attention.distance(weights[:, None], grid, encoder.patch))
        if row is None or k >= shown:
            continue
        maps.append(weights[:, :, row, encoder.prefix :])
        for name in () if one else rolled:
            rolled[name].append(attention.rollout(weights[:, None], *ways[name])[0, row, encoder.prefix :])
    found.measured, found.entropy = len(images), torch.stack(entropies).mean(dim=0)
    if maps:
        found.maps = torch.stack(maps, dim=1)
    if one:
        found.said["rolled"] = found.said["distance"] = (
            f"{title}: only CLS looks at patches in its class-attention layers; there is neither rollout nor distance"
        )
        found.channels = torch.stack([*encoder.cross_covariance(images[:1], list(range(encoder.depth))).values()])[:, 0]
    else:
        found.distance, found.rolled = torch.stack(distances).mean(dim=0), None if row is None else {}
        for name in () if row is None else rolled:
            found.rolled[name] = torch.stack(rolled[name])
        found.said["channels"] = f"{title} attends between patches; cross-covariance is what an XCiT has"
    return found
