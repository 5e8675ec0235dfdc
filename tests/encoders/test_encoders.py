"""The encoder's contract, over families, timm names and grids."""

import pytest
import timm
import torch

from mimlab import encoders
from mimlab.errors import Refused
from mimlab.masks import cut, take, visible_ids

SMALL = {"dim": 24, "depth": 2, "heads": 3}
BUILDS = [
    ("vit", SMALL),
    ("vit", SMALL | {"positions": "sincos"}),
    ("vit", SMALL | {"class_token": False}),
    ("vit_tiny", {"depth": 1}),
    ("vit_small_patch32_224", {"depth": 1}),
    ("vit_medium_patch16_reg4_gap_256", {"depth": 1}),
    ("vit_base_patch16_clip_224", SMALL),
    ("beit", SMALL),
    ("beit", SMALL | {"bias": "per_block"}),
    ("beit", SMALL | {"bias": "none", "absolute": True}),
    ("beit", SMALL | {"bias": "none", "layer_scale": 0.0}),
]


@pytest.fixture(params=BUILDS, ids=lambda p: f"{p[0]}-{'-'.join(f'{k}={v}' for k, v in p[1].items())}")
def encoder(request):
    torch.manual_seed(0)
    name, options = request.param
    return encoders.create(name, (16, 24), 4, **options).eval()


@pytest.fixture
def images():
    return torch.rand(3, 3, 16, 24)


def test_all_patches(encoder, images):
    cls, patches = encoder(images)
    assert encoder.grid == (4, 6) and patches.shape == (3, 24, encoder.dim)
    assert (cls is None) == (encoder.trunk.cls_token is None) == (not encoder.has_cls)
    want = encoder.trunk.forward_features(encoder.normalise(images))
    assert torch.allclose(patches, want[:, encoder.prefix :], atol=1e-5)


def test_dropping_hides_pixels_and_keeps_raster_order(encoder, images):
    mask = cut(torch.rand(3, 24), 18)
    if not encoder.can_drop:
        with pytest.raises(Refused, match="vit family"):
            encoder(images, mask)
        return
    _, patches = encoder(images, mask, visible=6)
    assert patches.shape == (3, 6, encoder.dim)
    pixels = mask.view(3, 1, 4, 6).repeat_interleave(4, 2).repeat_interleave(4, 3)
    again = encoder(images + 7 * pixels, mask)
    assert torch.equal(patches, again[1])
    with torch.no_grad():
        tokens = encoder.embed(images, mask)[:, encoder.prefix :]
        whole = encoder.embed(images)[:, encoder.prefix :]
    assert torch.allclose(tokens, take(whole, visible_ids(mask, 6)), atol=1e-6)


def test_replacing_hides_pixels_and_keeps_all_positions(encoder, images):
    mask, fill = cut(torch.rand(3, 24), 18), torch.randn(encoder.dim)
    _, patches = encoder(images, mask, fill=fill)
    assert patches.shape == (3, 24, encoder.dim)
    pixels = mask.view(3, 1, 4, 6).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert torch.equal(patches, encoder(images * ~pixels, mask, fill=fill)[1])
    assert not torch.allclose(patches, encoder(images)[1])


def test_attention_is_what_the_blocks_use(encoder, images):
    """A block made of the recomputed weights gives what the block gives."""
    weights = encoder.attention(images, [encoder.depth - 1])[encoder.depth - 1]
    tokens = encoder.prefix + 24
    assert weights.shape[2:] == (tokens, tokens)
    assert torch.allclose(weights.sum(dim=-1), torch.ones(()), atol=1e-5)
    seen = {}
    block = encoder.trunk.blocks[encoder.depth - 1]
    hook = block.register_forward_hook(lambda module, args, out: seen.update(x=args[0], out=out))
    encoder(images)
    hook.remove()
    b, t, d = seen["x"].shape
    qkv = block.attn.qkv(block.norm1(seen["x"]))
    if getattr(block.attn, "v_bias", None) is not None:
        qkv = qkv + torch.cat([block.attn.q_bias, block.attn.k_bias, block.attn.v_bias])
    v = qkv.reshape(b, t, 3, weights.shape[1], -1).permute(2, 0, 3, 1, 4)[2]
    x = seen["x"] + scaled(block, 1, block.attn.proj((weights @ v).transpose(1, 2).reshape(b, t, d)))
    assert torch.allclose(x + scaled(block, 2, block.mlp(block.norm2(x))), seen["out"], atol=1e-5)


def scaled(block, branch, x):
    """LayerScale of a block's first or second branch, under the name that its family has for it."""
    if hasattr(block, "ls1"):
        return getattr(block, f"ls{branch}")(x)
    gamma = getattr(block, f"gamma_{branch}")
    return x if gamma is None else gamma * x


