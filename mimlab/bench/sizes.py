"""Named configurations: for each method the settings of one, on which `-p` puts others.

Batches and decoders are those at which public implementations were compared: a small batch where a method sees every
image several times. Vocabulary 8,192; nothing is clipped and no block is dropped, since the others do neither.
"""

from mimlab.config import Pretrain
from mimlab.errors import Refused, shown
from mimlab.find import closest, names
from mimlab.settings import coerce

ALL = {
    "data": "emoji",
    "vocab": 8192,
    "clip": 0.0,
    "drop_path": 0.0,
    "knn_every": 0,
    "checkpoint_every": 0,
    "film": 0,
}
# side, patch, width, depth, heads; batch, and of other methods; MAE's decoder; DINO's local crops in pixels
SIZES = {
    "32px": ((32, 4, 192, 6, 3), 128, {"splitmask": 64, "dino": 32, "cim": 64}, (128, 2, 4), 16),
    "ti224": ((224, 16, 192, 12, 3), 32, {"splitmask": 16, "cae": 16, "dino": 8, "cim": 16}, (192, 4, 3), 96),
    "b224": ((224, 16, 768, 12, 12), 8, {"dino": 2, "cim": 4, "splitmask": 4, "cae": 4}, (512, 8, 16), 96),
}


def settings(method, at, given):
    """`Pretrain` of `method` at the configuration `at`, resolved; `given` (name -> value or text) counts.

    A dict given is merged over the configuration's. `Refused` for names that do not exist.
    """
    if method not in names("methods"):
        raise Refused(
            f"no methods called {shown(method)}{closest(method, names('methods'))}; there are: {', '.join(names('methods'))}"
        )
    if at not in SIZES:
        raise Refused(f"at = {shown(at)}{closest(at, SIZES)}; there are: {', '.join(SIZES)}")
    (side, patch, dim, depth, heads), batch, own, decoder, local = SIZES[at]
    base = ALL | {
        "method": method,
        "encoder": "beit" if method == "beit" else "vit",
        "encoder_args": {"dim": dim, "depth": depth, "heads": heads},
        "image_size": side,
        "patch_size": patch,
        "batch_size": own.get(method, batch),
    }
    base |= special(method, dim, heads, decoder, local)
    types = {name: kind for name, kind in Pretrain.__annotations__.items() if kind in (dict, dict | None)}
    for name, value in given.items():
        if name in types and value is not None:
            value = base.get(name, {}) | (coerce(name, value, dict | None) or {})
        base[name] = value
    return Pretrain.read(base).resolved()


def special(method, dim, heads, decoder, local):
    """What only one method has: decoder, generator, head and crops."""
    width, depth, parts = decoder
    if method == "mae":
        return {"method_args": {"decoder_dim": width, "decoder_depth": depth, "decoder_heads": parts}}
    if (
        method == "cim"
    ):  # half as wide as the encoder, as the paper's beside ViT-B; cheap to fit, dear to ask as k-means
        args = {"generator_dim": dim // 2, "generator_depth": 4, "generator_heads": heads}
        return {"tokenizer": "random_patches", "method_args": args}
    if method == "dino":
        args = {"out_dim": 4096, "head_dim": 2048, "bottleneck_dim": 256, "clip": 0.0}
        return {"method_args": args, "augment": {"local_crops": 6, "local_size": local}}
    return {}
