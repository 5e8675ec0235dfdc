"""SimMIM's official names (models/simmim.py, ViT) to ours.

Pre-training files are {"model": state dict, "config": ...}: `encoder.*` and a decoder of one 1x1 convolution. The
index table (`relative_position_index`) is computed, not loaded. The config is an object of yacs, of which nothing
is needed: it is read as a plain dict.
"""

from mimlab.checkpoints import load, read

METHOD = {"encoder.mask_token": "mask_token", "encoder.": "encoder.trunk.", "decoder.0.": "head."}


def weights(source):
    """State dict without the index tables, and with the head as a linear layer."""
    state = source if isinstance(source, dict) else read(source)
    state = {name: value for name, value in state.items() if not name.endswith("relative_position_index")}
    head = "decoder.0.weight"
    return state | {head: state[head].flatten(1)} if head in state else state


def ours(name):
    """Our name, within a whole method, of an official one."""
    for theirs, here in METHOD.items():
        if name.startswith(theirs):
            return here + name[len(theirs) :]
    return name


def load_method(method, source, partial=False):
    """A path or state dict into a `methods.simmim.SimMIM`; returns (unused, missing) names."""
    return load(method, {ours(name): value for name, value in weights(source).items()}, "SimMIM checkpoint", partial)


def load_encoder(encoder, source, partial=False):
    """A path or state dict into a BEiT encoder; `mask_token` and the decoder count as unused."""
    state = {name.removeprefix("encoder."): value for name, value in weights(source).items()}
    return load(encoder.trunk, state, "SimMIM checkpoint", partial)
