"""Features by layer are what the encoder itself gives, whatever its family, and asking leaves no trace."""

import pytest
import torch

from mimlab import encoders
from mimlab.errors import Refused
from mimlab.looking import features
from mimlab.looking.features import OUTPUT

SMALL = {"dim": 16, "depth": 2, "heads": 2}


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    return encoders.create("vit", 32, 8, **SMALL)


@pytest.fixture(scope="module")
def images():
    return torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["vit", "beit", "xcit", "resnet18"])
def test_layers_are_the_encoders_maps_and_its_output(name, images):
    torch.manual_seed(0)
    options = {} if name == "resnet18" else SMALL
    encoder = encoders.create(name, 32, 8, **options).eval()
    found = features.layers(encoder, images, batch=2)
    assert list(found) == [*range(encoder.depth), OUTPUT]
    with torch.no_grad():
        maps = encoder.maps(images, list(range(encoder.depth)))
        _, last = encoder(images)
    for layer, cells in enumerate(maps):
        torch.testing.assert_close(found[layer], cells.mean(dim=(2, 3)), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            features.patches(encoder, images, layer, batch=3), cells.permute(0, 2, 3, 1), atol=1e-5, rtol=1e-5
        )
    torch.testing.assert_close(found[OUTPUT], last.mean(dim=1), atol=1e-5, rtol=1e-5)
    assert features.patches(encoder, images).shape == (5, 4, 4, encoder.dim)


def test_the_class_token_of_every_layer(vit, images):
    found = features.layers(vit, images, pool="cls")
    seen = []
    hooks = [block.register_forward_hook(lambda m, i, out: seen.append(out[:, 0])) for block in vit.trunk.blocks]
    with torch.no_grad():
        vit.eval()
        output = vit.features(images, "cls")
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(found[0], seen[0])
    torch.testing.assert_close(found[1], seen[1])
    torch.testing.assert_close(found[OUTPUT], output)


def test_bytes_are_the_same_images(vit, images):
    whole = (images * 255).round().byte()
    torch.testing.assert_close(features.layers(vit, whole)[1], features.layers(vit, whole / 255)[1])


def test_the_mode_of_every_module_and_the_random_state_stay(images):
    encoder = encoders.create("xcit", 32, 8, **SMALL, drop_path=0.3).train()
    encoder.trunk.norm.eval()
    before = {name: module.training for name, module in encoder.named_modules()}
    state = {name: value.clone() for name, value in encoder.state_dict().items()}
    random = torch.get_rng_state()
    features.layers(encoder, images)
    assert {name: module.training for name, module in encoder.named_modules()} == before
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    with pytest.raises(ZeroDivisionError), features.still(encoder):
        raise ZeroDivisionError
    assert encoder.training and all(p.grad is None for p in encoder.parameters())


def test_only_a_batch_at_a_time_goes_through(vit, images):
    sizes = []
    hook = vit.trunk.blocks[0].register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    features.layers(vit, images, [0], batch=2)
    hook.remove()
    assert sizes == [2, 2, 1]


def test_sampled_patches_are_patches_of_their_images(vit, images):
    found = features.sampled(vit, images, 3, torch.Generator().manual_seed(0))
    cells = features.patches(vit, images, 0).flatten(1, 2)  # (B, N, D)
    assert found[0].shape == (15, 16)
    for k, row in enumerate(found[0]):
        assert (cells[k // 3] - row).abs().amax(dim=1).min() < 1e-5
    assert features.sampled(vit, images, 99, torch.Generator(), [OUTPUT])[OUTPUT].shape == (5 * 16, 16)


def test_what_does_not_exist_is_refused(vit, images):
    with pytest.raises(Refused, match="layers 0 to 1"):
        features.layers(vit, images, [2])
    resnet = encoders.create("resnet18", 32, 8)
    with pytest.raises(Refused, match="no class token"):
        features.layers(resnet, images, pool="cls")
    with pytest.raises(Refused, match="comes after its blocks"):
        features.layers(encoders.create("xcit", 32, 8, **SMALL), images, pool="cls")
