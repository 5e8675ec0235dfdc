"""BEiT against the official code's numbers."""

import pytest
import torch
from oracle_cases import assert_close, cases, load

from mimlab import encoders
from mimlab.checkpoints import beit as official
from mimlab.errors import Refused
from mimlab.methods import Batch, Progress
from mimlab.methods.beit import BEiT
from mimlab.tokenizers.random_projection import Tokenizer


def build(config):
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
    return BEiT(encoder, Tokenizer(config["vocab_size"], config["patch_size"]))


@pytest.fixture(params=cases("beit_pretrain"))
def case(request):
    return load(request.param)


def known_tokens(method, ids):
    method.tokenizer.forward = lambda images, grid: torch.as_tensor(ids)


def test_outputs_loss_and_gradients_are_the_official_ones(case):
    state, arrays, about = case
    method = build(about["config"])
    assert official.load_method(method, state) == ([], [])
    images, mask = torch.as_tensor(arrays["images"]), torch.as_tensor(arrays["bool_masked_pos"])
    cls, patches = method.encoder(images, mask, fill=method.mask_token[0, 0])
    assert_close(torch.cat([cls[:, None], patches], dim=1), arrays["features"], 3e-5, 1e-5)
    assert_close(method.predict(images, mask)[mask], arrays["logits_masked"], 3e-5, 1e-5)
    if "logits_all" in arrays:
        assert_close(method.predict(images, mask), arrays["logits_all"], 3e-5, 1e-5)
    if "loss_f64" not in arrays:
        return
    known_tokens(method, arrays["token_ids"])
    if "labels" in arrays:
        mask = torch.as_tensor(arrays["bool_masked_pos"])
        assert torch.equal(torch.as_tensor(arrays["token_ids"])[mask], torch.as_tensor(arrays["labels"]))
    output = method(Batch(images), mask, Progress())
    assert_close(method.head(output.prediction), arrays["logits_masked"], 3e-5, 1e-5)
    assert_close(output.loss, arrays["loss_f64"], 2e-5, 0)
    assert_close(output.logs["token_accuracy"], arrays["mlm_acc"], 1e-6, 1e-6)
    output.loss.backward()
    own = dict(method.named_parameters())
    for name, want in about["grad_norm"].items():
        gradient = own[official.ours(name)].grad
        if want is None:
            assert gradient is None, name
        else:
            assert_close(gradient.norm(), want, 2e-3, 1e-6)


def test_relative_positions_are_the_official_ones(case):
    state, arrays, about = case
    if not about["config"]["use_shared_rel_pos_bias"]:
        return
    method = build(about["config"])
    official.load_method(method, state)
    shared = method.encoder.trunk.rel_pos_bias
    assert torch.equal(shared.relative_position_index, torch.as_tensor(arrays["relative_position_index"]))
    assert torch.equal(shared(), torch.as_tensor(arrays["rel_pos_bias_shared"]))


def test_equal_and_ragged_masks_give_the_same_loss(case):
    """A mask of equal rows goes another way through `forward` than one of differing rows."""
    state, arrays, about = case
    method = build(about["config"])
    official.load_method(method, state)
    images = torch.as_tensor(arrays["images"])
    n = method.encoder.grid[0] * method.encoder.grid[1]
    known_tokens(method, torch.randint(0, about["config"]["vocab_size"], (len(images), n)))
    mask = torch.zeros(len(images), n, dtype=torch.bool)
    mask[:, ::3] = True
    equal = method(Batch(images, visible=int((~mask[0]).sum())), mask, Progress())
    ragged = method(Batch(images), mask, Progress())
    assert_close(equal.loss, ragged.loss.detach(), 1e-6, 0)


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


def test_needs_a_tokenizer():
    with pytest.raises(Refused, match="needs one"):
        BEiT(encoders.create("vit", 16, 4, dim=16, depth=1, heads=2), None)
