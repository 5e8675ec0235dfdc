"""What a method fills in under a mask, and how well: pictures, tokens, numbers, and their fall with the distance.

Letters: B images, N patches, K vocabulary.
"""

import math
from typing import NamedTuple

import torch

from mimlab import masks
from mimlab.distributed import generator_for
from mimlab.looking.quality import decibel, distance, distances, of_patches, whole
from mimlab.methods import Batch, Method, Progress, Tokens
from mimlab.tokenizers import usage

ROOM = 1 << 24  # values a layer may make at a time, 64 MiB
RATIOS = (0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.85, 0.95)


class Seen(NamedTuple):
    """What a model fills in; whatever there is none of is None or empty, and `note` says why.

    `about`: what it predicts, by what, under which mask. `images` (B, 3, H, W); `mask` bool (B, N); `grid`; `other`: the
    mask of the second look. `filled`, `leaking` (true statistics of hidden pixels put back), `filled_rest` (under
    `other`): images. `loss` (B, N), NaN where visible; `tokens`; `vocab`; `further`: the method's own pictures by title.
    `numbers`: a row for a table, over all measured images; `each`: a row for each image shown; `distances`: quantity
    -> series -> rows of `by_distance`.
    """

    about: str
    note: str
    method: Method
    images: torch.Tensor
    grid: tuple
    numbers: dict
    mask: torch.Tensor = None
    other: torch.Tensor = None
    filled: torch.Tensor = None
    leaking: torch.Tensor = None
    filled_rest: torch.Tensor = None
    loss: torch.Tensor = None
    tokens: Tokens = None
    vocab: int = 0
    further: dict = {}
    each: list = ()
    distances: dict = {}

    @property
    def labels(self):
        """The PSNR of each image shown, in words, or None."""
        found = [f"{row['psnr_hidden']:.1f} dB" for row in self.each if "psnr_hidden" in row]
        return found or None

    @property
    def tables(self):
        """Rows for two tables: of all measured images, and of each that is shown."""
        whole = [{"quantity": name, "value": value} for name, value in self.numbers.items()]
        return whole, list(self.each) or [{"image": self.note}]


@torch.inference_mode()
def look(cfg):
    """What the model of a `Look` fills in under its mask, `Seen`, with numbers over `samples` images."""
    cfg, opened = cfg.opened()
    method, shown = opened.method, slice(cfg.images)
    found = opened.images(max(cfg.images, cfg.samples), cfg.seed, cfg.data, cfg.split, **cfg.data_args)
    many, grid = found.images, method.encoder.grid
    images = many[shown]
    if not method.masked:
        note = f"{opened.title}: {name_of(method)} hides no patches and reconstructs nothing, so there is no picture"
        return Seen(note, note, method, images, grid, {"images": len(many)})
    hidden = draw(cfg, method, many)
    noise = torch.rand(hidden.shape, generator=generator_for(cfg.seed, 1, "look"))
    numbers = {"images": len(many)} | own_logs(method, many, hidden, noise)
    filled, judged = (in_parts(ask, method, many, hidden) for ask in (method.reconstruct, method.judge))
    values = of_patches(many, hidden, grid, filled, judged)
    numbers |= whole(values)
    if judged is not None and judged.tokens is not None:
        used = usage(judged.tokens.true, method.tokenizer.vocab)
        numbers |= {
            "token_majority": used["top_share"],
            "tokens_used": used["used"],
            "token_entropy_bits": used["entropy_bits"],
        }
    mask = hidden[shown]
    seen = Seen(
        _about(cfg, opened, mask, found.about),
        f"{filled.note}<br>{found.about}" if filled else _no_picture(method),
        method,
        images,
        grid,
        {name: round(float(value), 4) if isinstance(value, float) else value for name, value in numbers.items()},
        mask=mask,
        further=in_parts(method.further, method, images, mask),
        each=[{"image": k} | whole({n: v[k : k + 1] for n, v in values.items()}) for k in range(len(images))],
        distances=distances(values, distance(hidden, grid)),
    )
    if judged is not None:
        seen = seen._replace(loss=judged.loss[shown].float().masked_fill(~mask, math.nan))
        if judged.tokens is not None:
            seen = seen._replace(tokens=Tokens(*(x[shown] for x in judged.tokens)), vocab=method.tokenizer.vocab)
    if filled is None:
        return seen
    other, _ = method.other(mask, noise[shown], int((~mask[0]).sum()))
    rest = in_parts(method.reconstruct, method, images, other).images
    leaking = None if filled.leaking is None else filled.leaking[shown]
    return seen._replace(filled=filled.images[shown], leaking=leaking, filled_rest=rest, other=other)


