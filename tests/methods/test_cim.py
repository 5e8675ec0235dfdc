"""CIM against plain loops' numbers, and what its parts must not do."""

import math
import re

import pytest
import torch
from oracle_cases import assert_close, cases, load
from torch import nn

import mimlab
from mimlab import encoders
from mimlab.errors import Refused
from mimlab.masks import cut, pixels
from mimlab.methods import Batch, Progress
from mimlab.methods._windows import local
from mimlab.methods.cim import CIM, EPS, LOSSES, WINDOWS, drawn
from mimlab.tokenizers.random_patches import Tokenizer
from mimlab.tokenizers.random_projection import Tokenizer as Projection

GENERATOR = {"generator_dim": 24, "generator_depth": 1, "generator_heads": 2}
ENHANCERS = [
    ("vit", {"dim": 24, "depth": 2, "heads": 3}),
    ("beit", {"dim": 24, "depth": 2, "heads": 3}),
    ("xcit", {"dim": 24, "depth": 1, "heads": 3}),
    ("resnet10t", {}),
]


def build(grid=(4, 4), patch=8, vocab=16, encoder=ENHANCERS[0], **options):
    torch.manual_seed(0)
    tokenizer = Tokenizer(vocab, patch)
    tokenizer.fit(torch.rand(vocab, 3 * patch**2), torch.Generator().manual_seed(0))
    size = (grid[0] * patch, grid[1] * patch)
    return CIM(encoders.create(encoder[0], size, patch, **encoder[1]), tokenizer, **GENERATOR | options)


def unchanged(vocab):
    """A head for a generator that gives logits itself."""
    head = nn.Linear(vocab, vocab)
    nn.init.eye_(head.weight)
    nn.init.zeros_(head.bias)
    return head


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return Batch(torch.rand(4, 3, 32, 32, generator=generator), torch.rand(4, 16, generator=generator), 8)


@pytest.fixture
def mask():
    return cut(torch.rand(4, 16, generator=torch.Generator().manual_seed(2)), 8)


@pytest.fixture(params=cases("cim"))
def case(request):
    _, arrays, about = load(request.param)
    return {name: torch.as_tensor(value) for name, value in arrays.items()}, about


def test_drawn_tokens_are_those_of_plain_loops(case):
    arrays, _ = case
    where = arrays["bool_masked_pos"]
    tokens = drawn(arrays["generator_logits"][where], arrays["uniform"][where])
    corrupted = arrays["golden_tokens"].masked_scatter(where, tokens)
    assert torch.equal(tokens, arrays["sampled_tokens"][where])
    assert torch.equal(corrupted, arrays["corrupted_tokens"])
    assert torch.equal((corrupted != arrays["golden_tokens"]).long(), arrays["replaced_label"])


def test_losses_are_those_of_plain_loops(case, monkeypatch):
    arrays, about = case
    method = build(tuple(about["grid"]), about["patch"], about["vocabulary"], objective="revdet")
    method.generator_head = unchanged(about["vocabulary"])
    monkeypatch.setattr(method, "guess", lambda images, mask: arrays["generator_logits"])
    monkeypatch.setattr(method, "enhance", lambda corrupted: arrays["detector_logits"])
    monkeypatch.setattr(method.tokenizer, "forward", lambda images, grid: arrays["golden_tokens"])
    output = method(Batch(arrays["images"], arrays["uniform"]), arrays["bool_masked_pos"], Progress())
    losses = about["losses"]
    assert_close(output.logs["loss_generator"], losses["generator_ce_over_masked"], 1e-5, 0)
    assert_close(output.logs["loss_revdet"], losses["revdet_bce_over_all_tokens"], 1e-5, 0)
    assert_close(output.loss, losses["total_revdet_lambda10"], 1e-5, 0)
    assert_close(output.logs["revdet_accuracy"], losses["accuracy"], 1e-5, 0)
    each = torch.nn.functional.binary_cross_entropy_with_logits
    label = arrays["replaced_label"].float()
    assert_close(each(arrays["detector_logits"].float(), label, reduction="none"), arrays["bce"], 1e-5, 1e-6)
    share = float(arrays["replaced_label"].float().mean())
    assert_close(output.logs["replaced"], share, 1e-6, 0)
    assert_close(output.logs["revdet_majority"], max(share, 1 - share), 1e-6, 0)


