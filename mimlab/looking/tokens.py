"""What tokenizers keep of images: tokens, round trips, how much of the vocabulary is in use, what a token looks like,
and which tokens are neighbours."""

import math
import time
from typing import NamedTuple

import torch
from torch.nn.functional import interpolate

from mimlab import data, tokenizers
from mimlab.errors import Refused
from mimlab.layers import patchify
from mimlab.looking.look import pick

SHOWN = 96  # tokens of which pictures are made
PAIRED = 24  # tokens whose neighbours are shown
AT_ONCE = 64  # images
ALONE = 3  # a token's picture is the middle of so many by so many equal ones


class Studied(NamedTuple):
    """Tokenizers on the same images. Dicts are name -> value, in the order given.

    `images` (B, 3, H, W) in [0, 1], `grid` (h, w); `ids` (B, N); `decoded` (B, 3, H, W), not there for a tokenizer that
    draws nothing; `counts` (K,), of all images; `shown` (S,) the tokens most in use, and `pictures` (S, 3, P, P) of
    them; `numbers`: one row a tokenizer, for a table.
    """

    images: torch.Tensor
    grid: tuple
    ids: dict
    decoded: dict
    counts: dict
    shown: dict
    pictures: dict
    numbers: list


@torch.no_grad()
def study(images, named, grid, shown=SHOWN):
    """What each tokenizer makes of images (B, 3, H, W) in [0, 1]; `named` is name -> fitted tokenizer: `Studied`.

    PSNR is over all pixels of the images as they are: where a tokenizer sees them smaller, what that loses counts too.
    """
    if not named or not len(images):
        raise Refused(f"{len(named)} tokenizers and {len(images)} images: there must be at least one of each")
    found = Studied(images, grid, {}, {}, {}, {}, {}, [])
    for name, tokenizer in named.items():
        ids = torch.cat([tokenizer(some, grid) for some in images.split(AT_ONCE)])
        counts = torch.bincount(ids.flatten(), minlength=tokenizer.vocab)
        top = counts.argsort(descending=True, stable=True)[: min(shown, int((counts > 0).sum()))]
        found.ids[name], found.counts[name], found.shown[name] = ids, counts, top
        use = tokenizers.usage(ids, tokenizer.vocab)
        row = {"tokenizer": name, "PSNR (dB)": None, "vocabulary": tokenizer.vocab, "used": use["used"]}
        row |= {"unused": tokenizer.vocab - use["used"], "entropy (bits)": round(use["entropy_bits"], 2)}
        row |= {"perplexity": round(2 ** use["entropy_bits"], 1), "top token (%)": round(100 * use["top_share"], 1)}
        if tokenizer.can_decode:
            found.decoded[name] = round_trip(tokenizer, ids, grid, images.shape[2:])
            found.pictures[name] = drawn(tokenizer, top)
            row["PSNR (dB)"] = psnr(images, found.decoded[name])
        else:
            found.pictures[name] = averaged(images, ids, top, grid, tokenizer.patch)
        if tokenizers.collapsed(use, tokenizer.vocab):
            row["warning"] = "collapsed"
        found.numbers.append(row)
    return found


def round_trip(tokenizer, ids, grid, size):
    """What a tokenizer draws for ids (B, N), at `size` (H, W): (B, 3, H, W) in [0, 1]."""
    pictures = torch.cat([tokenizer.decode(some, grid) for some in ids.split(AT_ONCE)])
    if tuple(pictures.shape[2:]) == tuple(size):
        return pictures
    return interpolate(pictures, tuple(size), mode="bicubic", antialias=True).clamp(0, 1)


