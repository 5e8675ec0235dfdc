"""The decoder that MAE and SplitMask share."""

import pytest
import torch

from mimlab import encoders
from mimlab.decoder import Decoder
from mimlab.masks import cut, hidden_ids, take, visible_ids


def test_decoder_puts_each_patch_at_its_place():
    """Reversing the order of the visible patches together with their places changes nothing."""
    torch.manual_seed(0)
    encoder = encoders.create("vit", 16, 4, dim=24, depth=1, heads=3)
    decoder = Decoder(encoder, 16, 1, 2, fixed=True).eval()
    mask = cut(torch.rand(3, 16), 12)
    patches = torch.rand(3, 4, 24)
    out = decoder(None, patches, mask)
    assert out.shape == (3, 16, 16)
    moved = patches.clone()
    moved[:, 0] += 1
    changed = (decoder(None, moved, mask) - out).abs().sum(dim=2)
    first = (~mask).float().argmax(dim=1)
    assert torch.equal(changed.argmax(dim=1), first)  # the place that was moved changes most


@pytest.mark.parametrize("cls", [True, False])
@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("depth", [1, 3])
def test_hidden_patches_alone_are_those_of_the_whole_and_so_are_their_gradients(cls, fixed, depth):
    torch.manual_seed(0)
    encoder = encoders.create("vit", (12, 20), 4, dim=24, depth=1, heads=3)
    decoder = Decoder(encoder, 16, depth, 2, fixed=fixed)
    torch.nn.init.normal_(decoder.mask_token)
    mask = cut(torch.rand(3, 15), 11)
    seen, missing = visible_ids(mask, 4), hidden_ids(mask, 11)
    given = (torch.rand(3, 24) if cls else None, torch.rand(3, 4, 24, requires_grad=True))
    weights = [p for p in decoder.parameters() if p.requires_grad]
    whole, alone = take(decoder(*given, mask), missing), decoder.hidden(*given, seen, missing)
    assert torch.allclose(alone, whole, atol=1e-6)
    shown, hidden = decoder.parts(*given, seen, missing)
    assert torch.allclose(hidden, whole, atol=1e-6) and torch.allclose(
        shown, take(decoder(*given, mask), seen), atol=1e-6
    )
    direction = torch.randn(whole.shape)  # the sum of squares after a norm hardly depends on anything
    wanted, found = (torch.autograd.grad((x * direction).sum(), [given[1], *weights]) for x in (whole, alone))
    for one, other in zip(wanted, found, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)
