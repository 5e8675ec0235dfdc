"""XCiT against timm's own model, and what its convolutions and class-attention layers ask for."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import DropPath
from torch import nn

import mimlab
from mimlab import encoders
from mimlab.encoders import xcit
from mimlab.encoders.xcit import BatchNorm
from mimlab.errors import Refused
from mimlab.masks import cut, pixels

SMALL = {"dim": 24, "depth": 2, "heads": 3}
BUILDS = [
    ("xcit", 8, SMALL),
    ("xcit", 16, SMALL),
    ("xcit_nano", 16, {"depth": 1}),
    ("xcit_tiny_12_p8_224", 8, {"depth": 2}),
    ("xcit_small_24_p16_384", 8, {"dim": 48, "depth": 1, "heads": 4}),  # against its name
    ("xcit_medium_24_p16_224", 16, {"dim": 32, "depth": 2, "heads": 2}),
]


def build(name, patch, options):
    """2 x 3 patches, and no number that hides a mistake: scales, shifts and running statistics are random."""
    torch.manual_seed(0)
    encoder = encoders.create(name, (2 * patch, 3 * patch), patch, **options)
    for parameter in encoder.parameters():
        if parameter.ndim <= 1:
            nn.init.uniform_(parameter, 0.5, 1.5)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return encoder.eval()


def twin(encoder):
    """timm's model with the same weights."""
    model = timm.create_model(**encoder.spec)
    model.load_state_dict(encoder.trunk.state_dict())
    return model.eval()


@pytest.fixture(params=BUILDS, ids=lambda p: f"{p[0]}-{p[1]}")
def encoder(request):
    return build(*request.param)


@pytest.fixture
def small():
    return build("xcit", 8, SMALL)


def draw(encoder, rows=2):
    height, width = (side * encoder.patch for side in encoder.grid)
    return torch.rand(rows, 3, height, width)


