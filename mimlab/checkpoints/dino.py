"""DINO's official names (vision_transformer.py, main_dino.py) to ours.

`dino_*_pretrain.pth` holds a backbone, with timm's names. `dino_*_pretrain_full_checkpoint.pth` and the training
script's `checkpoint*.pth` hold {"student", "teacher", "dino_loss", "optimizer", "epoch", "args", "fp16_scaler"}:
the student's names begin with `module.backbone.` and `module.head.`, the teacher's with `backbone.` and `head.`.
What the training script needs to go on (optimizer, epoch, args, fp16_scaler) is no weight and is not looked at.
"""

from mimlab.checkpoints import contents, load, read
from mimlab.errors import Refused, shown

NETWORKS = ("teacher", "student")


def ours(name):
    """Our name, within a student, of an official one: `encoder.trunk.` or `head.`; a teacher's follows `teacher.`."""
    name = name.removeprefix("module.")
    return "encoder.trunk." + name.removeprefix("backbone.") if name.startswith("backbone.") else name


def load_method(method, source, partial=False):
    """A full checkpoint, as a path or its dict, into a `methods.dino.DINO`; returns (unused, missing) names."""
    file = source if isinstance(source, dict) else opened(source)
    if not full(file):
        raise Refused(
            "DINO checkpoint: it holds a backbone alone; load_encoder takes it, a method needs a full checkpoint"
        )
    state = {ours(name): value for name, value in file["student"].items()}
    state |= {"teacher." + ours(name): value for name, value in file["teacher"].items()}
    centre = file.get("dino_loss", {}).items()
    state |= {"centre" if name == "center" else f"dino_loss.{name}": value for name, value in centre}
    return load(method, state, "DINO checkpoint", partial)


def load_encoder(encoder, source, partial=False, network="teacher"):
    """A backbone, or one `network` of a full checkpoint, into a ViT encoder; its head's names count as unused."""
    if network not in NETWORKS:
        raise Refused(f"network = {shown(network)}; there are: {', '.join(NETWORKS)}")
    file = source if isinstance(source, dict) else opened(source)
    state = file[network] if full(file) else file
    state = {name.removeprefix("module.").removeprefix("backbone."): value for name, value in state.items()}
    return load(encoder.trunk, state, "DINO checkpoint", partial)


def full(file):
    """Whether a checkpoint holds both networks."""
    return all(isinstance(file.get(network), dict) for network in NETWORKS)


def opened(path):
    """A file's dict: a full checkpoint with all that it holds, or a backbone's state dict."""
    file = contents(path)
    return file if isinstance(file, dict) and full(file) else read(path)
