"""The training film: what a few fixed images look like to a run at each of its checkpoints.

Training keeps a frame before the first step and at every checkpoint, in film/<step>.npz of the run's folder: what the
method fills in under one fixed mask, where the last layer's attention looks, and the features of the patches. So the
film stays when the weights of earlier checkpoints are gone. A run without one, but with kept weights, can be asked
afterwards. Images, mask and weights are all that a frame depends on; taking one leaves training as it was: no
generator that training draws from is touched, and everything is in eval mode.
"""

import contextlib
import io
import re
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mimlab import data, files, masks
from mimlab.data.augment import Plain
from mimlab.distributed import generator_for
from mimlab.errors import Refused, reason
from mimlab.progress import say
from mimlab.run import Run

FIXED = "fixed.npz"  # beside the frames: the images and the mask
ROOM = 1 << 20  # numbers of a frame's features, 2 MiB; of wider ones a projection is kept
UNPACKED = 1 << 30  # bytes that a file of arrays may unpack to
IMAGES = 4  # of a film made from kept weights


class Film(NamedTuple):
    """A run's frames, oldest first; F frames, B images, N patches of `grid` (h, w).

    `steps` F ints; `images` uint8 (B, 3, H, W); `mask` bool (B, N) or None for a method that hides nothing; `filled`
    uint8 (F, B, 3, H, W), `attention` float16 (F, B, N), `features` float16 (F, B, N, D), each None where there is none;
    `note` says why, and how to read them. Without frames `images` is None and `note` is the reason.
    """

    steps: list
    images: np.ndarray | None
    mask: np.ndarray | None
    grid: tuple
    filled: np.ndarray | None
    attention: np.ndarray | None
    features: np.ndarray | None
    note: str


# what a frame is


@contextlib.contextmanager
def undisturbed(module):
    """The module in eval mode without gradients, and afterwards each part in the mode that it was in; torch's
    generators likewise."""
    modes = [(part, part.training) for part in module.modules()]
    devices = {p.device.index or 0 for p in module.parameters() if p.device.type == "cuda"}
    module.eval()
    try:
        with torch.random.fork_rng(devices=sorted(devices)), torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def chosen(source, count, seed, size):
    """`count` images of a source, by `seed` alone: uint8 (B, 3, size, size)."""
    rows = torch.randperm(len(source), generator=generator_for(seed, 0, "film"))[:count]
    return (Plain(size)(source.get(rows.numpy())) * 255).round().byte()


def source(cfg, train):
    """The test split that a run's film is of, or `train` where there is none."""
    try:
        return data.open(cfg.data, "test", size=cfg.cache_size, seed=cfg.seed, **cfg.data_args)
    except Refused:
        return train


def hidden(cfg, images, method):
    """The film's mask bool (B, N), or None for a method that hides nothing; one that asks the method asks it now."""
    if cfg.mask == "none":
        return None
    pixels = images.to(_device(method)) / 255
    generator = generator_for(cfg.seed, 0, "film mask")
    with undisturbed(method):
        grid = method.encoder.grid
        return masks.sample(
            cfg.mask, len(images), grid, cfg.mask_ratio, generator, None, pixels, method, **cfg.mask_args
        ).cpu()


