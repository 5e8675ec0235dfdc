"""ResNet as an encoder, against timm's own model."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from mimlab import encoders
from mimlab.encoders import resnet
from mimlab.errors import Refused


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    encoder = resnet.create("resnet18", (32, 48), 8)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):  # branches that begin as 0 would hide mistakes
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return encoder


@pytest.fixture
def images():
    return torch.rand(3, 3, 32, 48)


def test_timm_names_without_an_underscore_find_the_file():
    with torch.device("meta"):
        for name in ("resnet", "resnet18", "resnet26d", "resnet50_gn"):
            assert isinstance(encoders.create(name, 32, 8), resnet.ResNet)
    for name in ("resnet19", "vit2", "resnetv2_50"):
        with pytest.raises(Refused, match="no encoders called"):
            encoders.create(name, 32, 8)


@pytest.mark.parametrize(("patch", "stride"), [(2, 8), (4, 8), (7, 8), (8, 16), (15, 16), (16, 32), (32, 32)])
def test_small_patches_have_a_finer_last_map(patch, stride):
    with torch.device("meta"):
        assert resnet.create("resnet", (224, 224), patch).spec["output_stride"] == stride


def test_the_last_map_is_timms_and_tokens_lie_on_the_grid(encoder, images):
    encoder.eval()
    want = encoder.trunk.forward_features(encoder.normalise(images))
    assert encoder.grid == (4, 6) and encoder.dim == 512 and want.shape == (3, 512, 2, 3)
    maps = encoder.maps(images, [3, 1])
    assert torch.equal(maps[0], want) and maps[1].shape == (3, 128, 4, 6)
    cls, patches = encoder(images)
    assert cls is None and patches.shape == (3, 24, 512)
    on_grid = patches.transpose(1, 2).unflatten(2, (4, 6))
    assert torch.allclose(on_grid[..., 0, 0], want[..., 0, 0], atol=1e-5)
    rows = 0.25 * want[..., 0, 0] + 0.75 * want[..., 1, 0]  # bilinear, from the centre of a cell a quarter away
    assert torch.allclose(on_grid[..., 2, 0], rows, atol=1e-5)
    assert torch.allclose(encoder.features(images), want.mean(dim=(2, 3)), atol=1e-5)
    assert encoder(torch.rand(1, 3, 64, 32))[1].shape == (1, 32, 512)


def test_weights_load_into_timm_without_conversion(encoder, images, tmp_path):
    encoder.eval()
    path = tmp_path / "encoder.safetensors"
    save_file(encoder.trunk.state_dict(), path)
    model = timm.create_model(**encoder.spec, checkpoint_path=str(path)).eval()
    assert torch.allclose(model(encoder.normalise(images)), encoder.features(images), atol=1e-5)


def test_statistics_move_with_the_gradient_as_batch_norms_do(encoder, images):
    before = {name: value.clone() for name, value in encoder.trunk.state_dict().items()}
    plain = timm.create_model(**encoder.spec).train()
    plain.load_state_dict(before)
    plain(encoder.normalise(images))
    patches = encoder.train()(images)[1]
    assert all(torch.equal(value, before[name]) for name, value in encoder.trunk.state_dict().items())
    patches.square().sum().backward()
    after = plain.state_dict()
    assert all(torch.allclose(value, after[name], atol=1e-4) for name, value in encoder.trunk.state_dict().items())
    assert not torch.equal(after["bn1.running_mean"], before["bn1.running_mean"])
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_stochastic_depth_rises():
    made, told = resnet.create("resnet18", (32, 32), 8, drop_path=0.3), resnet.create("resnet18", (32, 32), 8)
    told.set_drop_path(0.3)
    for encoder in (made, told):
        blocks = [block for stage in encoder.stages() for block in stage]
        rates = [block.drop_path.drop_prob if block.drop_path is not None else 0.0 for block in blocks]
        assert rates == pytest.approx([0.3 * index / 7 for index in range(8)])
    told.set_drop_path(0.0)
    assert told.trunk.layer4[1].drop_path is None


def test_refuses_what_a_resnet_cannot(encoder, images):
    mask = torch.zeros(3, 24, dtype=torch.bool)
    with pytest.raises(Refused, match="cim and supervised"):
        encoder(images, mask)
    with pytest.raises(Refused, match="cim and supervised"):
        encoder(images, mask, fill=torch.zeros(512))
    with pytest.raises(Refused, match="pool = 'mean'"):
        encoder.features(images, "cls")
    with pytest.raises(Refused, match="no attention"):
        encoder.attention(images, [0])
    with pytest.raises(Refused, match="stages 0 to 3"):
        encoder.maps(images, [4])


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("resnet19", {}, "did you mean 'resnet'"),
        ("resnet51q", {}, "no plain ResNet"),
        ("resnet18", {"output_stride": 4}, "8, 16, 32"),
        ("resnet18", {"normalise": "zero"}, "imagenet.*half.*none"),
    ],
)
def test_refuses_what_cannot_be_built(name, options, said):
    with torch.device("meta"), pytest.raises(Refused, match=said):
        encoders.create(name, 32, 8, **options)
