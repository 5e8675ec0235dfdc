"""Linear layers by either library against torch's, with their gradients, and when each is taken."""

import platform

import pytest
import torch
from torch.nn import functional as F

from mimlab import linear

SHAPES = [(2, 5, 6), (10, 6), (1, 1, 6), (0, 6)]


@pytest.fixture(params=[False, True], ids=["MKL", "oneDNN"])
def library(request, monkeypatch):
    """Either one, whatever the processor."""
    if request.param and not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("torch was built without oneDNN")
    monkeypatch.setattr(linear, "onednn", lambda: request.param)
    return request.param


def layer(out, width, biased, dtype=torch.float):
    torch.manual_seed(0)
    weight = torch.randn(out, width, dtype=dtype, requires_grad=True)
    return weight, torch.randn(out, dtype=dtype, requires_grad=True) if biased else None


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_numbers_and_gradients_are_those_of_torch(library, shape, biased):
    weight, bias = layer(4, 6, biased)
    x = torch.randn(shape).requires_grad_()
    found, wanted = linear.linear(x, weight, bias), F.linear(x, weight, bias)
    assert torch.allclose(found, wanted, atol=1e-6) and found.shape == wanted.shape
    assert found.grad_fn.name().startswith("Linear") == library
    told, into = torch.randn_like(wanted), [x, weight, *([bias] if biased else [])]
    for one, other in zip(torch.autograd.grad(found, into, told), torch.autograd.grad(wanted, into, told), strict=True):
        assert torch.allclose(one, other, atol=1e-5) and one.shape == other.shape


def test_what_is_frozen_gets_no_gradient_and_the_rest_does(library):
    weight, bias = layer(4, 6, True)
    x = torch.randn(3, 6)
    linear.linear(x, weight.detach(), bias).sum().backward()
    assert torch.equal(bias.grad, torch.full((4,), 3.0)) and weight.grad is None
    linear.linear(x, weight, bias.detach()).sum().backward()
    assert torch.allclose(weight.grad, x.sum(dim=0).expand(4, -1), atol=1e-5)


def test_rows_apart_in_memory_and_gradients_that_are_spread(library):
    weight, bias = layer(4, 6, True)
    x = torch.randn(5, 3, 12)[:, 1:, ::2].requires_grad_()
    found = linear.linear(x, weight, bias)
    assert torch.allclose(found, F.linear(x, weight, bias), atol=1e-6)
    found.sum().backward()  # its gradient is one number, expanded
    assert torch.allclose(x.grad, weight.sum(dim=0).expand_as(x), atol=1e-5)


def test_only_full_precision_goes_to_onednn(library):
    weight, bias = layer(4, 6, True, torch.double)
    x = torch.randn(3, 6, dtype=torch.double)
    assert torch.equal(linear.linear(x, weight, bias), F.linear(x, weight, bias))
    assert torch.allclose(linear.product(x, weight.detach(), bias.detach()), F.linear(x, weight, bias))
    weight, bias = layer(4, 6, True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(linear.linear(x.float(), weight, bias), F.linear(x.float(), weight, bias))
    with torch.no_grad():
        assert torch.equal(linear.linear(x.float(), weight, bias), F.linear(x.float(), weight, bias))


@pytest.mark.parametrize("biased", [False, True])
def test_a_product_goes_where_it_is_told(library, biased):
    weight, bias = (None if x is None else x.detach() for x in layer(4, 6, biased))
    x, room = torch.randn(5, 6), torch.zeros(9, 4)
    found = linear.product(x, weight, bias, out=room[2:7])
    assert torch.allclose(room[2:7], F.linear(x, weight, bias), atol=1e-6) and torch.equal(found, room[2:7])
    assert not room[:2].any() and not room[7:].any()


@pytest.mark.parametrize(
    ("maker", "instructions", "wanted"),
    [("AuthenticAMD", "AVX512", True), ("AuthenticAMD", "AVX2", False), ("GenuineIntel", "AVX512", False)],
)
def test_onednn_is_for_processors_of_amd_with_avx512(monkeypatch, maker, instructions, wanted):
    wanted = wanted and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: instructions)
    monkeypatch.setattr(platform, "processor", lambda: f"Family 25, {maker}")
    for told in (f"vendor_id\t: {maker}\n", None):
        monkeypatch.setattr(linear.Path, "exists", lambda self, told=told: told is not None)
        monkeypatch.setattr(linear.Path, "read_text", lambda self, told=told: told)
        assert linear.onednn.__wrapped__() == wanted


@pytest.mark.parametrize("error", [AttributeError, RuntimeError, TypeError])
def test_a_torch_whose_onednn_is_called_otherwise_multiplies_with_mkl(monkeypatch, error):
    def changed(*given):
        raise error

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(linear.Path, "exists", lambda self: True)
    monkeypatch.setattr(linear.Path, "read_text", lambda self: "AuthenticAMD")
    monkeypatch.setattr(linear, "pointwise", changed)
    assert not linear.onednn.__wrapped__()


def test_plain_is_for_training_on_a_cpu_in_one_precision():
    x = torch.zeros(1)
    assert linear.plain(x)
    with torch.no_grad():
        assert not linear.plain(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not linear.plain(x)
    assert not linear.plain(x.to("meta"))
