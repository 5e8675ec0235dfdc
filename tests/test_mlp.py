"""Our MLP against timm's and against finite differences, whole and in pieces."""

import copy

import pytest
import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Block
from torch import nn

from mimlab import blocks, mlp
from mimlab.attention import SHORT

PIECES = [1, 4, 5, 4096]  # of 10 rows: one a piece, an odd rest, halves, all


def layers(**given):
    torch.manual_seed(0)
    return Mlp(6, 9, 5, **given)


@pytest.fixture(params=PIECES)
def pieces(request, monkeypatch):
    monkeypatch.setattr(mlp, "ROWS", request.param)


def test_gradients_are_those_of_finite_differences(pieces):
    made = layers().double()
    weights = [p.detach().requires_grad_() for p in (made.fc1.weight, made.fc1.bias, made.fc2.weight, made.fc2.bias)]
    x = torch.randn(2, 5, 6, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(mlp.Feed.apply, (x, *weights))


@pytest.mark.parametrize("gamma", [None, torch.linspace(-1, 1, 5)])
@pytest.mark.parametrize("shape", [(2, 5, 6), (10, 6), (1, 10, 6)])
def test_numbers_and_gradients_are_those_of_timm(pieces, gamma, shape):
    ours, timms = layers(), layers()
    scales = [None if gamma is None else gamma.clone().requires_grad_() for _ in range(2)]
    given = torch.randn(shape).requires_grad_()
    wanted = timms(given) if gamma is None else scales[0] * timms(given)
    found = mlp.feed(ours, given, scales[1])
    assert torch.allclose(found, wanted, atol=1e-6) and found.grad_fn.name().startswith("Feed")
    told = torch.randn_like(wanted)
    into = [[given, *one.parameters(), *([] if scale is None else [scale])] for one, scale in zip((timms, ours), scales, strict=True)]  # fmt: skip
    for one, other in zip(torch.autograd.grad(wanted, into[0], told), torch.autograd.grad(found, into[1], told), strict=True):  # fmt: skip
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "made",
    [
        {"act_layer": nn.ReLU},
        {"act_layer": lambda: nn.GELU(approximate="tanh")},
        {"drop": 0.5},
        {"bias": False},
        {"norm_layer": nn.LayerNorm},
    ],
    ids=["relu", "tanh", "drop", "no bias", "norm"],
)
def test_what_is_not_simple_stays_timms(made):
    one = layers(**made)
    x = torch.randn(4, 6)
    torch.manual_seed(1)
    found = mlp.feed(one, x)
    torch.manual_seed(1)
    assert torch.equal(found, one(x))
    assert not found.grad_fn.name().startswith("Feed")


def test_nothing_of_it_where_nothing_is_trained_or_in_half_precision():
    one, x = layers(), torch.randn(4, 6)
    with torch.no_grad():
        assert torch.equal(mlp.feed(one, x), one(x))
    gamma = torch.full((5,), 1e-3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mlp.feed(one, x), one(x))
        assert torch.allclose(mlp.feed(one, x, gamma), gamma * one(x), rtol=0.05)


@pytest.mark.parametrize("tokens", [16, 200])
def test_a_block_keeps_four_widths_less(tokens):
    """What timm's block and ours save for their backward pass, in widths of its tokens; timm's are some 17."""

    def kept(block):
        found = {}

        def note(x):
            memory = x.untyped_storage()
            found[memory.data_ptr()] = memory.nbytes()
            return x

        torch.manual_seed(0)
        x = torch.randn(4, tokens, 48, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            block(x)
        return sum(found.values()) / (4 * x.numel())

    timms = Block(48, 3, qkv_bias=True)
    ours = copy.deepcopy(timms)
    blocks.adopt([ours])
    weights = 3 * tokens / 48 if tokens <= SHORT else 0  # of attention, see mimlab/attention.py
    assert kept(timms) - kept(ours) > 3.9 - weights
