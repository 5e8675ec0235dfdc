"""Discrete targets: a number below the size of a vocabulary for each patch. Each file is one way to get them.

`PatchTokenizer` is that of SplitMask, section 3.3 and 5.5 (arXiv 2112.10740), in pixel space: a vocabulary of unit
vectors e_i, and the token of a patch x is arg max_i x . e_i, the highest cosine similarity. `dvae` and `dalle` are
networks. A tokenizer is frozen: buffers, no parameters. Letters: B batch, N patches, K vocabulary, P patch side in
pixels, D = 3 * P * P in the order channel, row, column.
"""

import hashlib
import inspect
import json
import math
import os

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import interpolate, normalize

from mimlab.errors import Refused
from mimlab.find import check_options, closest, find, options
from mimlab.layers import PIXELS, patchify, unpatchify

NORMALISE = ("imagenet", "none")
ROOM = 1 << 22  # similarities held at a time, 16 MiB: 512 patches at a vocabulary of 8,192


class Base(nn.Module):
    """What a tokenizer is: `vocab` tokens, for images whose patches it sees as `patch` pixels wide.

    `wants` says what `fit` gets: "patches" (M, D) of [0, 1] pixels; "images" (M, 3, h * P, w * P), uint8; or "files",
    nothing, since the options name files, which are read anew each time. Built as `Tokenizer(vocab, patch, *, options)`.
    """

    wants = "patches"
    can_decode = True
    costly = False  # costs more than a model's step: tokens of views that come again are worth keeping

    def __init__(self, vocab, patch):
        super().__init__()
        whole("vocab", vocab, 2)
        whole("patch", patch, 1)
        self.vocab, self.patch = vocab, patch

    def remember(self, most):
        """Keep the tokens of at most `most` images, so that the same pixels are tokenized once."""
        from mimlab.tokenizers._memory import Memory

        self.forward = Memory(self.forward, most, self.vocab)

    def ready(self):
        """Refuse what `fit` would refuse without any data, such as a missing file."""

    def wanted(self):
        """How many patches or images `fit` makes use of; 0 if none."""
        raise NotImplementedError

    def fit(self, data, generator):
        """Make the vocabulary from what it `wants`. Refuses too little of it."""
        raise NotImplementedError

    def forward(self, images, grid):
        """Tokens in raster order: images (B, 3, H, W) in [0, 1] -> ids (B, h * w) int64 < vocab.

        Images of another size than grid * patch are resized (bicubic, antialiased, clamped to [0, 1]).
        """
        raise NotImplementedError

    def decode(self, ids, grid):
        """An image of the tokens: ids (B, N) -> (B, 3, h * P, w * P) in [0, 1]; Refused where there is no way."""
        raise NotImplementedError

    def expected(self, logits, grid):
        """One image for predicted tokens, certain or not: logits (B, N, K) -> (B, 3, h * P, w * P) in [0, 1]."""
        raise NotImplementedError


class PatchTokenizer(Base):
    """The paper's token rule, for any codebook; subclasses say in `fit` where the codebook comes from.

    `normalise`: "imagenet" removes ImageNet's mean and standard deviation from the pixels, "none" leaves
    [0, 1]. `centre` removes each patch's own mean as well. The paper states neither; with raw pixels the
    brightness of a patch decides most tokens, and a vocabulary with both signs collapses to few tokens.
    Buffers: `codebook` (K, D) unit rows; `pixels` (K, D) uint8, what `decode` pastes, where it can.
    """

    def __init__(self, vocab=8192, patch=8, *, normalise="imagenet", centre=False):
        super().__init__(vocab, patch)
        if normalise not in NORMALISE:
            raise Refused(
                f"normalise = {normalise!r} is unknown{closest(normalise, NORMALISE)}; "
                f"there are: {', '.join(NORMALISE)}"
            )
        self.normalise, self.centre = normalise, centre
        self.register_buffer("codebook", torch.zeros(vocab, 3 * patch * patch))
        if self.can_decode:
            self.register_buffer("pixels", torch.zeros(vocab, 3 * patch * patch, dtype=torch.uint8))

    @torch.no_grad()
    def forward(self, images, grid):
        with torch.autocast(images.device.type, enabled=False):  # half precision would change tokens
            x = patchify(resize(images.float(), grid, self.patch), self.patch)  # (B, N, D)
            return nearest(self.vectors(x.flatten(0, 1)), self.codebook).view(x.shape[:2])

    def vectors(self, patches):
        """Pixels (M, D) as the codebook sees them: normalised and centred as the options say."""
        x = self.normalised(patches)
        return x - x.mean(1, keepdim=True) if self.centre else x

    def normalised(self, patches):
        """Pixels (M, D) less the mean, over the standard deviation; [0, 1] pixels for "none"."""
        if self.normalise == "none":
            return patches
        mean, std = _statistics(patches)
        return (patches - mean) / std

    def pixels_of(self, vectors):
        """The inverse of the normalisation (not of `centre`): (M, D) -> [0, 1] pixels."""
        if self.normalise == "imagenet":
            mean, std = _statistics(vectors)
            vectors = vectors * std + mean
        return vectors.clamp(0, 1)

    def different(self, patches, generator):
        """Row numbers of `vocab` random distinct patches that have a direction: (M, D) -> (vocab,) int64."""
        rows = distinct(patches)
        rows = rows[torch.cat([~flat(self.vectors(patches[some])) for some in rows.split(1 << 16)])]
        return chosen(rows, self.vocab, len(patches), generator)

    def set_codebook(self, vectors, pixels=None):
        """Use the directions of `vectors` (K, D); `pixels` (K, D) in [0, 1] are what `decode` pastes."""
        self.codebook.copy_(normalize(vectors.double(), dim=1))
        if pixels is not None:
            self.pixels.copy_((pixels * 255).round())

    def decode(self, ids, grid):
        """The vocabulary's own patches."""
        if not self.can_decode:
            raise Refused(f"{type(self).__module__} has no pixels to decode its tokens to")
        return unpatchify(self.pixels[ids].float() / 255, grid, self.patch)

    def expected(self, logits, grid):
        """The mean codebook patch under the probabilities.

        Of all pictures that the vocabulary can mix, the one with the smallest expected squared error.
        """
        if not self.can_decode:
            raise Refused(f"{type(self).__module__} has no pixels to decode its tokens to")
        return unpatchify(logits.float().softmax(dim=2) @ (self.pixels.float() / 255), grid, self.patch)