def test_attention_of_a_layer_that_is_not_there(encoder, images):
    with pytest.raises(Refused, match=f"0 to {encoder.depth - 1}"):
        encoder.attention(images, [99])


def test_features_and_maps(encoder, images):
    assert encoder.features(images).shape == (3, encoder.dim)
    mean = encoder(images)[1].mean(dim=1)
    assert torch.allclose(encoder.features(images), encoder.trunk.fc_norm(mean))
    (last,) = encoder.maps(images, [encoder.depth - 1])
    assert last.shape == (3, encoder.dim, 4, 6)
    tokens = encoder.tokens(images)[:, encoder.prefix :]
    assert torch.allclose(last.flatten(2).transpose(1, 2), tokens)
    if not encoder.has_cls:
        with pytest.raises(Refused, match="class token"):
            encoder.features(images, pool="cls")


def test_weights_load_into_timm_without_conversion(encoder, images, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "encoder.safetensors"
    save_file({name: value.contiguous() for name, value in encoder.trunk.state_dict().items()}, path)
    model = timm.create_model(**encoder.spec, checkpoint_path=str(path)).eval()
    with torch.no_grad():  # so that both go timm's way
        want = encoder.trunk.forward_features(encoder.normalise(images))
        assert torch.allclose(model.forward_features(encoder.normalise(images)), want, atol=1e-6)
    model, trunk, given = model.double(), encoder.trunk.double(), encoder.normalise(images).double()
    assert torch.allclose(model.forward_features(given), trunk.forward_features(given), atol=1e-12)  # ours, to train


@pytest.mark.parametrize(
    ("name", "size", "called"),
    [
        ("vit", (192, 12, 3), "vit_tiny_patch16_224"),
        ("vit", (384, 12, 6), "vit_small_patch16_224"),
        ("vit", (768, 12, 12), "vit_base_patch16_224"),
        ("vit", (1024, 24, 16), "vit_large_patch16_224"),
        ("beit", (768, 12, 12), "beit_base_patch16_224"),
        ("beit", (1024, 24, 16), "beit_large_patch16_224"),
        ("vit", (768, 12, 8), "vit_tiny_patch16_224"),  # no name fits: the first one, with its sizes written out
        ("beit", (384, 12, 6), "beit_base_patch16_224"),
    ],
)
def test_a_size_that_timm_has_is_called_by_its_name(name, size, called):
    """Official files are opened by their shapes, as `vit` or `beit`; the names of a family differ by size alone."""
    options = dict(zip(("dim", "depth", "heads"), size, strict=True))
    with torch.device("meta"):
        made = encoders.create(name, 32, 16, **options)
        assert made.spec["model_name"] == called
        plain = timm.create_model(called, img_size=32, num_classes=0)
    fits = {n: tuple(v.shape) for n, v in plain.state_dict().items()}
    own = {n: tuple(v.shape) for n, v in made.trunk.state_dict().items()}
    blocks = [{n: shape for n, shape in x.items() if n.startswith("blocks.0.mlp")} for x in (fits, own)]
    assert (blocks[0] == blocks[1] and len(plain.blocks) == made.depth) == (
        size in encoders.find("encoders", name).SIZES
    )


def test_stochastic_depth_rises(encoder):
    encoder.set_drop_path(0.3)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in encoder.trunk.blocks]
    assert rates[0] == 0.0 and (encoder.depth == 1 or rates[-1] == pytest.approx(0.3))


@pytest.mark.parametrize(
    ("name", "size", "patch", "options", "said"),
    [
        ("vit", 28, 5, {}, "does not divide image_size = 28"),
        ("vit", 28, 4, {"dim": 96, "heads": 5}, "heads = 5 does not divide dim = 96; heads could be: 1, 2, 3, 4, 6"),
        ("vit_small", 32, 4, {"dim": 100}, "do not fit vit_small_patch16_224.*give dim and heads together"),
        ("vit_base", 32, 4, {"dim": 99}, "give dim and heads together"),
        ("vit", 28, 4, {"dept": 3}, "did you mean 'depth'"),
        ("vit", 28, 4, {"positions": "rotary"}, "learned, sincos"),
        ("vit", 28, 4, {"normalise": "zero"}, "imagenet, half, none"),
        ("vit", 28, 4, {"dim": 6, "heads": 1, "positions": "sincos"}, "multiple of 4"),
        ("vit_gigantic_patch3", 28, 4, {}, "no model called"),
        ("beit", 28, 4, {"bias": "some"}, "shared, per_block, none"),
        ("convnext_tiny", 28, 4, {}, "there are: beit, resnet, vit"),
    ],
)
def test_refuses_what_cannot_work(name, size, patch, options, said):
    with pytest.raises(Refused, match=said):
        encoders.create(name, size, patch, **options)
