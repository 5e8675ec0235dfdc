"""Mass, rollout, distance, entropy against official and plain numbers; what is captured; what notebook 05 is told."""

import numpy as np
import pytest
import torch
from oracle_cases import assert_close, cases, load

import mimlab
from mimlab import encoders
from mimlab.errors import Refused
from mimlab.looking import attention
from mimlab.looking.attend import attend, look
from mimlab.masks import pixels

TOLERANCE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.mark.parametrize("name", cases("dino_attention_mass"))
def test_mass_is_dinos(name):
    _, arrays, config = load(name)
    weights, grid, up = torch.from_numpy(arrays["attention"]), tuple(config["grid"]), config["upsample"]
    found = [key for key in arrays if key.startswith("mask_")]
    assert found and len(weights) == config["heads"]
    for key in found:
        kept = attention.mass(weights, float(key.split("_")[1]))
        if key.endswith("_pixels"):
            kept = pixels(kept, grid, tuple(up * side for side in grid))[:, 0]
        np.testing.assert_array_equal(kept.reshape(arrays[key].shape).numpy(), arrays[key] == 1, key)


@pytest.mark.parametrize("name", cases("attention_maps"))
def test_rollout_distance_and_entropy(name):
    _, arrays, config = load(name)
    weights, grid = torch.from_numpy(arrays["attention"]), tuple(config["grid"])
    cells = int(np.prod(grid)) + 1
    assert weights.shape == (config["layers"], config["batch"], config["heads"], cells, cells)
    for fuse in attention.FUSIONS:
        rolled = attention.rollout(weights, fuse)
        assert_close(rolled, arrays[f"rollout_{fuse}"], **TOLERANCE, what=fuse)
        assert_close(rolled.sum(-1), np.ones(rolled.shape[:2]), 1e-5, 0)
    without = attention.rollout(weights, residual=False)
    assert_close(without, arrays["rollout_mean_without_residual"], **TOLERANCE)
    of_cls = attention.to_patches(attention.rollout(weights), "cls", grid)
    assert_close(of_cls.reshape(-1, *grid), arrays["cls_map_mean"], **TOLERANCE)
    assert_close(attention.distance(weights, grid, config["patch"]), arrays["distance"], **TOLERANCE)
    plain = attention.distance(weights, grid, config["patch"], renormalise=False)
    assert_close(plain, arrays["distance_not_renormalised"], **TOLERANCE)
    assert_close(attention.entropy(weights), arrays["entropy"], **TOLERANCE)
    first = attention.entropy(weights[0])
    assert_close(first, arrays["entropy"][0], **TOLERANCE)
    theirs = arrays.get("jacobgil_mean_0.0")  # the one case in which that code computes what the paper says; image 0
    if theirs is not None:
        assert_close((of_cls[0] / of_cls[0].max()).reshape(grid), theirs, **TOLERANCE)


def softmax(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).mul(2).softmax(-1)


def test_mass_by_hand():
    weights = torch.tensor([[0.1, 0.4, 0.2, 0.3], [8.0, 1.0, 1.0, 0.0]])
    assert attention.mass(weights, 0.5).tolist() == [[False, True, False, True], [True, False, False, False]]
    assert attention.mass(weights, 0.95).tolist() == [[True] * 4, [True, True, True, False]]
    with pytest.raises(Refused, match="threshold = 0"):
        attention.mass(weights, 0)


def test_discard_sets_the_smallest_weights_of_each_image_to_zero():
    weights = softmax(2, 3, 2, 7, 7)
    want = torch.eye(7).expand(3, 7, 7)
    for layer in weights.mean(2):
        layer = layer.clone()
        for image in layer:
            image.view(-1)[image.flatten().argsort()[: int(49 * 0.6)]] = 0
        mixed = layer / 2 + torch.eye(7) / 2
        want = mixed / mixed.sum(-1, keepdim=True) @ want
    assert torch.allclose(attention.rollout(weights, discard=0.6), want, atol=1e-6)
    one = attention.rollout(weights[:, 1:2], discard=0.6)
    assert torch.allclose(one[0], want[1], atol=1e-6)  # another image in the batch changes nothing


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fuse": "sum"}, "fuse = 'sum'; there are: mean, max, min"),
        ({"discard": 1.0}, "discard = 1.0"),
        ({"discard": 0.5, "residual": False}, "residual"),
    ],
)
def test_rollout_refuses(options, said):
    with pytest.raises(Refused, match=said):
        attention.rollout(softmax(2, 1, 2, 5, 5), **options)


