"""The picture under predicted tokens."""

import torch

from mimlab.tokenizers.random_patches import Tokenizer


def test_certain_predictions_are_the_decoded_tokens_and_doubt_is_their_mean():
    tokenizer = Tokenizer(8, 4)
    tokenizer.fit(torch.rand(50, 48), torch.Generator().manual_seed(0))
    ids = torch.randint(0, 8, (2, 6))
    certain = torch.full((2, 6, 8), -1e4).scatter(2, ids[..., None], 1e4)
    assert torch.allclose(tokenizer.expected(certain, (2, 3)), tokenizer.decode(ids, (2, 3)), atol=1e-6)
    mean = tokenizer.expected(torch.zeros(1, 6, 8), (2, 3))
    want = tokenizer.pixels.float().mean(dim=0) / 255
    assert torch.allclose(mean[0, :, :4, :4].reshape(-1), want, atol=1e-6)
