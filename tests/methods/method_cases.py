"""Every method as its paper has it, told otherwise, and on every other encoder that it takes: small, ready to train."""

import copy

import pytest
import torch

import mimlab
from mimlab.find import find, names
from mimlab.masks import cut
from mimlab.methods import Batch, Progress

SMALL = {"encoder_args": {"dim": 24, "depth": 2, "heads": 3}, "patch_size": 7, "vocab": 16, "epochs": 50}
BEIT = {"encoder": "beit"}
XCIT = {"encoder": "xcit", "patch_size": 8, "image_size": 32}
RESNET = {"encoder": "resnet10t", "encoder_args": {}, "patch_size": 8, "image_size": 32}
# beside each method as its paper has it: what it can be told, and the other encoders that it takes
VARIANTS = {
    "beit": [BEIT, XCIT, {"method_args": {"all_patches": True}}],
    "cae": [BEIT | {"encoder_args": SMALL["encoder_args"] | {"bias": "none", "absolute": "sincos"}}],
    "cim": [
        {"method_args": {"objective": "revdet"}},
        XCIT,
        BEIT | {"method_args": {"objective": "revdet"}},
        RESNET | {"method_args": {"objective": "revdet"}},
        {"method_args": {"residual": True, "loss": "l2"}},
    ],
    "dino": [XCIT, {"method_args": {"head_bn": True, "norm_last_layer": False}}],
    "mae": [
        {"method_args": {"mask_in_encoder": True}},
        {"method_args": {"norm_pix": False}},
        {"method_args": {"target": "tokens"}, "tokenizer": "random_patches"},
        {"method_args": {"target": "pca"}},
    ],
    "simmim": [
        BEIT,
        XCIT,
        {"method_args": {"all_patches": True, "loss": "l2"}},
        {"method_args": {"head": "mlp", "loss": "l2"}},
        {"method_args": {"head": "blocks", "coarser": 7}},
        XCIT | {"method_args": {"head": "blocks", "coarser": 2}},
    ],
    "splitmask": [
        {"method_args": {"match": False}},
        {"method_args": {"inpaint": False}},
        {"method_args": {"split": False, "match": False}},
        {"recipe": "small", "method_args": {"negatives": "both", "decode_cls": True}},
    ],
    "supervised": [BEIT, XCIT, RESNET, {"method_args": {"pool": "cls"}}],
}
PARTS = {  # sized for the small encoder
    "cae": {"regressor_depth": 1, "decoder_depth": 1},
    "cim": {"generator_dim": 24, "generator_depth": 1, "generator_heads": 2},
    "dino": {"out_dim": 64, "head_dim": 32, "bottleneck_dim": 16},
    "mae": {"decoder_dim": 24, "decoder_depth": 1, "decoder_heads": 3},
}
MADE = {}  # each is built once
CASES = [(name, changes) for name in names("methods") for changes in ({}, *VARIANTS.get(name, []))]
# Of what takes long, the default tests have each method's first and last form, and the first with each encoder.
_FIRST, _LAST = {changes.get("encoder"): (name, changes) for name, changes in reversed(CASES)}, dict(CASES)
SOME = [one for one in CASES if not one[1] or one[1] is _LAST[one[0]] or one in _FIRST.values()]
LONG = [one if one in SOME else pytest.param(one, marks=pytest.mark.slow) for one in CASES]


class Photographs:
    """Images to learn from before training, as `mimlab.data.Images` gives them."""

    def __len__(self):
        return 40

    def get(self, rows):
        draw = torch.Generator().manual_seed(2)
        low = torch.randint(256, (40, 3, 8, 8), generator=draw).float()
        return torch.nn.functional.interpolate(low, 32, mode="bilinear").byte()[rows]


def said(case):
    name, changes = case
    told = changes.get("method_args", {})
    return "-".join(
        [name, *([changes["encoder"]] if "encoder" in changes else []), *(f"{k}={v}" for k, v in told.items())]
    )


def built(name, changes):
    """The method with fresh weights, the same at every call, and a fitted tokenizer."""
    case = said((name, changes))
    if case not in MADE:
        MADE[case] = first(name, changes)
    return copy.deepcopy(MADE[case])


def first(name, changes):
    tokens = find("methods", name).RECIPE["paper"]["tokenizer"] != "none"
    given = SMALL | ({"tokenizer": "random_patches"} if tokens else {}) | changes
    given["method_args"] = PARTS.get(name, {}) | changes.get("method_args", {})
    cfg = mimlab.Pretrain(method=name, drop_path=0.0, **given).resolved()
    torch.manual_seed(0)
    made = cfg.build()
    if made.tokenizer is not None:
        patches = torch.rand(200, 3 * cfg.token_patch**2)
        made.tokenizer.fit(patches, torch.Generator().manual_seed(0))
    made.learn(Photographs(), torch.Generator().manual_seed(0))
    return made


def inputs(method, rows=4):
    """A `Batch` of as many images, of 4 x 4 patches, and a mask that hides half of them, the same at every call."""
    draw = torch.Generator().manual_seed(1)
    side = 4 * method.encoder.patch
    images, other = (torch.rand(rows, 3, side, side, generator=draw) for _ in range(2))
    local = torch.rand(rows, 3, side // 2, side // 2, generator=draw)
    noise = torch.rand(rows, 16, generator=draw)
    mask = cut(torch.rand(rows, 16, generator=draw), 8) if method.masked else None
    return Batch(images, noise, 8, (other, local), torch.arange(rows) % 2), mask


def optimiser(method, lr=3e-3):
    return torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=lr)


def train(method, optimiser, batch, mask, steps):
    """Steps on one batch as the loop makes them; yields each `Output`."""
    for step in steps:
        progress = Progress(step, max(steps) + 1)
        output = method(batch, mask, progress)
        optimiser.zero_grad()
        output.loss.backward()
        method.before_step(progress)
        optimiser.step()
        method.after_step(progress._replace(step=step + 1))
        yield output
