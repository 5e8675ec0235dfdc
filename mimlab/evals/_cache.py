"""Frozen features on disk: computed once for an encoder, a set of images and a kind of feature, then mapped into memory.

MIMLAB_HOME/features/<key>.safetensors; the key is a hash of the encoder's weights, the images' fingerprint, the image size
and the kind, so a probe's hyper-parameters can be swept without another pass. Batches are written as they come, aside,
and the file is renamed when complete: neither writing nor reading needs the features in memory at once.
"""

import contextlib
import os

import torch

from mimlab import data, strict
from mimlab.checkpoints import read_safetensors
from mimlab.data.augment import Augment
from mimlab.data.cache import digest
from mimlab.distributed import generator_for
from mimlab.errors import Refused
from mimlab.evals._views import Centre, side
from mimlab.layers import lost
from mimlab.looking.features import still

VERSION = 1  # raise it when features would come out differently
TYPES = {torch.float32: "F32", torch.float16: "F16"}


def folder():
    """Where features are kept: MIMLAB_HOME/features."""
    return data.home() / "features"


def features(encoder, images, kind, compute, *, view=None, batch=256, cache=None):
    """{name: tensor (N, ...)} of all `images`, as `compute(encoder, pixels (B, 3, S, S))` gives them, on the CPU.

    `kind` names in a few words what `compute` does: it is part of the key. `view` None: the centre of each image (see `Centre`);
    an int: a random crop and flip, another for each int. `cache`: a folder, or None, which keeps them in memory.
    The encoder's mode is put back. Refuses features that are not finite.
    """
    parts = _batches(encoder, images, compute, view, batch)
    if cache is None:
        parts = list(parts)
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    size = side(encoder)
    path = cache / f"{digest(VERSION, weights(encoder), images.fingerprint, size, kind, view)}.safetensors"
    if path.is_file():
        try:
            return read_safetensors(path)
        except Refused:  # damaged on the disk
            path.unlink(missing_ok=True)
    _write(path, parts, len(images))
    return read_safetensors(path)


def weights(encoder):
    """A hash of what an encoder computes with: its weights, how timm builds it, and its pixel statistics."""
    about = [type(encoder).__name__, encoder.spec, list(encoder.grid), encoder.normalise.mean.flatten().tolist()]
    tensors = [
        [name, str(value.dtype), list(value.shape), value.detach().cpu().contiguous().numpy().tobytes()]
        for name, value in sorted(encoder.state_dict().items())
    ]
    return digest(*about, *(part for tensor in tensors for part in tensor))


@torch.no_grad()
def _batches(encoder, images, compute, view, batch):
    device, show = next(encoder.parameters()).device, Centre(side(encoder))
    if view is not None:
        crop = Augment(side(encoder), scale=(0.08, 1.0), flip=0.5)  # all three official probes'
    for place, (pixels, _) in enumerate(images.batches(batch)):
        seen = show(pixels) if view is None else crop(pixels, generator_for(view, place, "probe view"))
        with still(encoder):
            found = compute(encoder, seen.to(device))
        if lost(*found.values()):
            raise Refused("features are not finite (nan or inf): the encoder has diverged; use an earlier checkpoint")
        yield {name: value.cpu() for name, value in found.items()}


def _write(path, parts, rows):
    """A safetensors file written row by row: its header needs only shapes, which the first batch tells."""
    aside = path.with_name(f".{path.stem}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as file:
            starts, done = None, 0
            for part in parts:
                if starts is None:
                    starts = _header(file, part, rows)
                for name, value in part.items():
                    file.seek(starts[name] + done * value[0].nbytes)
                    file.write(value.contiguous().numpy().tobytes())
                done += len(value)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise Refused(f"the folder {path.parent}: {error.strerror or error}; set MIMLAB_HOME elsewhere") from error
    finally:
        with contextlib.suppress(OSError):  # renamed, or never begun
            aside.unlink()


def _header(file, part, rows):
    """Write the header; name -> where its first row goes."""
    about, offset = {}, 0
    for name, value in part.items():
        size = rows * value[0].nbytes
        shape = [rows, *value.shape[1:]]
        about[name] = {"dtype": TYPES[value.dtype], "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = strict.dumps(about).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    return {name: 8 + len(text) + one["data_offsets"][0] for name, one in about.items()}
