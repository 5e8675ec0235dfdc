"""Images of other sizes than the encoder's own: DINO's numbers, and what is refused."""

import pytest
import torch
from oracle_cases import assert_close, cases, load

from mimlab import encoders
from mimlab.checkpoints import dino as official
from mimlab.errors import Refused
from mimlab.masks import cut, take, visible_ids

SMALL = {"dim": 24, "depth": 2, "heads": 3}
RESIZED = [
    ("vit", SMALL),
    ("vit", SMALL | {"positions": "sincos"}),
    ("vit", SMALL | {"class_token": False}),
    ("vit_medium_patch16_reg4_gap_256", {"depth": 1}),
]


def build(config):
    size = config["img_size"]
    return encoders.create(
        "vit",
        size[0] if isinstance(size, list) else size,
        config["patch_size"],
        dim=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        normalise="none",
    ).eval()


@pytest.fixture(params=cases("dino_vit"))
def case(request):
    state, arrays, about = load(request.param)
    encoder = build(about["config"])
    assert official.load_encoder(encoder, state) == ([], [])
    return encoder, {name: torch.as_tensor(value) for name, value in arrays.items()}


def sizes(arrays):
    return [name.removeprefix("images_") for name in arrays if name.startswith("images_")]


@torch.no_grad()
def test_outputs_and_attention_are_dinos_at_every_size(case):
    encoder, arrays = case
    assert len(sizes(arrays)) > 1
    for kind in sizes(arrays):
        images = arrays[f"images_{kind}"]
        assert_close(encoder(images)[0], arrays[f"cls_{kind}"], 3e-5, 1e-5, kind)
        last = encoder.depth - 1
        assert_close(encoder.attention(images, [last])[last], arrays[f"attention_{kind}"], 1e-4, 1e-6, kind)


@torch.no_grad()
def test_position_tables_are_dinos_at_every_size(case):
    encoder, arrays = case
    for kind in sizes(arrays):
        table = torch.cat(encoder.positions_at(encoder.cells(arrays[f"images_{kind}"])), dim=1)
        assert_close(table, arrays[f"posembed_{kind}"], 1e-4, 1e-5, kind)
    assert torch.equal(encoder.positions_at(encoder.grid)[1], encoder.trunk.pos_embed[:, 1:])  # its own, untouched


@torch.no_grad()
def test_maps_of_the_last_blocks_are_dinos_intermediate_layers(case):
    encoder, arrays = case
    for kind in sizes(arrays):
        found = sorted(name for name in arrays if name.startswith(f"intermediate_{kind}_"))
        layers = list(range(encoder.depth - len(found), encoder.depth))
        maps = encoder.maps(arrays[f"images_{kind}"], layers)
        for name, grid in zip(found, maps, strict=True):
            tokens = encoder.trunk.norm(grid.flatten(2).transpose(1, 2))
            assert_close(tokens, arrays[name][:, encoder.prefix :], 3e-5, 1e-5, name)
    assert any(name.startswith("intermediate_") for name in arrays)


@pytest.fixture(params=RESIZED, ids=lambda p: f"{p[0]}-{'-'.join(f'{k}={v}' for k, v in p[1].items())}")
def encoder(request):
    torch.manual_seed(0)
    name, options = request.param
    return encoders.create(name, (16, 24), 4, **options).eval()


@pytest.mark.parametrize("size", [(8, 8), (16, 20), (24, 16), (4, 4), (40, 24)])
def test_every_vit_takes_other_sizes(encoder, size):
    assert encoder.can_resize
    images, n = torch.rand(2, 3, *size), size[0] * size[1] // 16
    patches = encoder(images)[1]
    assert patches.shape == (2, n, encoder.dim) and torch.isfinite(patches).all()
    assert encoder.features(images).shape == (2, encoder.dim)
    (last,) = encoder.maps(images, [encoder.depth - 1])
    assert last.shape == (2, encoder.dim, size[0] // 4, size[1] // 4)
    if n > 1:  # hidden patches are left out at other sizes too, each with its own position
        mask = cut(torch.rand(2, n), n // 2)
        whole = encoder.embed(images)[:, encoder.prefix :]
        kept = encoder.embed(images, mask)[:, encoder.prefix :]
        assert torch.allclose(kept, take(whole, visible_ids(mask, n - n // 2)), atol=1e-6)


def test_positions_keep_their_order_and_learn():
    """A table that rises to the right and downwards still does in another size, and gets a gradient from there."""
    torch.manual_seed(0)
    encoder = encoders.create("vit", 32, 4, dim=8, depth=1, heads=2)
    down, across = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    encoder.trunk.pos_embed.data[0, 1:, 0], encoder.trunk.pos_embed.data[0, 1:, 1] = down.flatten(), across.flatten()
    table = encoder.positions_at((3, 5))[1].unflatten(1, (3, 5))[0]
    assert (table[1:, :, 0] > table[:-1, :, 0]).all() and (table[:, 1:, 1] > table[:, :-1, 1]).all()
    encoder(torch.rand(1, 3, 12, 20))[0][:, 0].sum().backward()  # the sum over all channels is the norm's, a constant
    assert (encoder.trunk.pos_embed.grad[0].abs().sum(dim=1) > 0).sum() > 16


def test_sizes_that_cannot_be_are_refused():
    vit = encoders.create("vit", 16, 4, **SMALL)
    with pytest.raises(Refused, match=r"18 x 16 pixels.*4-pixel patches; .* 16 x 16"):
        vit(torch.rand(1, 3, 18, 16))
    beit = encoders.create("beit", 16, 4, **SMALL)
    assert not beit.can_resize
    with pytest.raises(Refused, match=r"\(4, 4\) patches cannot encode one of \(2, 4\).*vit family"):
        beit(torch.rand(1, 3, 8, 16))
