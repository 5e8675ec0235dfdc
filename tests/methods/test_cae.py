"""CAE against the official code's numbers."""

import pytest
import torch
from oracle_cases import assert_close, cases, load

import mimlab
from mimlab import encoders, masks
from mimlab.checkpoints import cae as official
from mimlab.errors import Refused
from mimlab.masks import cut
from mimlab.methods import Batch, Progress
from mimlab.methods.cae import CAE
from mimlab.tokenizers.random_patches import Tokenizer as RandomPatches
from mimlab.tokenizers.random_projection import Tokenizer

SMALL = {"dim": 24, "depth": 2, "heads": 3}
SHALLOW = {"regressor_depth": 1, "decoder_depth": 1}


def build(config, **options):
    size = config["img_size"]
    encoder = encoders.create(
        "beit",
        size if isinstance(size, int) else tuple(size),
        config["patch_size"],
        dim=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        bias="none",
        absolute="sincos",
        layer_scale=config["init_values"],
        normalise="none",
    )
    options = {
        "regressor_depth": config["regressor_depth"],
        "decoder_depth": config["decoder_depth"],
        "decoder_dim": config["decoder_embed_dim"],
        "decoder_heads": config["decoder_num_heads"],
        "align_weight": config["align_loss_weight"],
        "layer_scale": config["decoder_layer_scale_init_value"],
    } | options
    return CAE(encoder, Tokenizer(config["decoder_num_classes"], config["patch_size"]), **options)


@pytest.fixture(params=cases("cae_pretrain"))
def case(request):
    return load(request.param)


def loaded(case, **options):
    """The method with official weights, images, mask, and the number of visible patches."""
    state, arrays, about = case
    method = build(about["config"], **options)
    assert official.load_method(method, state) == ([], [])
    if "token_ids" in arrays:
        method.tokenizer.forward = lambda images, grid: torch.as_tensor(arrays["token_ids"])
    mask = torch.as_tensor(arrays["bool_masked_pos"])
    if "labels" in arrays:
        assert torch.equal(torch.as_tensor(arrays["token_ids"])[mask], torch.as_tensor(arrays["labels"]))
    return method, torch.as_tensor(arrays["images"]), mask, int((~mask[0]).sum())


def small(tokenizer=None, **options):
    torch.manual_seed(0)
    encoder = encoders.create("vit", (16, 24), 4, positions="sincos", normalise="none", **SMALL)
    return CAE(encoder, tokenizer or Tokenizer(16, 4), **(SHALLOW | options))


def test_latents_and_logits_are_the_official_ones(case):
    _, arrays, _ = case
    method, images, mask, visible = loaded(case)
    cls, patches = method.encoder(images, mask, visible)
    assert_close(torch.cat([cls[:, None], patches], dim=1), arrays["encoder_visible"], 3e-5, 1e-5)
    latents, positions = method.regress(images, mask, visible)
    assert_close(latents, arrays["latent_predict"], 3e-5, 1e-5)
    assert_close(method.latents(images, mask, mask.shape[1] - visible), arrays["latent_target"], 3e-5, 1e-5)
    assert_close(method.decode(latents, positions).flatten(0, 1), arrays["logits"], 3e-5, 1e-5)


def check_gradients(method, norms):
    own = dict(method.named_parameters())
    for name, want in norms.items():
        if name.startswith(official.COPIES):
            continue
        gradient = own[official.ours(name)].grad
        if want is None:
            assert gradient is None or float(gradient.norm()) == 0, name
        else:
            assert_close(gradient.norm(), want, 2e-3, 1e-6)


def test_losses_and_gradients_are_the_official_ones(case):
    _, arrays, about = case
    method, images, mask, visible = loaded(case)
    output = method(Batch(images, visible=visible), mask, Progress())
    assert_close(method.head(output.prediction), arrays["logits"], 3e-5, 1e-5)
    weight = about["config"]["align_loss_weight"]
    assert_close(output.logs["loss_tokens"], arrays["loss_main_f64"], 5e-5, 0)
    assert_close(weight * output.logs["loss_align"], arrays["loss_align_f64"], 5e-5, 0)
    assert_close(output.loss, arrays["loss"], 5e-5, 0)
    output.loss.backward()
    check_gradients(method, about["grad_norm"])
    fixed = {name for name, parameter in method.named_parameters() if parameter.grad is None}
    assert fixed == {name for name, parameter in method.named_parameters() if not parameter.requires_grad}
    assert {"positions", "encoder.trunk.pos_embed"} <= fixed


def test_gradients_of_the_alignment_alone_are_the_official_ones(case):
    _, arrays, about = case
    method, images, mask, visible = loaded(case)
    predicted, _ = method.regress(images, mask, visible)
    target = method.latents(images, mask, mask.shape[1] - visible)
    assert not target.requires_grad
    align = about["config"]["align_loss_weight"] * (predicted - target).square().mean()
    assert_close(align, arrays["loss_align_f64"], 5e-5, 0)
    align.backward()
    check_gradients(method, about["grad_norm_of_alignment_only"])


