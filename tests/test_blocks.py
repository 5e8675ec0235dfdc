"""Our blocks against timm's own `forward`: numbers and gradients, with and without the rows that are read."""

from functools import partial

import pytest
import torch
from timm.models import beit, vision_transformer

from mimlab import attention, blocks, encoders
from mimlab.attention import pick

CASES = {
    "vit": lambda: vision_transformer.Block(24, 3, qkv_bias=True),
    "vit without biases": lambda: vision_transformer.Block(24, 2, qkv_bias=False),
    "vit with norms and scales": lambda: vision_transformer.Block(24, 3, qkv_bias=True, qk_norm=True, init_values=0.3),
    "beit": lambda: beit.Block(24, 3, qkv_bias=True, init_values=0.3),
    "beit without scales": lambda: beit.Block(24, 4, qkv_bias=True),
    "beit without biases": lambda: beit.Block(24, 3, init_values=0.3),
    "beit with its own bias": lambda: beit.Block(24, 3, qkv_bias=True, init_values=0.3, window_size=(3, 5)),
}
ROWS = {
    "all": None,
    "the first": slice(0, 1),
    "the last": slice(-4, None),
    "some": torch.tensor([[1, 5, 2], [3, 15, 0]]),
}


def pair(kind):
    """(timm's block, ours with the same weights)."""
    torch.manual_seed(0)
    plain = CASES[kind]()
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    torch.manual_seed(0)
    ours = CASES[kind]()
    ours.load_state_dict(plain.state_dict())
    blocks.adopt([ours])
    assert type(ours) in (blocks.Block, blocks.BeitBlock)
    return plain, ours


def compare(plain, ours, x, rows, given, into):
    """Outputs and gradients with respect to `into`, of both, agree."""
    wanted = pick(plain(x, **given), rows)
    found = blocks.run(ours, x, rows, **given)
    assert torch.allclose(found, wanted, atol=1e-5)
    for parameter in into:
        parameter.grad = None
    wanted.square().sum().backward(retain_graph=True)
    before = [p.grad for p in (*into, *plain.parameters())]
    for parameter in into:
        parameter.grad = None
    found.square().sum().backward()
    for one, other in zip(before, [p.grad for p in (*into, *ours.parameters())], strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()) + 1e-6)


def sizes(kind):
    """Numbers of tokens: few, and on both sides of where torch's attention takes over; a window's are its own."""
    return [16] if "own bias" in kind else [16, attention.SHORT, attention.SHORT + 1]


@pytest.mark.parametrize(("kind", "tokens"), [(kind, tokens) for kind in CASES for tokens in sizes(kind)])
@pytest.mark.parametrize("rows", ROWS)
def test_numbers_and_gradients_are_those_of_timm(kind, rows, tokens):
    plain, ours = pair(kind)
    x = torch.randn(2, tokens, 24, requires_grad=True)
    compare(plain, ours, x, ROWS[rows], {}, [x])


@pytest.mark.parametrize("rows", ROWS)
def test_a_vit_that_looks_back_alone_or_through_a_mask(rows):
    plain, ours = pair("vit")
    x = torch.randn(2, 16, 24, requires_grad=True)
    assert torch.allclose(
        blocks.run(ours, x, ROWS[rows], is_causal=True), pick(plain(x, is_causal=True), ROWS[rows]), atol=1e-5
    )
    if rows == "all":
        compare(plain, ours, x, None, {"attn_mask": torch.rand(16, 16) > 0.3}, [x])


@pytest.mark.parametrize("kind", ["beit", "beit with its own bias"])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 3, 16, 16)])
def test_a_trained_bias_that_blocks_share(kind, rows, shape):
    plain, ours = pair(kind)
    x, bias = torch.randn(2, 16, 24, requires_grad=True), torch.randn(shape, requires_grad=True)
    compare(plain, ours, x, ROWS[rows], {"shared_rel_pos_bias": bias}, [x, bias])
    with torch.no_grad():  # torch's kernel
        told = blocks.run(ours, x, ROWS[rows], shared_rel_pos_bias=bias)
        assert torch.allclose(told, pick(plain(x, shared_rel_pos_bias=bias), ROWS[rows]), atol=1e-5)