def draw(cfg, method, images, ratio=None):
    """Masks of a resolved `Look` for images (B, 3, H, W), at its ratio or another: bool (B, N)."""
    grid, scores = method.encoder.grid, None
    generator = generator_for(cfg.seed, 0, "look")
    if masks.looks(cfg.mask):  # it may ask the method for all its predictions, so some images at a time
        scores = in_parts(lambda part: masks.score(cfg.mask, part, grid, method, **cfg.mask_args), method, images)
        scores = scores.float().cpu()
    share = cfg.mask_ratio if ratio is None else ratio
    return masks.sample(cfg.mask, len(images), grid, share, generator, scores, images, method, **cfg.mask_args)


class Sweep(NamedTuple):
    """One image a row at rising ratios. `images` (B, 3, H, W); `grid`; `ratios`: shares hidden; by ratio: `masks`
    (B, N), `fills` (B, 3, H, W), `psnr`, B numbers in dB. `note` says why there are none."""

    images: torch.Tensor
    grid: tuple
    ratios: list
    masks: list
    fills: list
    psnr: list
    note: str


@torch.inference_mode()
def sweep(seen, cfg, images=3):
    """The first images of a `Seen` at `RATIOS`, by the strategy of its `Look`, with the same seed: `Sweep`."""
    method, pictures, grid = seen.method, seen.images[:images], seen.grid
    n, found = grid[0] * grid[1], Sweep(seen.images[:images], grid, [], [], [], [], seen.note)
    if seen.filled is None:
        return found
    cfg = cfg.resolved()
    for hidden in sorted({min(max(1, round(ratio * n)), n - 1) for ratio in RATIOS}):
        mask = draw(cfg, method, pictures, hidden / n)
        filled = in_parts(method.reconstruct, method, pictures, mask).images
        found.ratios.append(hidden / n)
        found.masks.append(mask)
        found.fills.append(filled)
        found.psnr.append([psnr(pictures[[k]], filled[[k]], mask[[k]], grid) for k in range(len(pictures))])
    return found


@torch.inference_mode()
def asked(method, images, mask):
    """What a method does under a mask: mean loss of a hidden patch, token accuracy, PSNR of what it fills in."""
    numbers, grid = {}, method.encoder.grid
    judged = method.judge(images, mask)
    if judged is not None:
        numbers["loss"] = round(float(judged.loss[mask].mean()), 4)
        if judged.right is not None:
            numbers["token accuracy"] = round(float(judged.right[mask].float().mean()), 4)
    filled = method.reconstruct(images, mask)
    if filled is not None:
        numbers["psnr of the run"] = psnr(images, filled.images, mask, grid)
    return numbers


def psnr(images, filled, mask, grid):
    """Peak signal to noise ratio in dB over the hidden pixels of all images."""
    hidden = masks.pixels(mask, grid, images.shape[2:]).expand_as(images)
    return round(decibel(float((images - filled)[hidden].square().mean())), 2)


def own_logs(method, images, mask, noise):
    """The loss of training and what the method logs with it, means over parts of the images: name -> float."""
    sums = {}
    for part in split(method, images, mask, noise):
        output = method(Batch(part[0], part[2]), part[1], Progress())
        for name, value in ({"loss": output.loss} | output.logs).items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(part[0]) / len(images)
    return sums


def split(method, *tensors):
    """Tensors with the same rows in as few equal parts as `ROOM` allows."""
    n, vocab = math.prod(method.encoder.grid), method.tokenizer.vocab if method.tokenizer is not None else 0
    most = max(1, ROOM // (n * max(vocab, 4 * method.encoder.dim)))
    parts = -(-len(tensors[0]) // most)
    return list(zip(*(x.tensor_split(parts) for x in tensors), strict=True))


def in_parts(ask, method, *tensors):
    """What `ask` says of all rows, asked in parts: tensors, or None, dicts and tuples of them."""
    return joined([ask(*part) for part in split(method, *tensors)])


def joined(parts):
    first = parts[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(parts)
    if isinstance(first, dict):
        return {name: joined([part[name] for part in parts]) for name in first}
    if isinstance(first, tuple):
        return type(first)(*(joined(list(field)) for field in zip(*parts, strict=True)))
    return first


def name_of(method):
    return type(method).__module__.rpartition(".")[2]


def _about(cfg, opened, mask, which):
    method, (count, n) = opened.method, (int(mask[0].sum()), mask.shape[1])
    said = f" ({opened.note})" if opened.note else ""
    strategy = getattr(cfg.mask, "__name__", cfg.mask)
    what = method.predicts or "nothing of single patches"
    return f"{opened.title}{said}\n{name_of(method)} predicts {what}.\n{strategy} masks hide {count} of {n} patches of {which}."


def _no_picture(method):
    if not method.predicts:
        return f"{name_of(method)} predicts nothing of single patches here, so it predicts no picture"
    name = type(method.tokenizer).__module__.rpartition(".")[2]
    return (
        f"{name_of(method)} with tokenizer = {name} predicts no picture; pre-train with kmeans, random_patches or dvae"
    )