def test_distance_by_hand():
    grid, patch = (2, 3), 4
    itself = torch.eye(7).expand(1, 2, 7, 7)
    assert attention.distance(itself, grid, patch).tolist() == [0, 0]
    uniform = torch.full((1, 1, 6, 6), 1 / 6)  # without CLS
    cells = [(r, c) for r in range(2) for c in range(3)]
    want = np.mean([4 * np.hypot(a - c, b - d) for a, b in cells for c, d in cells])
    assert attention.distance(uniform, grid, patch).item() == pytest.approx(want, rel=1e-6)
    with pytest.raises(Refused, match="does not fit"):
        attention.distance(uniform, (3, 3), patch)


def test_entropy_of_certain_and_uniform_queries():
    assert attention.entropy(torch.eye(5).expand(2, 3, 5, 5)).tolist() == [0, 0, 0]
    assert attention.entropy(torch.full((2, 1, 5, 5), 0.2)).item() == pytest.approx(np.log(5), rel=1e-5)


def test_a_query_is_its_row():
    weights = softmax(2, 3, 7, 7)
    assert torch.equal(attention.to_patches(weights, "cls", (2, 3)), weights[:, :, 0, 1:])
    assert torch.equal(attention.to_patches(weights, (1, 2), (2, 3)), weights[:, :, 6, 1:])
    with pytest.raises(Refused, match="rows go from 0 to 1, columns from 0 to 2"):
        attention.to_patches(weights, (2, 0), (2, 3))
    with pytest.raises(Refused, match="no class token"):
        attention.to_patches(weights[..., 1:, 1:], "cls", (2, 3))
    with pytest.raises(Refused, match="only CLS"):
        attention.to_patches(weights[..., :1, :], (0, 0), (2, 3))


SMALL = {"dim": 16, "depth": 3, "heads": 2}


def encoder(name="vit", size=16, patch=4, **options):
    torch.manual_seed(0)
    return encoders.create(name, size, patch, **SMALL | options).eval()


def test_captured_is_of_the_layers_asked_for_and_any_size():
    vit, images = encoder(), torch.rand(2, 3, 24, 32)
    found = attention.captured(vit, images)
    assert found.shape == (3, 2, 2, 49, 49) and not found.requires_grad
    assert torch.equal(attention.captured(vit, images, [2, 0]), found[[2, 0]])
    with pytest.raises(Refused, match="layers 0 to 2"):
        attention.captured(vit, images, [3])
    xcit = encoder("xcit", 32, 8)
    assert attention.captured(xcit, torch.rand(2, 3, 32, 48)).shape == (2, 2, 2, 1, 25)
    with pytest.raises(Refused, match="resnet18 has no attention"):
        attention.captured(encoders.create("resnet18", 32, 8), torch.rand(1, 3, 32, 32))


def test_looked_is_what_the_encoder_gives():
    vit, images = encoder(), torch.rand(5, 3, 16, 16)
    found = look("vit", vit, images, 2, "1", (2, 3))
    whole = attention.captured(vit, images)
    assert (found.layers, found.layer, found.measured, len(found.images)) == (3, 1, 5, 2)
    assert torch.allclose(found.maps, whole[:, :2, :, 1 + 11, 1:], atol=1e-6)
    assert torch.allclose(found.distance, attention.distance(whole, (4, 4), 4), atol=1e-5)
    assert torch.allclose(found.entropy, attention.entropy(whole), atol=1e-5)
    for fuse, rolled in found.rolled.items():
        assert torch.allclose(rolled, attention.rollout(whole[:, :2], fuse)[:, 12, 1:], atol=1e-6)
    *_, (name, rolled) = look("vit", vit, images, 2, "1", (2, 3), discard=0.5).rolled.items()
    assert "50%" in name and len(found.rolled) == 3
    assert torch.allclose(rolled, attention.rollout(whole[:, :2], "mean", 0.5)[:, 12, 1:], atol=1e-6)
    with pytest.raises(Refused, match="layers 0 to 2"):
        look("vit", vit, images, 2, "3")