def test_targets_come_from_the_present_encoder(case):
    method, images, mask, visible = loaded(case)
    before = method.latents(images, mask, mask.shape[1] - visible)
    optimiser = torch.optim.SGD(method.encoder.parameters(), lr=0.1)
    method(Batch(images, visible=visible), mask, Progress()).loss.backward()
    optimiser.step()
    after = method.latents(images, mask, mask.shape[1] - visible)
    assert not torch.allclose(before, after, atol=1e-5)
    with torch.no_grad():  # where gradients are made, attention rounds otherwise
        own = method.project(method.encoder(images, ~mask, mask.shape[1] - visible)[1])
    assert torch.equal(after, own)


def test_the_loss_of_single_patches_and_nothing_at_visible_ones(case):
    method, images, mask, visible = loaded(case)
    with torch.no_grad():
        output, judged = method(Batch(images, visible=visible), mask, Progress()), method.judge(images, mask)
    assert_close(judged.loss[mask].mean(), output.loss, 1e-5, 0)
    assert_close(judged.right[mask].float().mean(), output.logs["token_accuracy"], 1e-6, 0)
    assert float(judged.loss[~mask].abs().max()) == 0 and not judged.right[~mask].any()
    assert torch.equal(judged.tokens.rank[mask] == 1, judged.right[mask])
    assert torch.equal(judged.tokens.likely[..., 0][mask] == judged.tokens.true[mask], judged.right[mask])
    with torch.no_grad():
        error = method.further(images, mask)["alignment error"]
    assert_close(error[mask].mean(), output.logs["loss_align"], 1e-5, 1e-7)
    assert error[~mask].isnan().all()


@pytest.mark.parametrize(("key", "fix"), [("init_stats", False), ("init_stats_fix_init_weight_true", True)])
def test_initial_weights_have_the_official_statistics(case, key, fix):
    about = case[2]
    if key not in about:
        return
    pooled = {}
    for seed in range(4):
        torch.manual_seed(seed)
        for name, value in build(about["config"], fix_init=fix).named_parameters():
            pooled.setdefault(name, []).append(value.detach().flatten())
    for name, (mean, std, low, high, number) in about[key].items():
        if name.startswith(official.COPIES):
            continue
        values = torch.cat(pooled[official.ours(name)])
        assert len(values) == number
        if std == 0:
            assert values.min() == values.max() == pytest.approx(mean)
        elif number > 2000:
            assert float(values.std()) == pytest.approx(std, rel=0.05), name
            assert float(values.abs().max()) <= max(abs(low), abs(high)) * 1.02, name


def test_another_width_has_a_projection_for_both_sides():
    method = small(decoder_dim=32, decoder_heads=4)
    images, mask = torch.rand(2, 3, 16, 24), cut(torch.rand(2, 24), 12)
    latents, positions = method.regress(images, mask, 12)
    assert latents.shape == positions.shape == method.latents(images, mask, 12).shape == (2, 12, 32)
    method(Batch(images, visible=12), mask, Progress()).loss.backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in method.project.parameters())


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_decoder_and_alignment_can_be_left_out(ratio):
    """The paper's ablation. Every trained weight gets a gradient, at any ratio, on a grid that is not square."""
    images, mask = torch.rand(2, 3, 16, 24), masks.sample("random", 2, (4, 6), ratio, torch.Generator().manual_seed(0))
    for options in ({}, {"align_weight": 0.0}, {"decoder_depth": 0}, {"align_weight": 0.0, "decoder_depth": 0}):
        method = small(**options)
        output = method(Batch(images), mask, Progress())
        assert ("loss_align" in output.logs) == ("align_weight" not in options)
        want = output.logs["loss_tokens"] + 2 * output.logs.get("loss_align", 0)
        assert_close(output.loss, want, 1e-6, 0)
        output.loss.backward()
        assert [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None] == []
        if "decoder_depth" in options:
            latents, positions = method.regress(images, mask, int((~mask[0]).sum()))
            assert torch.equal(method.decode(latents, positions), method.head(latents))


def test_half_precision_has_the_gradients_of_full_precision():
    """Also of the encoder, which makes one pass with and one without gradients."""
    images, mask = torch.rand(2, 3, 16, 24), cut(torch.rand(2, 24), 12)
    found = []
    for half in (False, True):
        method = small()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = method(Batch(images, visible=12), mask, Progress()).loss
        loss.backward()
        found.append(torch.cat([p.grad.flatten() for p in method.encoder.parameters() if p.requires_grad]))
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.98


