"""Files of weights, read safely and compared name by name."""

from pathlib import Path

from mimlab.errors import Refused


def read_safetensors(path):
    """State dict of a safetensors file; a missing or truncated one is `Refused`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise Refused(f"no weights at {path}") from None
    except (SafetensorError, OSError) as error:
        raise Refused(f"{path} is truncated or no safetensors file ({error})") from None


def read(path):
    """State dict of an official checkpoint: safetensors, or torch's format with `weights_only=True`.

    A dict under "model" (MAE, BEiT, SimMIM) is taken out. Files of training scripts also hold their
    `argparse.Namespace`, which is allowed by name; anything else that is not a tensor container is refused.
    """
    import argparse
    import pickle

    import torch

    path = Path(path)
    if not path.is_file():
        raise Refused(f"no checkpoint at {path}")
    if path.suffix == ".safetensors":
        state = read_safetensors(path)
    else:
        try:
            with torch.serialization.safe_globals([argparse.Namespace]):
                state = torch.load(path, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise Refused(f"{path} cannot be read as plain weights; it is truncated or holds code ({reason})") from None
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise Refused(f"{path} holds no state dict (name -> tensor)")
    return state


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
    unused, missing = sorted(set(state) - set(own)), sorted(set(own) - set(state))
    if (unused or missing) and not partial:
        raise Refused(
            f"{source}: unused names {shorten(unused)}, missing names {shorten(missing)}; pass partial=True to load the rest"
        )
    module.load_state_dict({name: value for name, value in state.items() if name in own}, strict=False)
    return unused, missing


def shorten(names):
    return f"{names[:6]}{f' and {len(names) - 6} more' if len(names) > 6 else ''}"
