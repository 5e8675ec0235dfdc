"""The encoder that a transfer starts from: fresh, of a run, of a file of weights, or timm's."""

from mimlab import encoders
from mimlab.detection.backbone import DIVISOR, any_size
from mimlab.errors import Refused, shown
from mimlab.looking.opened import open_model


def encoder(cfg):
    """(encoder for images of any size, a sentence on where it comes from) for resolved settings. Raises `Refused`."""
    if cfg.init == "scratch":
        size = -(-cfg.image_size // DIVISOR) * DIVISOR
        options = {"positions": "sincos"} if cfg.encoder.startswith("vit") else {}
        found, said = (
            encoders.create(cfg.encoder, size, cfg.patch_size, **(options | cfg.encoder_args)),
            "fresh weights",
        )
    elif (named := of_timm(cfg.init)) is not None:
        found, said = named, f"timm's {cfg.init}"
    else:
        try:
            opened = open_model(cfg.init, cfg.out, load=cfg.load)
        except Refused as error:  # elsewhere this setting is called run
            raise Refused(str(error).replace("run = ", "init = ", 1)) from None
        found, said = opened.encoder, "; ".join(part for part in (opened.title, opened.note) if part)
    replaced = any_size(found)
    found.set_drop_path(cfg.drop_path)
    return found, f"{said}; {replaced}" if replaced else said


def of_timm(name):
    """The encoder of a timm name with its published weights, which must be on this machine; None for another name."""
    import timm

    if "/" in name or not timm.is_model(name.split(".")[0]):
        return None
    from huggingface_hub import try_to_load_from_cache

    from mimlab import checkpoints

    about = timm.get_pretrained_cfg(name)
    place = about and about.hf_hub_id
    path = place and try_to_load_from_cache(place if "/" in place else f"timm/{name}", "model.safetensors")
    if not isinstance(path, str):
        raise Refused(
            f"init = {shown(name)}: its weights are not on this machine and nothing is downloaded here; get them with "
            f"timm.create_model({shown(name)}, pretrained=True), or give a file of weights"
        )
    return checkpoints.open(path).encoder()