def test_targets_are_those_of_plain_loops(case):
    arrays, about = case
    names = [name for name in arrays if name.startswith("target/")]
    assert names and about["respix_eps"] == EPS
    for name in names:
        side, windows = re.fullmatch(r"target/[a-z]+(\d+)_?(.*)", name).groups()
        options = {"window": int(side), "windows": windows or "tiles"}
        method = build(tuple(about["grid"]), about["patch"], about["vocabulary"], **options)
        target = method.target(arrays["images"], None)
        assert_close(target, arrays[name], 2e-3, 2e-3, name)
        for loss, want in about["respix"][name.removeprefix("target/")].items():
            assert_close(LOSSES[loss](arrays["prediction"], target), want, 1e-5, 0, name)


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("window", [2, 3, 5, 7, 8, 12, 13])
def test_statistics_are_those_of_the_pixels_in_each_window(window, windows):
    images = torch.rand(1, 2, 13, 17, generator=torch.Generator().manual_seed(window))
    mean, var = local(images, window, windows)
    for row in range(13):
        for column in range(17):
            ys, xs = (reach(at, n, window, windows) for at, n in ((row, 13), (column, 17)))
            around = images[0][:, ys][:, :, xs].double().flatten(1)
            assert_close(mean[0, :, row, column], around.mean(1), 1e-6, 0)
            assert_close(var[0, :, row, column], around.var(1, unbiased=False), 1e-5, 1e-7)


def reach(at, n, window, windows):
    """Places of a line of `n` pixels that the window around place `at` has."""
    first = at // window * window if windows == "tiles" else at - window // 2
    places = range(first, first + window)
    if windows == "reflect":
        return [abs(k) if k < n else 2 * (n - 1) - k for k in places]
    return [k for k in places if 0 <= k < n]


def test_statistics_of_a_flat_bright_region_keep_their_precision():
    images = 0.9 + 1e-4 * torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    mean, var = local(images, 8)
    around = images[0, 1, 1:9, 2:10].double()  # of the pixel in row 5, column 6
    assert_close(mean[0, 1, 5, 6], around.mean(), 1e-6, 0)
    assert_close(var[0, 1, 5, 6], around.var(unbiased=False), 1e-3, 0)


def test_tokens_are_drawn_as_often_as_the_softmax_says():
    logits, noise = torch.tensor([[2.0, -1.0, 0.5, 1.0]]), (torch.arange(4000) + 0.5) / 4000
    for temperature in (1.0, 0.5):
        tokens = drawn(logits.expand(4000, -1), noise, temperature)
        share = torch.bincount(tokens, minlength=4) / 4000
        assert_close(share, (logits[0] / temperature).softmax(dim=0), 0, 1e-3)
    sure = torch.tensor([[0.0, 200.0, 0.0]]).expand(2, -1)
    assert drawn(sure, torch.tensor([0.0, 1 - 2**-24])).tolist() == [1, 1]


def test_visible_tokens_stay_and_a_drawn_true_one_is_not_replaced(batch, mask):
    method = build(objective="revdet")
    seen = method.look(batch.images, mask, batch.noise)
    assert torch.equal(seen.sampled[~mask], seen.ids[~mask])
    assert torch.equal(seen.replaced, seen.sampled != seen.ids) and seen.replaced.any()
    assert torch.equal(seen.corrupted, method.tokenizer.decode(seen.sampled, (4, 4)))
    assert seen.filled is None and seen.detected.shape == (4, 16) and 0 < float(seen.detected.min()) < 1
    method.guess = lambda images, mask: nn.functional.one_hot(seen.ids, 16).float() * 200  # one that knows
    method.generator_head = unchanged(16)
    assert not method.look(batch.images, mask, batch.noise).replaced.any()


