"""The vocabulary of random vectors."""

import pytest
import torch

from mimlab.errors import Refused
from mimlab.tokenizers.random_projection import Tokenizer


def test_elements_are_uniform_before_they_are_scaled():
    tokenizer = Tokenizer(512, 4, low=-1.0, high=1.0)
    tokenizer.fit(None, torch.Generator().manual_seed(0))
    drawn = torch.rand(512, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.allclose(tokenizer.codebook, drawn / drawn.norm(dim=1, keepdim=True), atol=1e-6)


def test_an_empty_range_is_refused():
    with pytest.raises(Refused, match=r"low = 1.0 is not below high = 1.0"):
        Tokenizer(8, 4, low=1.0)