def frame(method, images, mask):
    """One frame: name -> array, as in `Film` without F, less what there is not; and "note", a text.

    images uint8 (B, 3, H, W), mask bool (B, N) or None. Images go through one at a time, since attention is large.
    """
    device, found, notes = _device(method), {}, []
    with undisturbed(method):
        for k in range(len(images)):
            pixels = images[k : k + 1].to(device) / 255
            one = {}
            filled = None if mask is None else method.reconstruct(pixels, mask[k : k + 1].to(device))
            if filled is not None:
                one["filled"] = (filled.images.float().nan_to_num(0).clamp(0, 1) * 255).round().byte()
                notes.append(f"filled in: {filled.note}")
            else:
                notes.append("this run predicts no picture")
            try:
                one["attention"] = looked(method.deployed, pixels).half()
            except Refused as reason:
                notes.append(f"no attention: {reason}")
            patches = method.deployed(pixels)[1].float()
            one["features"] = narrowed(patches, ROOM // (len(images) * patches.shape[1])).half()
            for name, value in one.items():
                found.setdefault(name, []).append(value.cpu())
    arrays = {name: torch.cat(values).numpy() for name, values in found.items()}
    return arrays | {"note": "; ".join(dict.fromkeys(notes))}


def looked(encoder, images):
    """Last layer's attention to the patches, (B, N) that sum to 1: the mean over heads of CLS, or over all patches.

    XCiT's is that of its last class-attention layer. `Refused` for an encoder that has no attention.
    """
    if hasattr(encoder, "class_attention"):
        weights = list(encoder.class_attention(images).values())[-1]  # (B, heads, 1, 1 + N)
    else:
        weights = encoder.attention(images, [encoder.depth - 1])[encoder.depth - 1]  # (B, heads, T, T)
    weights = weights.float().mean(dim=1)  # (B, T, T)
    asked = weights[:, 0] if encoder.has_cls else weights.mean(dim=1)
    asked = asked[:, encoder.prefix :]
    return asked / asked.sum(dim=1, keepdim=True)


def narrowed(patches, most):
    """Patches (B, N, D) as they are if D <= `most`, else on `most` fixed random orthonormal directions."""
    dim = patches.shape[2]
    if dim <= most:
        return patches
    random = torch.randn(dim, max(most, 3), generator=generator_for(0, dim, "film features"))
    return patches @ torch.linalg.qr(random).Q.to(patches)


def _device(method):
    return next(method.parameters()).device


# while a run trains


class Camera:
    """Takes the frames of a run while it trains. The first one fixes images and mask for all."""

    def __init__(self, cfg, run, images, method):
        """`images`: the source that they are chosen from; a film that was begun keeps its own."""
        self.method, self.folder = method, run.path / "film"
        kept = _fixed(self.folder, (cfg.image_size // cfg.patch_size) ** 2)
        if kept is None:
            shown = chosen(images, cfg.film, cfg.seed, cfg.image_size)
            mask = hidden(cfg, shown, method)
            kept = {"images": shown.numpy()} | ({} if mask is None else {"mask": mask.numpy()})
            self._write(FIXED, kept)
        self.images = torch.from_numpy(kept["images"])
        self.mask = torch.from_numpy(kept["mask"]) if "mask" in kept else None

    def has(self, step):
        """Whether the frame of `step` is there and can be read."""
        return bool(_load(self.folder / f"{step:08d}.npz"))

    def take(self, step):
        """Write the frame of `step`. What goes wrong is said and ends no training."""
        try:
            self._write(f"{step:08d}.npz", frame(self.method, self.images, self.mask))
        except (Refused, RuntimeError) as error:  # a GPU without room for it
            print(f"warning: no frame of step {step}: {error}", file=sys.stderr)

    def _write(self, name, arrays):
        try:
            self.folder.mkdir(exist_ok=True)
            with files.aside(self.folder / name) as fresh, open(fresh, "wb") as file:
                np.savez_compressed(file, **arrays)
        except (OSError, Refused) as error:
            print(f"warning: cannot write film/{name}: {reason(error)}", file=sys.stderr)


def forget_after(run, step):
    """Drop frames beyond the checkpoint that training goes on from."""
    for at, path in _frames(run).items():
        if at > step:
            path.unlink()


def _frames(run):
    """Files of the frames, {step: path}, oldest first."""
    found = (p for p in (run.path / "film").glob("*.npz") if re.fullmatch("[0-9]{1,15}", p.stem))
    return {int(path.stem): path for path in sorted(found, key=lambda path: int(path.stem))}


# afterwards


def _load(path):
    """The arrays of a file, or None where it is missing or damaged."""
    try:
        with np.load(io.BytesIO(files.read(path)), allow_pickle=False) as file:
            if (
                not isinstance(file, np.lib.npyio.NpzFile)
                or sum(one.file_size for one in file.zip.infolist()) > UNPACKED
            ):
                return None
            return {name: file[name] for name in file.files}
    except Exception:  # zip, zlib, numpy and the disk each have their own
        return None


def read(run):
    """The `Film` that a run kept while it trained; damaged frames are left out. `Refused` where it kept none."""
    grid = _grid(run)
    n = grid[0] * grid[1]
    fixed = _fixed(run.path / "film", n)
    paths = _frames(run)
    found = {step: _load(path) for step, path in paths.items()} if fixed else {}
    told = {step: _shapes(arrays, fixed["images"], n) for step, arrays in found.items() if arrays}
    last = next(reversed([shapes for shapes in told.values() if shapes]), {})
    kept = {
        step: found[step]
        for step, shapes in told.items()
        if shapes and all(shapes[name] == last[name] for name in shapes.keys() & last.keys())
    }
    if len(kept) < len(paths):
        say(f"left out: {len(paths) - len(kept)} of {len(paths)} frames in {run.path / 'film'}, which are damaged")
    if not kept:
        raise Refused(f"run {run.path.name} has kept no film; film = 4 keeps one of four images while it trains")
    return _joined(kept, fixed["images"], fixed.get("mask"), run)


def _fixed(folder, n):
    """Images and perhaps the mask of a film, or None where they are missing or not what `Camera` writes; n patches."""
    found = _load(folder / FIXED) or {}
    images, mask = found.get("images"), found.get("mask")
    good = images is not None and images.dtype == np.uint8 and images.ndim == 4 and images.shape[1] == 3 and len(images)
    if good and mask is not None:
        good = mask.dtype == bool and mask.shape == (len(images), n)
    return found if good else None


def _shapes(arrays, images, n):
    """{name: shape} of a frame's arrays, or None where one is not what `frame` writes."""
    try:
        note = arrays["note"]
        shapes = {name: value.shape for name, value in arrays.items() if name in ("filled", "attention", "features")}
        good = note.ndim == 0 and note.dtype.kind == "U" and "features" in shapes
        good = good and len(shapes["features"]) == 3 and shapes["features"][:2] == (len(images), n)
        good = good and shapes.get("filled", images.shape) == images.shape
        good = good and shapes.get("attention", (len(images), n)) == (len(images), n)
        types = {"filled": np.uint8, "attention": np.float16, "features": np.float16}
        return shapes if good and all(arrays[name].dtype == types[name] for name in shapes) else None
    except (KeyError, AttributeError, TypeError):
        return None


def computed(run, count=IMAGES):
    """The `Film` of `count` images, computed from a run's kept weights. `Refused` where there are fewer than two."""
    cfg, steps = run.settings, list(run.weights())
    if len(steps) < 2:
        raise Refused(
            f"run {run.path.name} has kept neither a film nor the weights of several checkpoints; pre-train with film = 4, "
            "or keep_weights"
        )
    images = chosen(source(cfg, run.data("train")), count, cfg.seed, cfg.image_size)
    mask = hidden(cfg, images, run.method(steps[-1]))
    found = {step: frame(run.method(step), images, mask) for step in steps}
    return _joined(found, images.numpy(), None if mask is None else mask.numpy(), run)


def of(run, out="runs"):
    """The film of a run: kept, or else computed from kept weights, or else without frames and a note that says why.

    `run`: a `Run`, or what `open_model` takes: a folder, its name in `out`, "newest", or a file of weights, which has none.
    """
    if not isinstance(run, Run):
        if Path(run).is_file():
            return _none(f"{Path(run).name} is one file of weights; only a run can show how it was trained")
        run = Run.find(str(run), out)
    for way in (read, computed):
        try:
            return way(run)
        except Refused as error:
            reason = str(error)
    return _none(reason)


def _none(note):
    return Film([], None, None, (0, 0), None, None, None, note)


def _grid(run):
    side = run.settings.image_size // run.settings.patch_size
    return side, side


def _joined(found, images, mask, run):
    """Frames step -> arrays as one `Film`; a quantity that some frame lacks is left out."""
    frames = list(found.values())
    stacks = {
        name: np.stack([one[name] for one in frames]) if all(name in one for one in frames) else None
        for name in ("filled", "attention", "features")
    }
    note = f"{frames[-1]['note']}; images chosen by seed {run.settings.seed}"
    return Film(list(found), images, mask, _grid(run), **stacks, note=note)


def projected(features):
    """Features (F, B, N, D) as colours uint8 (F, B, N, 3): their first three principal components as red, green, blue.

    One basis for the whole film, that of the last frame over all its images, so that a colour means the same in every
    frame; each component spans from its 1st to its 99th percentile there, and what lies outside is clipped.
    """
    x = torch.from_numpy(np.asarray(features, np.float32)).nan_to_num(0, 0, 0)
    last = x[-1].flatten(0, 1)  # (B * N, D)
    mean = last.mean(dim=0)
    axes = torch.linalg.svd(last - mean, full_matrices=False).Vh[:3]  # (3, D)
    axes = axes * axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()  # a basis has no sign of its own
    places = (x - mean) @ axes.T  # (F, B, N, 3)
    if places.shape[-1] < 3:  # fewer patches than colours
        places = torch.cat([places, places.new_zeros(*places.shape[:-1], 3 - places.shape[-1])], dim=-1)
    low, high = places[-1].flatten(0, 1).quantile(torch.tensor([0.01, 0.99]), dim=0)
    shares = ((places - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    return (shares * 255).round().byte().numpy()
