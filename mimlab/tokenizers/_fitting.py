"""A tokenizer fitted to a training set once, and the patches or images that it is fitted to."""

import hashlib
import inspect

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.nn.functional import interpolate

from mimlab import files, strict
from mimlab.checkpoints import load, read_safetensors
from mimlab.errors import Refused, reason, shown
from mimlab.find import check_options, find, options
from mimlab.layers import patchify
from mimlab.progress import say
from mimlab.tokenizers._base import resize


def fitted(name, data, grid, image_size, vocab, patch, seed, **given):
    """The tokenizer `name`, fitted to `data` once and kept in the cache folder: a frozen `Tokenizer`.

    `data` are `Images`; grid (h, w) and image_size (pixels, or (H, W)) are the model's, so that it is fitted
    to what `forward` will see. `given` are the tokenizer's options, checked here. The file's name is
    a hash of the data's fingerprint and all settings, so that another subset or option is another file.
    """
    from mimlab.data import home  # loads the data code, which a tokenizer in a running method does not need

    kind = getattr(find("tokenizers", name), "Tokenizer", None)
    if kind is None:
        raise Refused(f"tokenizer = {shown(name)} has no class Tokenizer")
    check_options("tokenizer_args", given, kind)
    tokenizer = kind(vocab, patch, **given)
    if tokenizer.wants == "files":
        tokenizer.fit(None, None)
        return tokenizer.eval()
    size = [image_size, image_size] if isinstance(image_size, int) else list(image_size)
    settings = {"grid": list(grid), "image_size": size, "vocab": vocab, "patch": patch, "seed": seed}
    settings |= {"options": options(kind) | given, "data": data.fingerprint, "code": _code(kind)}
    key = hashlib.sha256(strict.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    path = home() / "tokenizers" / f"{kind.__module__.rpartition('.')[2]}-{key}.safetensors"
    if path.exists():
        fresh = {key: value.clone() for key, value in tokenizer.state_dict().items()}
        try:
            load(tokenizer, read_safetensors(path), str(path))
            return tokenizer.eval()
        except Refused as error:  # damaged on the disk: fitted anew
            say(f"fitted anew: {error}")
            tokenizer.load_state_dict(fresh)
    generator = torch.Generator().manual_seed(seed)
    draw = drawn_images if tokenizer.wants == "images" else drawn_patches
    tokenizer.fit(draw(data, grid, size, patch, tokenizer.wanted(), generator), generator)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.aside(path, synced=True) as fresh:
            save_file(tokenizer.state_dict(), fresh)
    except (OSError, Refused, SafetensorError) as error:  # a full disk: the next run fits it again
        say(f"note: the fitted tokenizer is not kept in {path.parent} ({reason(error)}); set MIMLAB_HOME elsewhere")
    return tokenizer.eval()


def _code(kind):
    """A name for the code that fits: the module, and for a user's own file, which may change, its text."""
    text = "" if kind.__module__.startswith("mimlab.") else inspect.getsource(inspect.getmodule(kind))
    return f"{kind.__module__}:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def drawn_patches(data, grid, size, patch, wanted, generator):
    """At most `wanted` random patches, from as many different images as there are: (M, D) in [0, 1]."""
    rows = torch.randperm(len(data), generator=generator)[:wanted]
    each = min(grid[0] * grid[1], -(-wanted // len(data)))  # per image
    drawn = [torch.zeros(0, 3 * patch * patch)]
    for pixels in _seen(data, rows, grid, size, patch):
        drawn.append(scattered(pixels, patch, each, generator))
    return torch.cat(drawn)[:wanted]


def drawn_images(data, grid, size, patch, wanted, generator):
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


def scattered(images, patch, each, generator):
    """`each` random patches of every image: (B, 3, H, W) -> (B * each, D)."""
    x = patchify(images, patch)  # (B, N, D)
    ids = torch.rand(x.shape[:2], generator=generator).argsort(1)[:, :each]
    return x.gather(1, ids[..., None].expand(-1, -1, x.shape[2])).flatten(0, 1)