def test_noise_and_mask_alone_decide_what_is_drawn(batch, mask):
    method = build()
    one, again = (method.look(batch.images, mask, batch.noise).sampled for _ in range(2))
    assert torch.equal(one, again)
    other = method.look(batch.images, mask, 1 - batch.noise).sampled
    assert not torch.equal(other, one)
    assert torch.equal(method.look(batch.images[:2], mask[:2]).sampled, method.look(batch.images, mask).sampled[:2])


def test_equal_and_ragged_masks_give_the_same_loss(batch, mask):
    method = build()
    equal, ragged = (method(batch._replace(visible=v), mask, Progress()).loss for v in (8, None))
    assert_close(equal, ragged.detach(), 1e-6, 0)


@pytest.mark.parametrize("objective", ["respix", "revdet"])
@pytest.mark.parametrize("encoder", ENHANCERS, ids=lambda e: e[0])
def test_every_trained_weight_learns_from_its_own_loss_alone(encoder, objective, batch, mask):
    method = build(encoder=encoder, objective=objective)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    state = torch.get_rng_state()
    output = method(batch, mask, Progress())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    output.loss.backward()
    assert [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None] == []
    both = {name: p.grad.clone() for name, p in method.named_parameters() if p.requires_grad}
    method.zero_grad()
    method.weight = 2 * method.weight
    method(batch, mask, Progress()).loss.backward()
    for name, p in method.named_parameters():
        if p.requires_grad:  # the generator learns nothing from the enhancer's loss
            factor = 1 if name.startswith(("generator", "mask_token")) else 2
            assert torch.allclose(p.grad, factor * both[name], atol=1e-4, rtol=1e-3), name


def test_weights_of_the_losses(batch, mask):
    for objective, options, factor in (("respix", {}, 1), ("revdet", {}, 10), ("revdet", {"weight": 3.0}, 3)):
        output = build(objective=objective, **options)(batch, mask, Progress())
        logs = output.logs
        assert_close(output.loss, logs["loss_generator"] + factor * logs[f"loss_{objective}"], 1e-6, 0)


def test_logs_name_what_guessing_reaches(batch, mask):
    method = build()
    logs = method(batch, mask, Progress()).logs
    assert_close(logs["loss_uniform"], math.log(16), 1e-6, 0)
    assert_close(logs["respix_zero"], method.target(batch.images, None).abs().mean(), 1e-6, 0)


def test_judged_is_the_generators_loss(batch, mask):
    method = build().eval()
    judged = method.judge(batch.images, mask)
    logs = method(batch, mask, Progress()).logs
    assert_close(judged.loss[mask].mean(), logs["loss_generator"], 1e-5, 0)
    assert_close(judged.right[mask].float().mean(), logs["token_accuracy"], 1e-6, 0)


def test_only_the_leaking_picture_of_respix_knows_what_is_hidden(batch, mask):
    hidden = pixels(mask, (4, 4), (32, 32))
    revdet = build(objective="revdet").eval()
    shown = revdet.reconstruct(batch.images, mask)
    assert torch.equal(shown.images, revdet.reconstruct(batch.images * ~hidden, mask).images)
    assert shown.leaking is None and "corrupted" in shown.note
    respix = build().eval()
    shown, covered = (respix.reconstruct(images, mask) for images in (batch.images, batch.images * ~hidden))
    assert torch.equal(shown.images, covered.images) and not torch.equal(shown.leaking, covered.leaking)
    true = respix.put_back(respix.target(batch.images, None), batch.images * 0.5, batch.images)
    assert torch.allclose(true.leaking, batch.images, atol=1e-5)
    assert not torch.allclose(true.images, batch.images, atol=1e-2)


