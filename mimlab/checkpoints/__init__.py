"""Files of weights, read safely, recognised by their names, and compared name by name.

`open(path)` tells the format and loads into what there is; `encoder(path)` and `method(path)` build what the file
holds. `mae`, `beit`, `dino`, `cae`, `simmim` each know one official code's names.
"""

from pathlib import Path

from mimlab.errors import Refused, reason, shown

CONTAINERS = ("model", "module", "state_dict")  # where training scripts keep the state dict


def open(path):
    """A `checkpoints.file.File`: `format`, `state`, and `load(target, partial=False)`. Raises `Refused`."""
    from mimlab.checkpoints.file import File

    return File(path)


def recognise(state, source="the file"):
    """The name of a state dict's format, a key of `checkpoints.formats.FORMATS`; `Refused` with what it looks like."""
    from mimlab.checkpoints.formats import recognise

    return recognise(state, source)


def encoder(path, image_size=None, *, heads=None, normalise=None):
    """The encoder of any recognised file, in eval mode; `encoder.loaded` is the `Report`.

    Width, depth and patch follow from the shapes. `image_size` None: the file's, which must be square; otherwise
    position tables are interpolated. `heads` None: those of a relative table, of config.json beside the file, or a
    64th of the width. `normalise` None: the format's; a bare ViT gets "imagenet", and timm's augreg models need
    "half". Raises `Refused`.
    """
    return open(path).encoder(image_size, heads=heads, normalise=normalise)


def method(path, tokenizer=None, image_size=None, *, heads=None, normalise=None, **options):
    """The whole method of a pre-training file, in eval mode; `method.loaded` is the `Report`.

    `image_size`, `heads`, `normalise` as for `encoder`. `options` are the class's own that the file does not tell: MAE's `norm_pix` must be given, and `decoder_heads`
    where the decoder is not 512 wide; BEiT and CAE need their `tokenizer`. Raises `Refused`.
    """
    return open(path).method(tokenizer, image_size, heads=heads, normalise=normalise, **options)


def read_safetensors(path):
    """State dict of a safetensors file; a missing or truncated one is `Refused`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if not path.is_file():
        raise Refused(f"no weights at {path}{'; it is no plain file' if path.exists() else ''}")
    fitting(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise Refused(f"{path} is truncated or no safetensors file ({reason(error)})") from None


def contents(path):
    """All that a file holds: safetensors, or torch's format with `weights_only=True`.

    Allowed by name, since training scripts save them along: argparse.Namespace, NumPy's numbers (learning rates of
    BEiT, DINO), and yacs' CfgNode (SimMIM), read as a dict. Anything else is `Refused` with its name, unexecuted.
    """
    import re

    import torch

    from mimlab.checkpoints.bounds import check

    path = Path(path)
    if not path.is_file():
        raise Refused(f"no checkpoint at {path}")
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    fitting(path)
    try:
        check(path)
        with torch.serialization.safe_globals(allowed()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch each have their own
        named = re.search(r"(?:GLOBAL|class) ([\w.]+\.\w+)", str(error))
        said = f"it holds {named[1]}" if named else reason(error)
        raise Refused(f"{path} cannot be read as plain weights; it is truncated or holds code ({said})") from None


def check_folder(folder):
    """Look at every file of a checkpoint before its parts are read by others: none is too large, or hashes for ever."""
    from mimlab.checkpoints.bounds import check

    for path in sorted(path for path in Path(folder).iterdir() if path.is_file()):
        fitting(path)
        if path.suffix in (".bin", ".pkl", ".pt", ".pth"):
            check(path)


def fitting(path):
    """Refuse a file larger than this machine's memory, such as one of holes alone, before it is read."""
    from mimlab.cores import memory

    size, there = path.stat().st_size, memory()
    if there is not None and size > there:
        raise Refused(f"{path} has {size:,} bytes, more than this machine's memory ({there:,})")


def allowed():
    """What `contents` may make besides tensors and plain containers."""
    import argparse
    from collections import OrderedDict

    import numpy as np

    number = np.float64(0).__reduce__()[0]
    names = [(number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    dtypes = [type(np.dtype(kind)) for kind in ("f8", "f4", "i8")]
    return [argparse.Namespace, (OrderedDict, "yacs.config.CfgNode"), *names, np.dtype, *dtypes]


def read(path):
    """State dict of an official checkpoint, as `contents` reads it, taken out of what it lies in."""
    state = unwrapped(contents(path))
    if not is_state(state):
        raise Refused(f"{path} holds no state dict (name -> tensor)")
    dense(state, path)
    return state


def unwrapped(content):
    """A state dict out of the first of `CONTAINERS` that is there, else the content as it is."""
    if isinstance(content, dict):
        found = (content[name] for name in CONTAINERS if isinstance(content.get(name), dict))
        return next(found, content)
    return content


def is_state(content):
    import torch

    return isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    )


def dense(state, source):
    """Refuse tensors without plain numbers: sparse, quantised, nested, or with shapes alone (meta)."""
    import torch

    for name, value in state.items():
        odd = "sparse" if value.layout != torch.strided else "quantised" if value.is_quantized else None
        odd = odd or ("without numbers (meta)" if value.is_meta else "nested" if value.is_nested else None)
        if odd:
            raise Refused(f"{source}: {shown(name)} is {odd}; save it as a plain tensor")
        try:
            value.untyped_storage().nbytes()
        except Exception:  # numbers that no storage holds
            raise Refused(f"{source}: {shown(name)} holds no plain numbers") from None


def load(module, state, source, partial=False):
    """Put `state` (already in our names) into `module`: (unused, missing) names, an error unless `partial`.

    Shapes must agree. Tensors that the file does not hold keep their value and are reported as missing.
    """
    own = module.state_dict()
    wrong = [
        f"{n} {tuple(state[n].shape)} there, {tuple(own[n].shape)} here"
        for n in state
        if n in own and state[n].shape != own[n].shape
    ]
    if wrong:
        raise Refused(f"{source}: shapes differ: {'; '.join(wrong[:4])}{' ...' if len(wrong) > 4 else ''}")
    kinds = [
        f"{shown(n)} {str(state[n].dtype).removeprefix('torch.')} there, {str(own[n].dtype).removeprefix('torch.')} here"
        for n in state
        if n in own and not castable(state[n].dtype, own[n].dtype)
    ]
    if kinds:
        raise Refused(
            f"{source}: numbers of another kind: {'; '.join(kinds[:4])}{' ...' if len(kinds) > 4 else ''}; quantised or damaged "
            "weights are not turned into others"
        )
    unused, missing = sorted(set(state) - set(own)), sorted(set(own) - set(state))
    if (unused or missing) and not partial:
        raise Refused(
            f"{source}: unused names {shorten(unused)}, missing names {shorten(missing)}; pass partial=True to load the rest"
        )
    module.load_state_dict({name: value for name, value in state.items() if name in own}, strict=False)
    return unused, missing


def castable(given, own):
    """Whether numbers of the dtype `given` mean the same in `own`: equal kinds, floats of 16 bits or more, whole numbers."""
    import torch

    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    whole = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    return given == own or any(given in kind and own in kind for kind in (floats, whole))


def shorten(names):
    names = [name if len(name) < 100 else f"{name[:97]}..." for name in map(str, names)]
    return f"{names[:6]}{f' and {len(names) - 6} more' if len(names) > 6 else ''}"