@pytest.mark.parametrize("kind", ["vit", "beit", "beit with its own bias"])
def test_half_precision_stays_near(kind):
    plain, ours = pair(kind)
    x = torch.randn(2, 16, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (ours(x) - plain(x)).abs().mean() < 0.02
        assert (blocks.run(ours, x, ROWS["some"]) - pick(plain(x), ROWS["some"])).abs().mean() < 0.02


def test_what_is_not_plain_stays_timms():
    odd = vision_transformer.ParallelScalingBlock(24, 3)
    changed = vision_transformer.Block(24, 3, mlp_layer=lambda **given: torch.nn.Identity())
    blocks.adopt([odd, changed])
    assert type(odd) is vision_transformer.ParallelScalingBlock and type(changed) is vision_transformer.Block
    x = torch.randn(2, 16, 24)
    assert torch.equal(blocks.run(odd, x, ROWS["some"]), pick(odd(x), ROWS["some"]))


@pytest.mark.parametrize("name", ["vit", "beit", "xcit"])
def test_an_encoder_gives_the_patches_and_the_class_token_that_are_read(name):
    torch.manual_seed(0)
    encoder = encoders.create(name, 32, 8, dim=48, depth=2, heads=3).eval()
    images, fill, rows = torch.rand(2, 3, 32, 32), torch.randn(48), torch.tensor([[3, 1, 15], [0, 7, 8]])
    mask = torch.zeros(2, 16, dtype=torch.bool).scatter(1, rows, True)
    none, some = encoder(images, mask, fill=fill, rows=rows)
    assert none is None
    assert torch.allclose(some, pick(encoder(images, mask, fill=fill)[1], rows), atol=1e-5)
    assert torch.allclose(encoder.class_token(images), encoder(images)[0], atol=1e-5)


def test_recomputing_changes_no_number_and_keeps_less():
    def grown(again):
        torch.manual_seed(0)
        encoder = encoders.create("vit", 16, 4, dim=24, depth=3, heads=3, drop_path=0.5)
        if again:
            blocks.recompute(encoder)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
            torch.manual_seed(1)
            loss = encoder.features(torch.rand(4, 3, 16, 16)).square().sum()
        loss.backward()
        return loss.detach(), [p.grad for p in encoder.parameters() if p.grad is not None], sum(kept)

    (loss, gradients, kept), (other, others, fewer) = grown(False), grown(True)
    assert torch.equal(loss, other) and fewer < kept / 2
    for one, two in zip(gradients, others, strict=True):
        assert torch.allclose(one, two, atol=1e-6)


@pytest.mark.slow
def test_compiled_blocks_train_alike_and_looking_leaves_them_plain():
    torch.manual_seed(0)
    encoder = encoders.create("beit", 16, 4, dim=24, depth=1, heads=3)
    images, rows = torch.rand(2, 3, 16, 16), torch.tensor([[3, 1, 15], [0, 7, 8]])
    given = {"mask": torch.zeros(2, 16, dtype=torch.bool).scatter(1, rows, True), "fill": torch.zeros(24), "rows": rows}
    wanted = encoder(images, **given)[1]
    wanted.square().sum().backward()
    gradients = {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}
    encoder.zero_grad()
    blocks.compile_blocks(encoder)
    block = encoder.trunk.blocks[0]
    found = encoder(images, **given)[1]
    assert torch.allclose(found, wanted, atol=1e-5)
    found.square().sum().backward()
    for name, parameter in encoder.named_parameters():
        if name in gradients:
            assert torch.allclose(parameter.grad, gradients[name], rtol=1e-3, atol=1e-4), name
    block.forward.fast = None  # a look that called it would fail
    with torch.no_grad():
        assert torch.allclose(encoder(images, **given)[1], wanted, atol=1e-5)


@pytest.fixture
def graphs(monkeypatch):
    """Blocks compiled without a compiler: what torch counts; a recompile limit that is hit is an error."""
    from torch._dynamo import config, reset, utils

    reset()
    utils.counters.clear()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    with config.patch(recompile_limit=8, fail_on_recompile_limit_hit=True):
        yield utils.counters
    reset()


@pytest.mark.parametrize(
    ("name", "args", "most"),
    [
        ("vit", {"dim": 24, "depth": 12, "heads": 3}, 3),
        ("beit", {"dim": 24, "depth": 12, "heads": 3}, 3),
        ("xcit", {"dim": 24, "depth": 12, "heads": 3}, 12),
        pytest.param("resnet18", {}, 40, marks=pytest.mark.slow),
        pytest.param("resnet26", {}, 60, marks=pytest.mark.slow),
    ],
)
def test_every_block_is_compiled_at_any_depth_and_drop_path(name, args, most, graphs):
    encoder = encoders.create(name, 32, 32 if "resnet" in name else 8, drop_path=0.3, **args).train()
    names = encoder.state_dict().keys()
    blocks.compile_blocks(encoder)
    found, asked = blocks.within(encoder), []
    assert len(found) >= (8 if "resnet" in name else 12)
    for block in found:
        fast = block.forward.fast
        block.forward.fast = lambda *given, fast=fast, **more: asked.append(fast) or fast(*given, **more)
    encoder.features(torch.rand(4, 3, 32, 32)).sum().backward()
    assert len({id(fast) for fast in asked}) == len(found)
    assert 0 < graphs["stats"]["unique_graphs"] <= most
    assert encoder.state_dict().keys() == names


def test_a_number_of_tokens_that_changes_makes_no_graph_each(graphs):
    encoder = encoders.create("vit", 32, 4, dim=24, depth=2, heads=3, drop_path=0.1).train()
    blocks.compile_blocks(encoder, changing=True)
    for visible in range(20, 60, 8):
        mask = torch.zeros(2, 64, dtype=torch.bool)
        mask[:, visible:] = True
        encoder(torch.rand(2, 3, 32, 32), mask, visible)[1].sum().backward()
        block, x = encoder.trunk.blocks[-1], torch.rand(2, 64, 24)
        assert blocks.run(block, x, rows=slice(-visible, None)).shape == (2, visible, 24)
    assert graphs["stats"]["unique_graphs"] <= 6


def test_stochastic_depth_of_a_compiled_block_keeps_the_mean():
    encoder = encoders.create("vit", 16, 4, dim=24, depth=2, heads=3, drop_path=0.4).train()
    drop = encoder.trunk.blocks[1].drop_path1
    blocks.compile_blocks(encoder)
    torch.manual_seed(0)
    found = drop(torch.ones(20_000, 2, 3))
    assert found.unique().tolist() == [0, pytest.approx(1 / 0.6)]
    assert found.mean() == pytest.approx(1, abs=0.02) and (found[:, :1, :1] == found).all()
    drop.eval()
    assert torch.equal(drop(torch.ones(3, 2)), torch.ones(3, 2))