def resize(images, grid, patch):
    """Images (B, 3, H, W) at (h * P, w * P): bicubic with antialias, clamped to [0, 1]; as they are if they fit."""
    size = (grid[0] * patch, grid[1] * patch)
    if tuple(images.shape[-2:]) == size:
        return images
    return interpolate(images, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def nearest(vectors, codebook):
    """The token rule: arg max of the dot product with unit rows, (M, D) and (K, D) -> (M,) int64.

    The length of a vector does not matter, so this is the highest cosine similarity. A vector of no length
    (a flat patch, once centred, is rounding noise) gets token 0. Chunked: memory does not grow with M * K.
    """
    vectors = vectors.masked_fill(flat(vectors)[:, None], 0)
    return highest(vectors, codebook)


@torch.no_grad()
def highest(vectors, rows, shift=None):
    """For every vector the row of greatest dot product, less `shift` (K,): (M, D), (K, D) -> (M,) int64.

    The lower number if equal. Chunks share one piece of memory: a fresh one costs a quarter of the time.
    """
    step = max(1, ROOM // len(rows))
    room = vectors.new_empty(min(step, len(vectors)), len(rows))
    start, beta = (vectors.new_zeros(()), 0) if shift is None else (shift, -1)
    chunks = vectors.split(step)
    return torch.cat([torch.addmm(start, x, rows.T, beta=beta, out=room[: len(x)]).argmax(1) for x in chunks])


def flat(vectors):
    """Which vectors have no direction beyond rounding: (M, D) -> (M,) bool."""
    return vectors.square().mean(1) < 1e-10


def distinct(patches):
    """Row numbers of the first of each set of equal patches: (M, D) -> (M',) int64, by a 64-bit hash."""
    random = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (patches.shape[1],), generator=random)
    chunks = patches.float().contiguous().view(torch.int32).split(1 << 16)
    hashes = torch.cat([(chunk * weights).sum(1) for chunk in chunks])  # wraps around, as meant
    order = hashes.argsort(stable=True)
    changes = hashes[order].diff() != 0
    return order[torch.cat([changes.new_ones(1), changes])].sort().values


def chosen(rows, vocab, of, generator):
    """`vocab` of the row numbers (M,), at random; `Refused` where there are fewer. `of`: how many patches there were."""
    if len(rows) < vocab:
        raise Refused(
            f"vocab = {vocab} is more than the {len(rows)} distinct patches (of {of}) there are; "
            f"use a smaller vocabulary or more images"
        )
    return rows[torch.randperm(len(rows), generator=generator)[:vocab]]


def scattered(images, patch, each, generator):
    """`each` random patches of every image: (B, 3, H, W) -> (B * each, D)."""
    x = patchify(images, patch)  # (B, N, D)
    ids = torch.rand(x.shape[:2], generator=generator).argsort(1)[:, :each]
    return x.gather(1, ids[..., None].expand(-1, -1, x.shape[2])).flatten(0, 1)


def whole(name, value, least):
    """Refuse an option that is no integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise Refused(f"{name} = {value!r} is not an integer of at least {least}")


def usage(ids, vocab):
    """How much of the vocabulary ids use: {"used", "entropy_bits", "top_share"}; 0 bits if one token is all."""
    counts = torch.bincount(ids.flatten(), minlength=vocab).double()
    share = counts[counts > 0] / counts.sum()
    entropy = -(share * share.log2()).sum().item()
    return {"used": len(share), "entropy_bits": max(0.0, entropy), "top_share": share.max().item()}


def collapsed(usage, vocab):
    """A warning if the tokens say next to nothing about the patches, else None.

    The most used token is left out: on drawings it is the flat background, and may be most patches. What
    counts is the entropy of the others, below 3 bits (8 tokens in even use) or half of what the vocabulary
    allows; from the entropy H of all and the top share p that is (H - H2(p)) / (1 - p), H2 in bits. Meant for
    some hundred patches or more.
    """
    p = usage["top_share"]
    if p < 1:
        top = -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
        rest = (usage["entropy_bits"] - top) / (1 - p)
        if rest >= min(3, math.log2(vocab - 1) / 2) - 1e-9:
            return None
    return (
        f"tokens have collapsed: {usage['used']} of {vocab} in use, {100 * p:.0f} % of the patches have the same, "
        f'{usage["entropy_bits"]:.1f} bits in all; try another tokenizer, or, where it has them, normalise = "imagenet" '
        f"or centre = True"
    )


def fitted(name, data, grid, image_size, vocab, patch, seed, **given):
    """The tokenizer `name`, fitted to `data` once and kept in the cache folder: a frozen `Tokenizer`.

    `data` are `Images`; grid (h, w) and image_size (pixels, or (H, W)) are the model's, so that it is fitted
    to what `forward` will see. `given` are the tokenizer's options, checked here. The file's name is
    a hash of the data's fingerprint and all settings, so that another subset or option is another file.
    """
    from mimlab.data import home  # loads the data code, which a tokenizer in a running method does not need

    kind = getattr(find("tokenizers", name), "Tokenizer", None)
    if kind is None:
        raise Refused(f"tokenizer = {name!r} has no class Tokenizer")
    check_options("tokenizer_args", given, kind)
    tokenizer = kind(vocab, patch, **given)
    if tokenizer.wants == "files":
        tokenizer.fit(None, None)
        return tokenizer.eval()
    size = [image_size, image_size] if isinstance(image_size, int) else list(image_size)
    settings = {"grid": list(grid), "image_size": size, "vocab": vocab, "patch": patch, "seed": seed}
    settings |= {"options": options(kind) | given, "data": data.fingerprint, "code": _code(kind)}
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    path = home() / "tokenizers" / f"{kind.__module__.rpartition('.')[2]}-{key}.safetensors"
    if path.exists():
        tokenizer.load_state_dict(load_file(path))
        return tokenizer.eval()
    generator = torch.Generator().manual_seed(seed)
    draw = _images if tokenizer.wants == "images" else _draw
    tokenizer.fit(draw(data, grid, size, patch, tokenizer.wanted(), generator), generator)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(f".{os.getpid()}.tmp")
    save_file(tokenizer.state_dict(), aside)
    os.replace(aside, path)
    return tokenizer.eval()


def _code(kind):
    """A name for the code that fits: the module, and for a user's own file, which may change, its text."""
    text = "" if kind.__module__.startswith("mimlab.") else inspect.getsource(inspect.getmodule(kind))
    return f"{kind.__module__}:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _draw(data, grid, size, patch, wanted, generator):
    """At most `wanted` random patches, from as many different images as there are: (M, D) in [0, 1]."""
    rows = torch.randperm(len(data), generator=generator)[:wanted]
    each = min(grid[0] * grid[1], -(-wanted // len(data)))  # per image
    drawn = [torch.zeros(0, 3 * patch * patch)]
    for pixels in _seen(data, rows, grid, size, patch):
        drawn.append(scattered(pixels, patch, each, generator))
    return torch.cat(drawn)[:wanted]


def _images(data, grid, size, patch, wanted, generator):
    """At most `wanted` random images as `forward` will see them: (M, 3, h * P, w * P) uint8."""
    rows = torch.randperm(len(data), generator=generator)[:wanted]
    return torch.cat([(x * 255).round().byte() for x in _seen(data, rows, grid, size, patch)])


def _seen(data, rows, grid, size, patch):
    """Images of `rows` as `forward` will see them, some at a time: (B, 3, h * P, w * P) in [0, 1]."""
    for some in rows.split(256) if len(rows) else ():
        pixels = data.get(some.numpy()).float() / 255
        if list(pixels.shape[-2:]) != size:
            pixels = interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        yield resize(pixels, grid, patch)


def _statistics(patches):
    """ImageNet's mean and standard deviation for every value of a patch: two (D,)."""
    each = patches.shape[1] // 3
    return (patches.new_tensor(values).repeat_interleave(each) for values in PIXELS["imagenet"])