def test_residual_respix_predicts_what_the_corrupted_image_lacks(batch):
    """Its target put back onto the corrupted image gives the original where both have the same deviation."""
    method = build(residual=True)
    corrupted = batch.images * 0.5 + 0.1
    target = method.target(batch.images, corrupted)
    _, var = local(batch.images, method.window)
    assert torch.allclose(target, (batch.images - corrupted) / (var + EPS).sqrt())
    assert torch.equal(method.target(batch.images, batch.images), torch.zeros_like(batch.images))
    back = method.put_back(target, corrupted, batch.images)
    assert torch.allclose(back.leaking, batch.images, atol=1e-5)
    assert not torch.allclose(back.images, batch.images, atol=1e-2)


def test_what_only_cim_has_to_show(batch, mask):
    revdet, respix = (build(objective=objective).eval() for objective in ("revdet", "respix"))
    shown, seen = revdet.further(batch.images, mask), revdet.look(batch.images, mask)
    assert list(shown) == ["corrupted image", "replaced", "probability of replaced"]
    assert torch.equal(shown["replaced"], seen.sampled != seen.ids) and not shown["replaced"][~mask].any()
    with torch.no_grad():  # where gradients are made, attention rounds otherwise
        assert torch.equal(shown["probability of replaced"], revdet.enhance(seen.corrupted).sigmoid())
    assert list(respix.further(batch.images, mask)) == ["corrupted image", "replaced"]
    assert "which patches were replaced" in revdet.predicts and "windows" in respix.predicts


def test_the_tokens_grid_is_resized_to_the_image(batch, mask):
    torch.manual_seed(0)
    tokenizer = Tokenizer(16, 4)
    tokenizer.fit(torch.rand(16, 48), torch.Generator().manual_seed(0))
    method = CIM(encoders.create("vit", 32, 8, dim=24, depth=1, heads=3), tokenizer, **GENERATOR)
    seen = method.look(batch.images, mask, batch.noise)
    assert seen.corrupted.shape == batch.images.shape and 0 <= seen.corrupted.min() <= seen.corrupted.max() <= 1


def test_the_tokenizer_keeps_its_vocabulary():
    method = build()
    tokenizer = Tokenizer(16, 8)
    tokenizer.fit(torch.rand(16, 192, generator=torch.Generator().manual_seed(3)), torch.Generator().manual_seed(0))
    codebook = tokenizer.codebook.clone()
    again = CIM(method.encoder, tokenizer, **GENERATOR)
    assert torch.equal(again.tokenizer.codebook, codebook) and again.deployed is method.encoder


def test_the_recipe_hides_100_to_120_of_196():
    cfg = mimlab.Pretrain(method="cim", image_size=224, patch_size=16).resolved()
    assert 100 <= mimlab.masks.count(196, cfg.mask_ratio) <= 120


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"objective": "respx"}, "did you mean 'respix'"),
        ({"windows": "wrap"}, "truncate, reflect, tiles"),
        ({"loss": "huber"}, "l1, l2"),
        ({"window": 33}, "between 2 and 32"),
        ({"weight": 0.0}, "weight"),
        ({"temperature": 0.0}, "temperature = 0.0 is not a number from 0.001"),
        ({"generator_heads": 5}, "multiple of generator_heads"),
    ],
)
def test_refuses_what_cannot_work(options, said):
    with pytest.raises(Refused, match=said):
        build(**options)


def test_needs_a_tokenizer_that_decodes_and_noise(batch, mask):
    encoder = encoders.create("vit", 32, 8, dim=24, depth=1, heads=3)
    for tokenizer in (None, Projection(16, 8)):
        with pytest.raises(Refused, match="kmeans, random_patches or dvae"):
            CIM(encoder, tokenizer, **GENERATOR)
    with pytest.raises(Refused, match="noise"):
        build()(batch._replace(noise=None), mask, Progress())
