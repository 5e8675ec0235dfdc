"""The vocabulary of training patches."""

import torch

from mimlab.layers import patchify
from mimlab.tokenizers.random_patches import Tokenizer


def test_each_vocabulary_patch_is_its_own_token_and_decodes_to_itself():
    patches = (torch.rand(40, 48, generator=torch.Generator().manual_seed(0)) * 255).round() / 255
    patches = torch.cat([patches, patches])  # every one twice
    tokenizer = Tokenizer(40, 4)
    tokenizer.fit(patches, torch.Generator().manual_seed(1))
    images = tokenizer.decode(torch.arange(40).view(2, 20), (4, 5))
    assert torch.equal(tokenizer(images, (4, 5)), torch.arange(40).view(2, 20))
    chosen = patchify(images, 4).flatten(0, 1)
    assert torch.allclose(chosen.sort(0).values, patches[:40].sort(0).values, atol=1e-6)  # all, each once
