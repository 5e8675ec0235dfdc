"""SimMIM against the official code's numbers."""

import math

import numpy as np
import pytest
import torch
from oracle_cases import assert_close, cases, load

import mimlab
from mimlab import encoders, masks
from mimlab.checkpoints import simmim as official
from mimlab.errors import Refused
from mimlab.masks import cut
from mimlab.methods import Batch, Progress
from mimlab.methods.simmim import SimMIM


def build(config, **options):
    bias = "shared" if config["use_shared_rel_pos_bias"] else "per_block" if config["use_rel_pos_bias"] else "none"
    size = config["img_size"]
    encoder = encoders.create(
        "beit",
        size if isinstance(size, int) else tuple(size),
        config["patch_size"],
        dim=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        bias=bias,
        absolute=config["use_abs_pos_emb"],
        layer_scale=config["init_values"] or 0.0,
        normalise="none",
    )
    return SimMIM(encoder, **options)


@pytest.fixture(params=cases("simmim_vit"))
def case(request):
    return load(request.param)


def inputs(arrays):
    return torch.as_tensor(arrays["images"]), torch.as_tensor(arrays["mask"]).bool().flatten(1)


def test_outputs_loss_and_gradients_are_the_official_ones(case):
    state, arrays, about = case
    method = build(about["config"])
    assert official.load_method(method, state) == ([], [])
    images, mask = inputs(arrays)
    maps = method.encode(images, mask).transpose(1, 2).unflatten(2, method.encoder.grid)
    assert_close(maps, arrays["encoder_features"], 3e-5, 1e-5)
    size = images.shape[2:]
    rebuilt = masks.pixels(mask, method.encoder.grid, size)  # where the head's pixels go
    output = method(Batch(images), mask, Progress())
    want = torch.as_tensor(arrays["reconstruction"])
    predicted = method.predict(images, mask)
    assert_close(predicted[mask], output.prediction, 1e-5, 1e-6)
    h, w = method.encoder.grid
    p = size[0] // h
    shown = predicted.view(-1, h, w, 3, p, p).permute(0, 3, 1, 4, 2, 5).reshape(want.shape)
    assert_close(shown, want, 3e-5, 1e-5)
    assert_close(output.loss, arrays["loss_f64"], 2e-5, 0)
    by_hand = ((images - shown).abs() * rebuilt).sum() / (3 * rebuilt.sum())
    assert_close(output.loss, by_hand, 1e-5, 0)
    output.loss.backward()
    own = dict(method.named_parameters())
    for name, norm in about["grad_norm"].items():
        gradient = own[official.ours(name)].grad
        if norm is None:
            assert gradient is None, name
        else:
            assert_close(gradient.norm(), norm, 2e-3, 1e-6)


def test_reconstruction_is_the_official_picture(case):
    state, arrays, about = case
    method = build(about["config"])
    official.load_method(method, state)
    filled = method.reconstruct(*inputs(arrays))
    assert_close(filled.images, arrays["reconstruction"].clip(0, 1), 3e-5, 1e-5)
    assert "leak" not in filled.note