def test_visible_patches_reach_the_prediction_and_hidden_ones_do_not():
    method = small().eval()
    images, mask = torch.rand(2, 3, 16, 24), cut(torch.rand(2, 24), 12)
    cover = masks.pixels(mask, (4, 6), (16, 24))
    hidden, visible = (images + torch.rand_like(images) * where for where in (cover, ~cover))
    said, same, other = (method.decode(*method.regress(x, mask, 12)) for x in (images, hidden, visible))
    assert torch.equal(said, same) and not torch.allclose(said, other, atol=1e-4)
    target, other, same = (method.latents(x, mask, 12) for x in (images, hidden, visible))
    assert torch.equal(target, same) and not torch.allclose(target, other, atol=1e-4)


def test_reconstruction_pastes_the_visible_patches():
    tokenizer = RandomPatches(16, 4)
    tokenizer.fit(torch.rand(50, 48), torch.Generator().manual_seed(0))
    method = small(tokenizer)
    images, mask = torch.rand(2, 3, 16, 24), cut(torch.rand(2, 24), 12)
    cover = masks.pixels(mask, (4, 6), (16, 24)).expand_as(images)
    filled = method.reconstruct(images, mask)
    assert torch.equal(filled.images[~cover], images[~cover])
    latents, positions = method.regress(images, mask, 12)
    mixed = method.decode(latents, positions).softmax(dim=2) @ (tokenizer.pixels.float() / 255)  # (B, hidden, 48)
    want = mixed.view(2, 12, 3, 4, 4)[1, 0]
    at = int(mask[1].nonzero()[0])
    row, column = at // 6 * 4, at % 6 * 4
    assert_close(filled.images[1, :, row : row + 4, column : column + 4], want, 1e-5, 1e-6)
    assert small().reconstruct(images, mask) is None  # random projections have no pixels


def test_no_layer_scale_leaves_both_branches_as_they_are():
    method = small(layer_scale=0)
    assert [n for n, p in method.named_parameters() if "gamma" in n and p.requires_grad] == []
    assert all(bool((p == 1).all()) for n, p in method.named_parameters() if "gamma" in n)
    images, mask = torch.rand(2, 3, 16, 24), cut(torch.rand(2, 24), 12)
    assert torch.isfinite(method(Batch(images, visible=12), mask, Progress()).loss)


def test_stochastic_depth_rises_to_the_encoders_rate():
    encoder = encoders.create("vit", 16, 4, drop_path=0.3, **(SMALL | {"depth": 3}))
    method = CAE(encoder, Tokenizer(16, 4), regressor_depth=3, decoder_depth=2)
    assert [round(block.drop_path.drop_prob, 6) for block in method.regressor] == [0.0, 0.15, 0.3]
    assert method.decoder[1].drop_path1.drop_prob == pytest.approx(0.3)


def test_the_recipe_is_the_official_script():
    cfg = mimlab.Pretrain(method="cae", image_size=224, patch_size=16, epochs=None, encoder="vit_base", encoder_args={})
    cfg = cfg.resolved()
    assert cfg.encoder_args == {"positions": "sincos"}
    drawn = masks.sample(cfg.mask, 20, (14, 14), cfg.mask_ratio, torch.Generator().manual_seed(0), **cfg.mask_args)
    assert drawn.sum(dim=1).eq(98).all()
    assert cfg.lr * 2048 / 256 == pytest.approx(1.5e-3) and cfg.min_lr * 2048 / 256 == pytest.approx(1e-5)


def test_refuses_what_cannot_work():
    vit = encoders.create("vit", 16, 4, **SMALL)
    with pytest.raises(Refused, match="needs one"):
        CAE(vit, None)
    with pytest.raises(Refused, match="'bias': 'none', 'absolute': 'sincos'"):
        CAE(encoders.create("beit", 16, 4, **SMALL), Tokenizer(16, 4))
    with pytest.raises(Refused, match="where a visible patch is"):
        CAE(encoders.create("beit", 16, 4, bias="none", **SMALL), Tokenizer(16, 4))
    with pytest.raises(Refused, match="decoder_dim = 30 .* decoder_heads = 3"):
        CAE(vit, Tokenizer(16, 4), decoder_dim=30)
    with pytest.raises(Refused, match="regressor_depth = 0 is not a whole number from 1"):
        CAE(vit, Tokenizer(16, 4), regressor_depth=0)
    with pytest.raises(Refused, match="align_weight = -1 is not a number from 0.0"):
        CAE(vit, Tokenizer(16, 4), align_weight=-1)
    with pytest.raises(Refused, match="absolute = 'sine' is not true or false or 'sincos'"):
        encoders.create("beit", 16, 4, bias="none", absolute="sine", **SMALL)
    with pytest.raises(Refused, match="dim = 30 cannot have sincos"):
        encoders.create("beit", 16, 4, bias="none", absolute="sincos", dim=30, depth=1, heads=3)
