"""Our attention against torch's and against finite differences."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as torchs

from mimlab import attention

HEADS, WIDTH, TOKENS = 3, 12, 7
ROWS = {"all": None, "the first": slice(0, 1), "some": torch.tensor([[1, 5, 2], [3, 6, 0]])}


def given(rows, biased, dtype=torch.float):
    torch.manual_seed(0)
    seen = torch.randn(2, TOKENS, WIDTH, dtype=dtype, requires_grad=True)
    weight = torch.randn(3 * WIDTH, WIDTH, dtype=dtype, requires_grad=True)
    added = torch.randn(3 * WIDTH, dtype=dtype, requires_grad=True)
    bias = torch.randn(HEADS, TOKENS, TOKENS, dtype=dtype, requires_grad=True) if biased else None
    return [x for x in (seen, weight, added, bias) if x is not None]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("biased", [False, True])
def test_gradients_are_those_of_finite_differences(rows, biased):
    values = given(rows, biased, torch.double)
    assert torch.autograd.gradcheck(
        lambda seen, weight, added, bias=None: attention.attend(seen, weight, added, HEADS, ROWS[rows], bias), values
    )


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("biased", [False, True])
def test_numbers_are_those_of_torch(rows, biased):
    seen, weight, added, *bias = given(rows, biased)
    q, k, v = attention.apart(*attention.projected(seen, weight, added, None), HEADS)
    wanted = torchs(q, k, v, *bias).transpose(1, 2).flatten(2)
    found = attention.attend(seen, weight, added, HEADS, ROWS[rows], *bias)
    assert torch.allclose(found, attention.pick(wanted, ROWS[rows]), atol=1e-5)


def test_a_long_sequence_keeps_no_weights():
    """What a block saves for its backward pass grows with the square of the tokens up to `SHORT` alone."""
    from mimlab import encoders

    def largest(side):
        encoder, kept = encoders.create("vit", side, 2, dim=12, depth=2, heads=3), []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
            encoder(torch.rand(1, 3, side, side))
        return max(kept), 3 * (1 + (side // 2) ** 2) ** 2

    few, weights = largest(20)  # 101 tokens
    assert few == weights
    many, weights = largest(24)  # 145 tokens
    assert many < weights
