"""The pyramid against XCiT's and BEiT's."""

import re

import pytest
import torch
from oracle_cases import assert_close, cases, load

from mimlab.detection.neck import STRIDES, Neck, depths
from mimlab.encoders import create
from mimlab.errors import Refused


@pytest.mark.parametrize("name", cases("xcit_neck"))
def test_xcit(name):
    state, arrays, case = load(name)
    neck = Neck(case["config"]["embed_dim"], case["config"]["patch_size"])
    assert list(neck.state_dict()) == case["state_dict_keys"]
    taps = case["out_indices_in_the_recipe"]
    assert list(depths(taps[-1] + 1)) == taps  # the last is the last block
    neck.load_state_dict(state)
    maps = [torch.from_numpy(arrays[f"input_{k}"]) for k in range(4)]
    for k, got in enumerate(neck.eval()(maps)):
        assert_close(got, arrays[f"eval_{k}"], 1e-4, 1e-5, f"eval {k}")
        assert got.shape[2] == maps[k].shape[2] * case["config"]["patch_size"] // STRIDES[k]
    found = neck.train()(maps)
    sum((x**2).sum() for x in found).backward()
    for k, got in enumerate(found):
        assert_close(got, arrays[f"train_{k}"], 1e-4, 1e-5, f"train {k}")
    for moved in ("running_mean", "running_var"):
        if f"{moved}_after" in arrays:
            assert_close(getattr(neck.fpn1[1], moved), arrays[f"{moved}_after"], 1e-4, 1e-5, moved)
    for key in state:
        if key.endswith("num_batches_tracked"):  # one batch was trained on
            assert neck.get_buffer(key) == state[key] + 1
    for parameter, norm in case["grad_norm"].items():
        if norm > 1e-2:  # a bias before a BatchNorm has none but rounding
            assert_close(neck.get_parameter(parameter).grad.norm(), norm, 1e-3, 0, parameter)


@pytest.mark.parametrize("name", cases("official_names"))
def test_full_size_names(name):
    models = load(name)[2]["models"]
    for key in [key for key in models if key.startswith("xcit_neck")]:
        patch, dim = map(int, re.fullmatch(r"xcit_neck_p(\d+)_dim(\d+)", key).groups())
        assert {n: list(v.shape) for n, v in Neck(dim, patch).state_dict().items()} == models[key]


@pytest.mark.parametrize("name", cases("beit_fpn_backbone"))
def test_beit(name):
    """Taps of each listed block, without a norm, then the pyramid: the whole trunk of BEiT's segmentation."""
    state, arrays, case = load(name)
    config = case["config"]
    sizes = {"dim": config["embed_dim"], "depth": config["depth"], "heads": config["num_heads"]}
    encoder = create("beit", config["img_size"], config["patch_size"], **sizes, bias="per_block", normalise="none")
    trunk = {key: value for key, value in state.items() if not key.startswith("fpn") and "position_index" not in key}
    left = encoder.trunk.load_state_dict(trunk, strict=False)
    assert not left.unexpected_keys and all("norm." in key or "index" in key for key in left.missing_keys), left
    neck = Neck(encoder.dim, encoder.patch)
    neck.load_state_dict({key: value for key, value in state.items() if key.startswith("fpn")})
    with torch.no_grad():
        maps = neck.eval()(encoder.eval().maps(torch.from_numpy(arrays["images"]), config["out_indices"]))
    for k, got in enumerate(maps):
        assert_close(got, arrays[f"map_{k}"], 3e-5, 1e-5, f"map {k}")


@pytest.mark.parametrize("patch", [2, 4, 8, 16])
def test_every_patch_gives_the_same_strides(patch):
    maps = [torch.randn(1, 4, 64 // patch, 96 // patch) for _ in range(4)]
    assert [tuple(x.shape[2:]) for x in Neck(4, patch)(maps)] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_small_patches_are_only_pooled():
    assert not list(Neck(4, 4).parameters())
    x = torch.arange(64.0).reshape(1, 1, 8, 8)
    levels = Neck(1, 4)([x] * 4)
    assert torch.equal(levels[0], x) and levels[3].item() == 63 and levels[2].flatten().tolist() == [27, 31, 59, 63]


def test_depths_and_refusal():
    assert (
        depths(12) == (3, 5, 7, 11)
        and depths(24) == (7, 11, 15, 23)
        and depths(6) == (1, 2, 3, 5)
        and depths(1) == (0,) * 4
    )
    with pytest.raises(Refused, match="patch_size = 14"):
        Neck(4, 14)