def test_what_a_model_does_not_have_is_said():
    images = torch.rand(2, 3, 32, 32)
    resnet = look("r", encoders.create("resnet18", 32, 8).eval(), images, 1)
    assert resnet.maps is None and "no attention" in resnet.why("distance")
    bare = look("v", encoder(size=32, patch=8, class_token=False), images, 1)
    assert bare.maps is None and bare.rolled is None and "no class token" in bare.why("rolled")
    assert bare.distance.shape == (3, 2)
    xcit = look("x", encoder("xcit", 32, 8), images, 1)
    assert xcit.maps.shape == (2, 1, 2, 16) and xcit.channels.shape == (3, 2, 8, 8)
    assert xcit.distance is None and "neither rollout nor distance" in xcit.why("distance")
    grey = look("g", encoder(), torch.full((1, 3, 16, 16), 0.5), 1)
    assert torch.isfinite(grey.maps).all() and torch.isfinite(grey.distance).all()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of MAE, and one of BEiT with an XCiT."""
    out, tiny = (
        tmp_path_factory.mktemp("runs"),
        {"data": "emoji", "epochs": 1, "batch_size": 64, "knn_every": 0, "fraction": 0.2},
    )
    decoder = {"decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2}
    tiny |= {"out": str(out), "encoder_args": SMALL}
    mimlab.pretrain(mimlab.Pretrain(method="mae", image_size=16, patch_size=4, run="mae", method_args=decoder, **tiny))
    xcit = {"encoder": "xcit", "image_size": 32, "patch_size": 8, "tokenizer": "kmeans", "vocab": 16}
    mimlab.pretrain(mimlab.Pretrain(method="beit", run="xcit", **xcit, **tiny))
    return out


def test_two_runs_see_the_same_images(runs):
    cfg = mimlab.Attend(run="mae", other="xcit", out=str(runs), images=2)
    found = attend(cfg)
    assert [model.layer for model in found.models] == [2, 1]
    assert found.first.images.shape == (2, 3, 16, 16) and found.other.images.shape == (2, 3, 32, 32)
    assert found.gallery()["about"] == "mae on test images of emoji, seed 0" and len(found.rollout()["maps"]) == 4
    small = torch.nn.functional.avg_pool2d(found.other.images, 2)
    assert (small - found.first.images).abs().mean() < 0.03
    assert list(found.pair) == ["mae", "xcit"] and list(found.by_depth("distance")) == ["mae"]
    assert attend(cfg.replace(other=None, image_size=32)).first.grid == (8, 8)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"query": "middle"}, "neither cls nor a patch"),
        ({"query": "4,0"}, "rows go from 0 to 3"),
        ({"layer": "first"}, "neither a number"),
        ({"layer": "9"}, "layers 0 to 2"),
        ({"threshold": 0.0}, "threshold = 0.0"),
        ({"discard": 1.0}, "discard = 1.0"),
        ({"images": 0}, "images = 0"),
        ({"split": "all"}, "there are: train, test"),
        ({"image_size": 18}, "multiple of the 4-pixel patches of mae; try 16"),
        ({"step": 5}, "step = 5"),
        ({"run": "nowhere"}, "no run folder"),
        ({"run": "nowhere.pth"}, "no such file"),
        ({"other": "nowhere"}, "no run folder"),
        ({"data": "emojis"}, "did you mean 'emoji'"),
        ({"data_args": {"path": "x"}}, "give data too"),
        ({"load": {"heads": 2}}, "files of weights"),
        ({"run": "xcit", "query": "0,0"}, "only CLS"),
    ],
)
def test_wrong_settings_are_refused(runs, given, said):
    with pytest.raises(Refused, match=said):
        attend(mimlab.Attend.read({"run": "mae", "out": str(runs)} | given))


def test_a_file_has_a_folder_of_its_own(runs):
    file = runs / "mae" / "method.safetensors"
    assert mimlab.Attend(run=str(file), out=str(runs)).folder() == runs / "looked" / "method"
    assert mimlab.Attend(run="mae", out=str(runs)).folder() == runs / "mae"