def test_equal_and_ragged_masks_give_the_same_loss_and_prediction(case):
    """A mask of equal rows goes another way through `forward` than one of differing rows."""
    state, arrays, about = case
    method = build(about["config"])
    official.load_method(method, state)
    images, mask = inputs(arrays)
    mask = cut(torch.rand(mask.shape), mask.shape[1] * 2 // 3)
    equal = method(Batch(images, visible=int((~mask[0]).sum())), mask, Progress())
    ragged = method(Batch(images), mask, Progress())
    assert_close(equal.loss, ragged.loss, 1e-6, 0)
    assert_close(equal.prediction, ragged.prediction, 1e-5, 1e-6)


def test_initial_weights_have_the_official_statistics(case):
    about = case[2]
    if "init_stats" not in about:
        return
    pooled = {}
    for seed in range(4):
        torch.manual_seed(seed)
        for name, value in build(about["config"]).named_parameters():
            pooled.setdefault(name, []).append(value.detach().flatten())
    for name, (mean, std, low, high, number) in about["init_stats"].items():
        if name.endswith("relative_position_index"):
            continue
        values = torch.cat(pooled[official.ours(name)])
        assert len(values) == number
        if std == 0:
            assert values.min() == values.max() == pytest.approx(mean)
        elif number > 2000:
            assert float(values.std()) == pytest.approx(std, rel=0.05), name
            assert float(values.abs().max()) <= max(abs(low), abs(high)) * 1.02, name


@pytest.mark.parametrize("name", cases("simmim_masks"))
def test_the_recipes_masks_are_the_official_ones(name):
    """Whole units, the official number of them, every place equally often."""
    _, arrays, about = load(name)
    patch = about["arguments"]["model_patch_size"]
    (side, left), (unit, over) = (divmod(about["arguments"][key], patch) for key in ("input_size", "mask_patch_size"))
    assert (left, over, side % unit) == (0, 0, 0)
    assert about["blocks"] == (side // unit) ** 2
    assert about["blocks_masked"] == math.ceil(about["blocks"] * about["arguments"]["mask_ratio"])
    assert about["cells_masked"] == about["blocks_masked"] * unit**2
    cfg = mimlab.Pretrain(method="simmim").resolved()
    assert (cfg.mask, cfg.mask_args) == ("grid", {"by": "units", "unit": 2})
    given, generator = cfg.mask_args | {"unit": unit}, torch.Generator().manual_seed(0)
    share = about["cells_masked"] / side**2
    ours = masks.sample("grid", 2000, (side, side), share, generator, **given).view(-1, side, side)
    official = torch.as_tensor(arrays["masks"]).bool()
    seeded = np.random.RandomState(about["numpy_legacy_seed"])  # the file holds the first masks of that seed
    for mask in official[:, ::unit, ::unit].flatten(1).numpy():
        assert set(np.flatnonzero(mask)) == set(seeded.permutation(about["blocks"])[: about["blocks_masked"]])
    for found in (ours, official):  # the official masks pass the same test
        assert found.flatten(1).sum(dim=1).eq(about["cells_masked"]).all()
        blocks = found.unfold(1, unit, unit).unfold(2, unit, unit).flatten(3)
        assert (blocks.all(dim=3) | ~blocks.any(dim=3)).all()
    assert_close(ours.float().mean(dim=0), arrays["cell_frequency"], 0, 0.07)


def test_the_recipe_hides_the_official_count():
    """ceil(0.6 * units) units of 32 pixels, in 16-pixel patches, at the sizes of the official configurations."""
    ratio = mimlab.Pretrain(method="simmim").resolved().mask_ratio
    assert masks.count(14 * 14, ratio) == 30 * 4  # 7 x 7 units
    assert masks.count(12 * 12, ratio) == 22 * 4  # 6 x 6 units


@pytest.mark.parametrize("loss", ["l1", "smooth_l1", "l2"])
def test_losses_on_four_patches_by_hand(loss):
    """Independent of the code's own patchify and take."""
    torch.manual_seed(0)
    encoder = encoders.create("vit", 8, 4, dim=16, depth=1, heads=2)
    method = SimMIM(encoder, loss=loss)
    images, mask = torch.rand(2, 3, 8, 8), torch.tensor([[True, False, True, True], [False, True, True, True]])
    predicted = method.predict(images, mask).detach().view(2, 4, 3, 4, 4)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    values = []
    for row in range(2):
        for patch, (y, x) in enumerate(((0, 0), (0, 4), (4, 0), (4, 4))):
            pixels = (images[row, :, y : y + 4, x : x + 4] - mean[:, None, None]) / std[:, None, None]
            far = (predicted[row, patch] - pixels).abs()
            error = {"l1": far, "l2": far**2, "smooth_l1": torch.where(far < 1, far**2 / 2, far - 0.5)}[loss]
            values.append(error.mean())
    values = torch.stack(values).view(2, 4)
    output = method(Batch(images, visible=1), mask, Progress())
    assert_close(output.loss, values[mask].mean(), 1e-5, 0)
    assert_close(method.judge(images, mask).loss, values, 1e-5, 1e-6)


@pytest.mark.parametrize(("coarser", "head"), [(2, "linear"), (4, "mlp"), (2, "blocks")])
def test_a_coarser_target_is_the_mean_of_squares_by_hand(coarser, head):
    torch.manual_seed(0)
    encoder = encoders.create("vit", 8, 4, dim=16, depth=1, heads=2, normalise="half")
    method = SimMIM(encoder, coarser=coarser, head=head).eval()
    images, mask = torch.rand(2, 3, 8, 8), torch.tensor([[True, False, True, True], [False, True, True, True]])
    side = 4 // coarser
    predicted = method.predict(images, mask).detach().view(2, 4, 3, side, side)
    errors, picture = torch.empty(2, 4, 3, side, side), torch.empty_like(images)
    for patch, (y, x) in enumerate(((0, 0), (0, 4), (4, 0), (4, 4))):
        for row in range(side):
            for column in range(side):
                top, left = y + row * coarser, x + column * coarser
                square = images[:, :, top : top + coarser, left : left + coarser]
                here = predicted[:, patch, :, row, column]
                errors[:, patch, :, row, column] = (here - (square.mean(dim=(2, 3)) - 0.5) / 0.5).abs()
                picture[:, :, top : top + coarser, left : left + coarser] = (here * 0.5 + 0.5)[:, :, None, None]
    values = errors.flatten(2).mean(dim=2)
    assert_close(method(Batch(images, visible=1), mask, Progress()).loss, values[mask].mean(), 1e-5, 0)
    assert_close(method.judge(images, mask).loss, values, 1e-5, 1e-6)
    filled = method.reconstruct(images, mask)
    assert_close(filled.images, picture.clamp(0, 1), 1e-5, 1e-6)
    assert f"mean of {coarser} x {coarser} pixels" in filled.note and f"1/{coarser}" in method.predicts


def test_heads_are_those_that_they_are_called():
    vit = {"dim": 64, "depth": 1, "heads": 2}
    sizes = {}
    for head in ("linear", "mlp", "blocks"):
        encoder = encoders.create("vit", 16, 4, **vit)
        method = SimMIM(encoder, head=head)
        own = sum(p.numel() for n, p in method.named_parameters() if not n.startswith("encoder.")) - 64
        sizes[head] = own
    linear = 64 * 48 + 48
    assert sizes["linear"] == linear and sizes["mlp"] == linear + 64 * 64 + 64
    assert sizes["blocks"] == linear + 2 * (12 * 64 * 64 + 13 * 64) + 2 * 64


def test_blocks_of_the_head_look_at_all_patches_and_compute_those_asked_for():
    torch.manual_seed(0)
    method = SimMIM(encoders.create("vit", 16, 4, dim=24, depth=1, heads=3), head="blocks").eval()
    x, rows = torch.rand(2, 16, 24), torch.tensor([[3, 7], [0, 15]])
    whole = method.before(x)
    assert_close(method.before(x, rows), whole.gather(1, rows[..., None].expand(-1, -1, 24)), 1e-5, 1e-6)
    assert not torch.allclose(method.before(x + torch.eye(16)[:, :1] @ torch.rand(1, 24))[:, 5], whole[:, 5])


def test_hidden_pixels_cannot_reach_the_prediction(case):
    state, arrays, about = case
    method = build(about["config"])
    official.load_method(method, state)
    images, mask = inputs(arrays)
    changed = images + torch.rand_like(images) * masks.pixels(mask, method.encoder.grid, images.shape[2:])
    assert torch.equal(method.predict(images, mask), method.predict(changed, mask))


def test_learns_with_an_encoder_without_class_token():
    torch.manual_seed(0)
    method = SimMIM(encoders.create("vit", (16, 24), 4, dim=24, depth=2, heads=3, class_token=False))
    images, mask = torch.rand(4, 3, 16, 24), cut(torch.rand(4, 24), 14)
    optimiser, losses = torch.optim.AdamW(method.parameters(), lr=3e-3), []
    for _ in range(30):
        loss = method(Batch(images, visible=10), mask, Progress()).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_refuses_what_cannot_work():
    vit = encoders.create("vit", 16, 4, dim=16, depth=1, heads=2)
    with pytest.raises(Refused, match="takes none"):
        SimMIM(vit, object())
    with pytest.raises(Refused, match="loss = 'l3'.*there are: l1, smooth_l1, l2"):
        SimMIM(vit, loss="l3")
    with pytest.raises(Refused, match="head = 'swin'.*there are: linear, mlp, blocks"):
        SimMIM(vit, head="swin")
    for side in (0, 3, 8):
        with pytest.raises(
            Refused,
            match=f"coarser = {side} (does not divide patch_size = 4; it could be: 1, 2, 4|is not a whole number)",
        ):
            SimMIM(vit, coarser=side)
    with pytest.raises(Refused, match="coarser = 3 does not divide patch_size = 4"):
        mimlab.Pretrain(method="simmim", method_args={"coarser": 3}).resolved()
