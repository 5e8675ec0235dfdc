"""Any name of timm's: the features are timm's, or the name is refused in one line."""

import re

import pytest
import timm
import torch

from mimlab import encoders
from mimlab.encoders import _agree
from mimlab.encoders import vit as vit_file
from mimlab.errors import Refused

TAKEN = [
    "vit_tiny_patch16_224",
    "vit_base_patch16_clip_224",  # a norm before the blocks
    "vit_base_patch16_clip_quickgelu_224",
    "vit_base_patch16_xp_224",  # attention and MLP beside each other
    "vit_base_patch16_gap_224",  # no class token
    "vit_medium_patch16_reg4_gap_256",  # registers, and the norm after the mean
    "vit_giant_patch14_dinov2",  # gated MLPs
    "vit_so150m2_patch16_reg1_gap_256",
    "vit_base_patch16_siglip_gap_224",
    "vit_pwee_patch16_reg1_gap_256",
    "beit_base_patch16_384",
    "xcit_nano_12_p8_224",
    "resnet10t",
]
REFUSED = [
    "vit_base_patch16_siglip_224",  # pools by attention
    "vit_base_patch16_rpn_224",  # norms after the blocks' parts
    "vit_small_patch16_18x2_224",  # two attentions in a block
    "vit_dwee_patch16_reg1_gap_256",  # differential attention
    "vit_tiny_r_s16_p8_224",  # a stem of convolutions
    "vit_relpos_small_patch16_224",
    "vit_small_patch16_dinov3",
    "vit_base_mci_224",
    "beit3_base_patch16_224",
    "resnet50x64_clip",
    "resnet51q",
]
FAMILIES = {"vit", "beit", "xcit", "resnet"}
POOLS = {"token": "cls", "avg": "mean"}
ALL = [name for name in timm.list_models() if re.match("[a-z]+", name)[0] in FAMILIES]


def small(name):
    """The encoder `name` with few weights, for images of 2 x 3 patches."""
    patch = int(re.search(r"(?:patch|_p|_s)(\d+)|$", name)[1] or 16)
    sizes = {} if name.startswith("resnet") else {"dim": 24, "depth": 2, "heads": 3}
    return encoders.create(name, (2 * patch, 3 * patch), patch, **sizes)


@torch.no_grad()
def apart(name):
    """The largest difference between the features of an encoder with random weights and timm's, relative to the largest value."""
    made = small(name).eval()
    _agree.shake(made.trunk, torch.Generator().manual_seed(1))
    theirs = timm.create_model(**made.spec).eval()
    theirs.load_state_dict(made.trunk.state_dict())
    images = torch.rand(2, 3, 2 * made.patch, 3 * made.patch)
    want = theirs.forward_features(made.normalise(images))
    kind = getattr(theirs.global_pool, "pool_type", theirs.global_pool)
    pairs = [(made.features(images, POOLS[kind]), theirs.forward_head(want, pre_logits=True))]
    if want.ndim == 4:
        pairs.append((made.tokens(images), want.flatten(2).transpose(1, 2)))
    else:
        cls, patches = made(images)
        pairs.append((patches, want[:, made.prefix :]))
        assert (cls is None) == (theirs.cls_token is None)
        if cls is not None:
            pairs.append((cls, want[:, 0]))
    return max(float((a - b).abs().max() / b.abs().max().clamp(min=1)) for a, b in pairs)


@pytest.mark.parametrize("name", TAKEN)
def test_features_are_timms(name):
    assert apart(name) < 1e-4


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_done_is_refused_in_one_line(name):
    with pytest.raises(Refused) as error:
        patch = 14 if "14" in name else 16
        encoders.create(name, 2 * patch, patch)
    assert "\n" not in str(error.value) and name in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_every_name_is_timms_or_refused(name):
    try:
        assert apart(name) < 1e-4
    except Refused as error:
        assert "\n" not in str(error)
        assert name not in TAKEN
    else:
        assert name not in REFUSED


@pytest.mark.parametrize("name", [None, 3, "", "vit_", "resnet0", "xcit_", "beit_base_patch16_224 ", ["vit"], "vit\n"])
def test_names_that_are_none_are_one_line(name):
    with pytest.raises(Refused) as error:
        encoders.create(name, 32, 16)
    assert "\n" not in str(error.value)


FORGOTTEN = {
    "before_blocks": lambda self, x: x,
    "prefix_tokens": lambda self: self.trunk.cls_token * 0,
    "attention_logits": lambda self, index, x, shared: torch.zeros(len(x), self.heads, x.shape[1], x.shape[1]),
    "maps": lambda self, images, layers: [
        self.embed(images)[:, 1:].transpose(1, 2).unflatten(2, self.cells(images)) for _ in layers
    ],
    "features": lambda self, images, pool="mean": self(images)[1].mean(dim=1),
    "set_drop_path": lambda self, rate: None,
}


@pytest.mark.parametrize("part", FORGOTTEN)
def test_an_adapter_that_forgets_something_is_refused(part, monkeypatch):
    monkeypatch.setattr(_agree, "_found", {})
    monkeypatch.setattr(vit_file.ViT, part, FORGOTTEN[part])
    with pytest.raises(Refused, match="timm's forward does what ours does not .*; use one of: vit_tiny"):
        encoders.create("vit_base_patch16_clip_224", 32, 16, dim=24, depth=2, heads=3)


def around(kind):
    return {
        "meta": lambda: torch.device("meta"),
        "no_grad": torch.no_grad,
        "inference": torch.inference_mode,
        "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    }[kind]()


@pytest.mark.parametrize("kind", ["meta", "no_grad", "inference", "autocast"])
def test_the_comparison_does_not_depend_on_what_is_around(kind, monkeypatch):
    monkeypatch.setattr(_agree, "_found", {})
    with around(kind):
        made = encoders.create("vit_base_patch16_clip_224", 32, 16, dim=24, depth=2, heads=3)
        with pytest.raises(Refused, match="pools by 'map'"):
            encoders.create("vit_base_patch16_siglip_224", 32, 16, dim=24, depth=2, heads=3)
    assert made.trunk.norm_pre.weight.device.type == ("meta" if kind == "meta" else "cpu")


def test_nothing_of_the_callers_is_touched(monkeypatch):
    """The weights that are drawn, the random state after them and the defaults are those of a name compared before."""
    found = []
    for _ in range(2):  # the second time it is known
        torch.manual_seed(3)
        made = encoders.create("vit_medium_patch16_reg4_gap_256", 32, 16, dim=24, depth=2, heads=3)
        found.append([*made.trunk.state_dict().values(), torch.get_rng_state()])
        monkeypatch.setattr(_agree, "_found", {}) if not found[1:] else None
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        monkeypatch.setattr(_agree, "_found", {})
        made = encoders.create("vit_base_patch16_clip_224", 32, 16, dim=24, depth=2, heads=3)
        assert made.trunk.cls_token.dtype == torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(before)