def drawn(tokenizer, ids):
    """What a tokenizer draws for single tokens (S,), each amid its like: (S, 3, P, P) in [0, 1]."""
    side, patch = ALONE * tokenizer.patch, tokenizer.patch
    pictures = [tokenizer.decode(some[:, None].expand(-1, ALONE**2), (ALONE, ALONE)) for some in ids.split(AT_ONCE)]
    middle = slice((side - patch) // 2, (side + patch) // 2)
    return torch.cat(pictures)[:, :, middle, middle]


def averaged(images, ids, wanted, grid, patch):
    """The mean patch of each token, for tokenizers that draw nothing: images, ids (B, N), (S,) -> (S, 3, P, P)."""
    patches = torch.cat([patchify(tokenizers.resize(some, grid, patch), patch) for some in images.split(AT_ONCE)])
    where, order = ids.flatten(), wanted.sort()
    place = torch.searchsorted(order.values, where).clamp(max=len(wanted) - 1)
    kept = order.values[place] == where
    sums = patches.new_zeros(len(wanted), patches.shape[2]).index_add_(0, place[kept], patches.flatten(0, 1)[kept])
    means = sums / torch.bincount(place[kept], minlength=len(wanted))[:, None]
    return means[order.indices.argsort()].view(-1, 3, patch, patch)


def psnr(images, others):
    """Peak signal to noise ratio in dB over all pixels of all images, two digits."""
    return round(-10 * math.log10(max(float((images - others).square().mean()), 1e-12)), 2)


class Neighbours(NamedTuple):
    """Which tokens lie beside and below which.

    `tokens` (S,) by use; `counts` int64 (2, S, S): how often the row's token has the column's at its right (first) and
    below it (second); `expected` (2, S, S): how often it would if the two were independent.
    """

    tokens: torch.Tensor
    counts: torch.Tensor
    expected: torch.Tensor

    @property
    def pmi(self):
        """Pointwise mutual information in bits, log2(counts / expected); NaN for pairs that do not occur."""
        ratio = self.counts / self.expected
        return torch.where(self.counts > 0, ratio.log2(), math.nan)


def neighbours(ids, grid, wanted):
    """Right and lower neighbours among the tokens `wanted` (S,) in ids (B, N): `Neighbours`.

    Expected: times that the token is a left (upper) one, times that the other is a right (lower) one, over all pairs,
    of which the other tokens are part. Church and Hanks (1990), "Word association norms, mutual information, and
    lexicography".
    """
    (h, w), size = grid, len(wanted)
    place = torch.full((int(max(ids.max(), wanted.max())) + 1,), size)  # the others share one place
    place[wanted] = torch.arange(size)
    maps = place[ids].view(-1, h, w)
    counts, expected = [], []
    for first, second in ((maps[:, :, :-1], maps[:, :, 1:]), (maps[:, :-1], maps[:, 1:])):
        pairs = torch.bincount((first * (size + 1) + second).flatten(), minlength=(size + 1) ** 2)
        pairs = pairs.view(size + 1, size + 1)
        counts.append(pairs[:size, :size])
        expected.append(pairs.sum(1)[:size, None].double() * pairs.sum(0)[:size] / max(int(pairs.sum()), 1))
    return Neighbours(wanted, torch.stack(counts), torch.stack(expected))


class Explored(NamedTuple):
    """What `explore` found, as `Studied`: pictures of the first images only, all else of all of them.

    Besides: `vocab` name -> size, `neighbours` name -> `Neighbours`; `numbers` also have the seconds of fitting, next
    to nothing where a fitted tokenizer was kept; `about`: which images, and the seed.
    """

    images: torch.Tensor
    grid: tuple
    ids: dict
    decoded: dict
    counts: dict
    shown: dict
    pictures: dict
    numbers: list
    vocab: dict
    neighbours: dict
    about: str = ""


def explore(cfg):
    """Fit the tokenizers that a `Tokens` names to the train split, and study them on the test split: `Explored`."""
    cfg = cfg.resolved()
    grid = (cfg.image_size // cfg.patch_size,) * 2
    train, test = (
        data.open(cfg.data, split, size=cfg.image_size, seed=cfg.seed, **cfg.data_args) for split in ("train", "test")
    )
    named, seconds = {}, {}
    for name in cfg.names():
        vocab, options = cfg.options(name)
        began = time.perf_counter()
        named[name] = tokenizers.fitted(name, train, grid, cfg.image_size, vocab, cfg.token_patch, cfg.seed, **options)
        seconds[name] = round(time.perf_counter() - began, 1)
    found = study(pick(test, cfg.samples, cfg.seed), named, grid)
    for row in found.numbers:
        row["fitting (s)"] = seconds[row["tokenizer"]]
    beside = {name: neighbours(ids, grid, found.shown[name][:PAIRED]) for name, ids in found.ids.items()}
    first = {
        name: {key: value[: cfg.images] for key, value in getattr(found, name).items()} for name in ("ids", "decoded")
    }
    vocab = {name: len(counts) for name, counts in found.counts.items()}
    about = (
        f"of {len(found.images):,} test images of {cfg.data}; vocabularies fitted to its train split, seed {cfg.seed}"
    )
    beside = {"images": found.images[: cfg.images], "vocab": vocab, "neighbours": beside, "about": about}
    return Explored(**found._asdict() | first | beside)
