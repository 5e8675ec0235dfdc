"""Lloyd's algorithm and what its tokens decode to."""

import pytest
import torch

from mimlab.errors import Refused
from mimlab.tokenizers.kmeans import Tokenizer, lloyd


def test_separate_clouds_are_found():
    generator = torch.Generator().manual_seed(0)
    middles = torch.randn(5, 12, generator=generator) * 10
    data = (middles[:, None] + torch.randn(5, 30, 12, generator=generator) * 0.1).flatten(0, 1)
    centres, labels, inertia = lloyd(data, data[::30].clone(), 4)
    assert torch.equal(labels, torch.arange(5).repeat_interleave(30))
    assert torch.allclose(centres, data.view(5, 30, 12).mean(1), atol=1e-5)
    assert (inertia.diff() <= 1e-9).all()
    assert inertia[-1].item() == pytest.approx((data - centres[labels]).double().square().sum().item(), rel=1e-5)


def test_an_empty_cluster_keeps_its_centre():
    data = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    far = torch.tensor([[0.0, 0.0], [50.0, 50.0]])
    centres, labels, _ = lloyd(data, far, 3)
    assert centres.tolist() == [[0.5, 0.0], [50.0, 50.0]] and labels.tolist() == [0, 0]


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("normalise", ["imagenet", "none"])
def test_a_token_decodes_to_the_mean_of_its_cluster(normalise, centre):
    generator = torch.Generator().manual_seed(0)
    kinds = torch.rand(6, 48, generator=generator)
    patches = (kinds[:, None] + 0.01 * torch.randn(6, 50, 48, generator=generator)).clamp(0, 1).flatten(0, 1)
    tokenizer = Tokenizer(6, 4, normalise=normalise, centre=centre, rounds=30)
    for seed in range(20):  # until the start has one patch of each kind
        tokenizer.fit(patches, torch.Generator().manual_seed(seed))
        means = patches.view(6, 50, 48).mean(1)
        distance = torch.cdist(tokenizer.pixels.float() / 255, means)
        if len(distance.argmin(1).unique()) == 6:
            break
    assert distance.amin(1).max() < 0.05


@pytest.mark.parametrize(("given", "says"), [({"rounds": 0}, "rounds = 0"), ({"samples": 5}, "samples = 5")])
def test_wrong_options_are_refused(given, says):
    with pytest.raises(Refused, match=says):
        Tokenizer(6, 4, **given)