def close(one, other):
    return torch.allclose(one, other, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_without_a_mask_it_is_timms_own_forward(encoder):
    images = draw(encoder)
    cls, patches = encoder(images)
    assert encoder.grid == (2, 3) and cls.shape == (2, encoder.dim) and patches.shape == (2, 6, encoder.dim)
    want = twin(encoder).forward_features(encoder.normalise(images))
    assert close(cls, want[:, 0]) and close(patches, want[:, 1:])
    assert close(encoder.features(images), want[:, 1:].mean(dim=1))
    assert torch.equal(encoder.features(images, pool="cls"), cls)
    assert (encoder.prefix, encoder.depth, encoder.can_drop) == (1, len(encoder.trunk.blocks), False)


def test_a_training_step_is_timms_own(encoder):
    """Gradients, and the running statistics that timm moves in the forward pass."""
    images, other = draw(encoder, 3), twin(encoder).train()
    encoder.train()
    cls, patches = encoder(images)
    (cls.square().mean() + patches.square().mean()).backward()
    out = other.forward_features(encoder.normalise(images))
    (out[:, 0].square().mean() + out[:, 1:].square().mean()).backward()
    theirs = dict(other.named_parameters())
    for name, parameter in encoder.trunk.named_parameters():
        scale = theirs[name].grad.abs().max()
        assert torch.allclose(parameter.grad, theirs[name].grad, rtol=1e-3, atol=1e-4 * float(scale) + 1e-7), name
    buffers = dict(other.named_buffers())
    assert buffers and all(close(value, buffers[name]) for name, value in encoder.trunk.named_buffers())


@torch.no_grad()
def test_maps_are_the_blocks_outputs(encoder):
    images, layers = draw(encoder), [encoder.depth - 1, 0]
    found = encoder.maps(images, layers)
    want = twin(encoder).forward_intermediates(
        encoder.normalise(images), indices=list(range(encoder.depth)), intermediates_only=True
    )
    assert [one.shape for one in found] == [(2, encoder.dim, 2, 3)] * 2
    assert all(close(one, want[layer]) for one, layer in zip(found, layers, strict=True))


def test_weights_load_into_timm_without_conversion(encoder, tmp_path):
    path, images = tmp_path / "encoder.safetensors", draw(encoder)
    save_file({name: value.contiguous() for name, value in encoder.trunk.state_dict().items()}, path)
    model = timm.create_model(**encoder.spec, checkpoint_path=str(path)).eval()
    x = encoder.normalise(images)
    assert torch.equal(model.forward_features(x), encoder.trunk.forward_features(x))


@torch.no_grad()
def test_any_size_has_its_own_fourier_positions(encoder):
    assert encoder.can_resize
    for grid in ((2, 3), (3, 2), (1, 1), (4, 5)):
        images = torch.rand(2, 3, grid[0] * encoder.patch, grid[1] * encoder.patch)
        want = twin(encoder).forward_features(encoder.normalise(images))
        assert close(encoder(images)[1], want[:, 1:])
        (last,) = encoder.maps(images, [encoder.depth - 1])
        assert last.shape[2:] == grid
        first, table = encoder.positions_at(grid)
        assert first is None and table.shape == (1, grid[0] * grid[1], encoder.dim)
    assert torch.equal(encoder.positions()[1], encoder.positions_at((2, 3))[1])
    with pytest.raises(Refused, match="no whole number"):
        encoder(torch.rand(1, 3, encoder.patch + 1, encoder.patch))


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_replaced_patches_hide_their_pixels_from_all(encoder, training):
    """Also from the embeddings of visible neighbours, and from BatchNorm's statistics."""
    encoder.train(training)
    images, mask = draw(encoder, 4), cut(torch.rand(4, 6), 3)
    hidden, fill = pixels(mask, (2, 3), images.shape[2:]), torch.randn(encoder.dim)
    changed = torch.where(hidden, torch.rand_like(images), images)
    assert torch.equal(encoder.embed(images, mask, fill=fill), encoder.embed(changed, mask, fill=fill))
    for one, other in zip(encoder(images, mask, fill=fill), encoder(changed, mask, fill=fill), strict=True):
        assert torch.equal(one, other)
    other = torch.where(hidden, images, torch.rand_like(images))  # the visible ones count
    assert not close(encoder(images, mask, fill=fill)[1], encoder(other, mask, fill=fill)[1])
    assert not close(encoder(images, mask, fill=fill)[1], encoder(images, mask, fill=2 * fill)[1])


@torch.no_grad()
def test_a_fill_stands_at_hidden_patches_with_its_position(encoder):
    images, mask, fill = draw(encoder), cut(torch.rand(2, 6), 3), torch.randn(encoder.dim)
    found, table = encoder.embed(images, mask, fill=fill), encoder.positions()[1].expand(2, -1, -1)
    assert torch.equal(found[mask], fill + table[mask])
    grey = encoder.normalise.mean.expand_as(images)
    seen = torch.where(pixels(mask, (2, 3), images.shape[2:]), grey, images)
    assert close(found[~mask], encoder.embed(seen)[~mask])  # hidden pixels have the mean colour
    assert torch.equal(encoder.embed(images, torch.zeros_like(mask), fill=fill), encoder.embed(images))


@pytest.mark.parametrize(("patch", "rim"), [(8, 7), (16, 15)])
def test_convolutions_see_nearly_a_whole_neighbour(patch, rim):
    """Why hidden pixels are blanked: up and to the left `rim` pixels, of `patch`; down and to the right none."""
    encoder = build("xcit", patch, SMALL)
    images = torch.rand(1, 3, 2 * patch, 3 * patch, requires_grad=True)
    encoder.embed(images)[0, 4].sum().backward()  # the middle of the lower row
    reached = images.grad[0].abs().sum(dim=0) > 0
    down, across = reached.any(dim=1).nonzero().flatten(), reached.any(dim=0).nonzero().flatten()
    assert (int(down[0]), int(down[-1])) == (patch - rim, 2 * patch - 1)
    assert (int(across[0]), int(across[-1])) == (patch - rim, 2 * patch - 1)


@torch.no_grad()
def test_class_attention_is_what_the_layers_use(encoder):
    images, seen = draw(encoder), {}
    for index, block in enumerate(encoder.trunk.cls_attn_blocks):
        block.attn.register_forward_hook(lambda module, args, out, index=index: seen.update({index: (args[0], out)}))
    encoder(images)
    used = dict(seen)
    found = encoder.class_attention(images)
    assert list(found) == [0, 1]
    for index, weights in found.items():
        attn, (x, out) = encoder.trunk.cls_attn_blocks[index].attn, used[index]
        assert weights.shape == (2, attn.num_heads, 1, 1 + 6) and close(weights.sum(dim=-1), torch.ones(()))
        v = attn.v(x).unflatten(2, (attn.num_heads, -1)).transpose(1, 2)
        assert close(attn.proj((weights @ v).transpose(1, 2).flatten(2)), out)


@torch.no_grad()
def test_cross_covariance_is_what_the_blocks_use(encoder):
    images, last, seen = draw(encoder), encoder.depth - 1, {}
    nn.init.uniform_(encoder.trunk.blocks[last].attn.temperature, 0.5, 3.0)
    encoder.trunk.blocks[last].attn.register_forward_hook(lambda module, args, out: seen.update(x=args[0], out=out))
    encoder(images)
    weights, attn = encoder.cross_covariance(images, [last])[last], encoder.trunk.blocks[last].attn
    width = encoder.dim // attn.num_heads
    assert weights.shape == (2, attn.num_heads, width, width) and close(weights.sum(dim=-1), torch.ones(()))
    v = attn.qkv(seen["x"])[..., 2 * encoder.dim :].unflatten(2, (attn.num_heads, -1)).permute(0, 2, 3, 1)
    mixed = (weights @ v).permute(0, 3, 1, 2).flatten(2)  # (B, N, D)
    assert close(attn.proj(mixed), seen["out"])
    assert list(encoder.cross_covariance(images, list(range(encoder.depth)))) == list(range(encoder.depth))


def test_attention_between_patches_is_refused(small):
    with pytest.raises(Refused, match=r"xcit_nano_12.*class_attention\(images\).*cross_covariance\(images, layers\)"):
        small.attention(draw(small), [0])
    with pytest.raises(Refused, match=r"layers = \[2\]: this encoder has layers 0 to 1"):
        small.cross_covariance(draw(small), [0, 2])


def test_stochastic_depth_is_the_same_in_all_blocks(small):
    names = ("drop_path1", "drop_path2", "drop_path3")
    made = encoders.create("xcit", 16, 8, drop_path=0.3, **SMALL)
    small.set_drop_path(0.3)
    for encoder in (made, small):
        rates = {getattr(block, name).drop_prob for block in encoder.trunk.blocks for name in names}
        assert rates == {0.3}
    small.set_drop_path(0.0)
    assert not [module for module in small.modules() if isinstance(module, DropPath)]


def test_freezing_cls_leaves_exactly_what_patches_reach(encoder):
    """What no loss on patches reaches has gradients of 0, and weight decay would shrink it."""
    encoder.train()

    def unmoved(output):
        encoder.zero_grad(set_to_none=True)
        encoder(draw(encoder))[output].square().mean().backward()
        trained = [(name, p.grad) for name, p in encoder.named_parameters() if p.requires_grad]
        return {name for name, gradient in trained if gradient is None or not gradient.any()}

    idle = unmoved(1)
    assert {"trunk.cls_token", "trunk.cls_attn_blocks.1.mlp.fc2.weight"} < idle
    encoder.train_cls(False)
    assert {name for name, p in encoder.named_parameters() if not p.requires_grad} == idle and unmoved(1) == set()
    encoder.train_cls(True)
    assert all(p.requires_grad for p in encoder.parameters()) and unmoved(0) == set()


def test_forward_alone_moves_no_running_statistic(small):
    small.train()
    before = {name: value.clone() for name, value in small.named_buffers()}
    out = small(draw(small))[1]
    assert all(torch.equal(value, before[name]) for name, value in small.named_buffers())
    out.sum().backward()
    moved = {name for name, value in small.named_buffers() if not torch.equal(value, before[name])}
    running = ("running_mean", "running_var", "num_batches_tracked")
    assert moved == {name for name in before if name.endswith(running)} != set()
    before = {name: value.clone() for name, value in small.named_buffers()}
    with torch.no_grad():  # a teacher has no gradient
        small(draw(small))
    assert all(torch.equal(value, before[name]) for name, value in small.named_buffers())
    for module in small.modules():
        if isinstance(module, BatchNorm):
            module.take_in()
            module.take_in()  # nothing waits any more
    assert {name for name, value in small.named_buffers() if not torch.equal(value, before[name])} == moved
    assert all(int(n) == 2 for name, n in small.named_buffers() if name.endswith("num_batches_tracked"))


@pytest.mark.parametrize("training", [False, True])
def test_gradient_of_one_image_whose_rows_come_transposed(training):
    """Where torch's own BatchNorm2d errs on a CPU."""
    torch.manual_seed(0)
    norm, x, w = BatchNorm(64).train(training), torch.randn(1, 64, 6, 6), torch.randn(1, 36, 64)
    found, want = x.clone().requires_grad_(), x.double().requires_grad_()
    (norm(found).flatten(2).transpose(1, 2) * w).sum().backward()
    mean, var = (
        (want.mean((2, 3), keepdim=True), want.var((2, 3), unbiased=False, keepdim=True)) if training else (0, 1)
    )
    (((want - mean) / (var + norm.eps) ** 0.5).flatten(2).transpose(1, 2) * w).sum().backward()
    assert torch.allclose(found.grad.double(), want.grad, atol=1e-4)


def test_two_processes_normalise_as_one(monkeypatch):
    """Two unequal halves of a batch; `gather`, which has tests of its own, is played by what it would bring."""
    x, w = torch.randn(4, 5, 3, 2), torch.randn(4, 5, 3, 2)
    x = x * torch.tensor([1.0, 1.0, 3.0, 3.0]).view(4, 1, 1, 1) + 10
    halves = [part.clone().requires_grad_() for part in x.chunk(2)]
    monkeypatch.setattr(xcit, "world", lambda: 2)
    rows = [torch.stack([half.var((0, 2, 3), unbiased=False), half.mean((0, 2, 3))])[None] for half in halves]
    calls, norms = [], [BatchNorm(5), BatchNorm(5)]
    monkeypatch.setattr(xcit, "gather", lambda own: calls.append(own) or torch.cat(rows))
    outs = [norm(half) for norm, half in zip(norms, halves, strict=True)]
    assert all(close(own, row) for own, row in zip(calls, rows, strict=True))
    (torch.cat(outs) * w).sum().backward()
    want, whole = nn.BatchNorm2d(5), x.clone().requires_grad_()
    out = want(whole)
    (out * w).sum().backward()
    assert close(torch.cat(outs), out) and close(torch.cat([half.grad for half in halves]), whole.grad)
    for norm in norms:
        assert close(norm.running_mean, want.running_mean) and close(norm.running_var, want.running_var)
        assert norm.num_batches_tracked == 1


@pytest.mark.parametrize(
    ("name", "size", "patch", "options", "said"),
    [
        ("xcit", 28, 4, {}, "patch_size = 4.*8 or 16 pixels; use patch_size = 8 and an image_size.*such as 32"),
        ("xcit", 28, 7, {}, "patch_size = 7.*8 or 16 pixels"),
        ("xcit_nano", 64, 32, {}, "patch_size = 32.*8 or 16"),
        ("xcit", 30, 8, {}, "does not divide image_size = 30"),
        ("xcit", 32, 8, {"dim": 96, "heads": 5}, "heads = 5 does not divide dim = 96"),
        ("xcit_nano", 32, 8, {"dim": 98}, "dim = 98 does not fit the 4 heads of xcit_nano_12_p16_224; give both"),
        ("xcit", 32, 8, {"dim": 4, "heads": 1}, "dim = 4 is too narrow.*8 or more"),
        ("xcit", 32, 8, {"positions": "sincos"}, "no option 'positions'"),
        ("xcit", 32, 8, {"normalise": "zero"}, "imagenet, half, none"),
        (
            "xcit_huge",
            32,
            8,
            {},
            "'xcit_huge': timm has no model of this name; there are: xcit, xcit_nano, .*24_p8_384",
        ),
    ],
)
def test_refuses_what_cannot_work(name, size, patch, options, said):
    with pytest.raises(Refused, match=said):
        encoders.create(name, size, patch, **options)


def test_timm_names_are_built():  # all of them: test_agree.py
    with torch.device("meta"):
        for name in timm.list_models("xcit_*")[::6]:
            patch = 8 if "_p8_" in name else 16
            encoder = encoders.create(name, 32, patch, depth=1)
            assert encoder.spec["model_name"] == name and encoder.grid == (32 // patch,) * 2


def test_hidden_patches_cannot_be_left_out(small):
    with pytest.raises(Refused, match="cannot leave hidden patches out.*beit, simmim.*vit family"):
        small(draw(small), cut(torch.rand(2, 6), 3))


SETTINGS = {
    "encoder": "xcit",
    "encoder_args": SMALL,
    "image_size": 32,
    "patch_size": 8,
    "fraction": 0.003,
    "batch_size": 10,
    "epochs": 1,
    "updates": "3",
    "vocab": 16,
    "knn_every": 0,
    "log_every": 1,
    "device": "cpu",
}


@pytest.mark.parametrize("method", ["mae", "splitmask", "cae"])
def test_methods_that_leave_patches_out_refuse_it_at_construction(method):
    with pytest.raises(Refused, match=f"{method} .*this encoder cannot; use an encoder of the vit family"):
        mimlab.Pretrain(method=method, **SETTINGS).resolved()


@pytest.mark.parametrize("method", ["beit", "simmim"])
@pytest.mark.slow
def test_methods_that_replace_patches_train_it(method, tmp_path):
    run = mimlab.pretrain(mimlab.Pretrain(method=method, out=str(tmp_path), **SETTINGS))
    losses = [row["loss"] for row in run.metrics() if "loss" in row]
    assert run.finished and len(losses) == 3 and all(torch.isfinite(torch.tensor(losses)))
    model = timm.create_model(**run.config["timm"], checkpoint_path=str(run.path / "encoder.safetensors")).eval()
    images, encoder = torch.rand(2, 3, 32, 32), run.encoder()
    with torch.no_grad():
        want = model.forward_features(encoder.normalise(images))
        assert close(encoder(images)[1], want[:, 1:]) and close(encoder(images)[0], want[:, 0])
    assert int(encoder.trunk.patch_embed.proj[0][1].num_batches_tracked) == 3  # once a step
