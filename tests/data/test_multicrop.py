"""The views: how many, how large, cut and coloured as DINO's, and slices against the whole."""

import pytest
import torch

from mimlab import data
from mimlab.data.augment import Augment
from mimlab.data.multicrop import MultiCrop
from mimlab.errors import Refused


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(batch, side, seed=0):
    return torch.randint(0, 256, (batch, 3, side, side), generator=seeded(seed), dtype=torch.uint8)


def test_it_is_no_source_of_images():
    assert "multicrop" not in data.sources()


@pytest.mark.parametrize(
    ("size", "options", "local"),
    [
        (224, {"patch": 16}, 96),  # the paper's
        (224, {"patch": 14}, 98),
        (28, {"patch": 4}, 12),
        (28, {"patch": 7}, 14),
        (32, {"patch": 4}, 12),
        (64, {"patch": 8}, 24),
        (32, {"patch": 32}, 32),  # at least one patch
        (32, {}, 14),
        (32, {"patch": 4, "local_size": 20}, 20),
        (32, {"patch": 4, "local_size": 40, "local_crops": 3}, 40),
    ],
)
def test_sizes_and_number_of_views(size, options, local):
    change = MultiCrop(size, **options)
    views = change(pictures(2, size), seeded())
    count = options.get("local_crops", 8)
    assert [tuple(view.shape) for view in views] == [(2, 3, size, size)] * 2 + [(2, 3, local, local)] * count
    assert all(view.dtype == torch.float32 and view.min() >= 0 and view.max() <= 1 for view in views)


def test_without_local_crops_there_are_two_views():
    assert len(MultiCrop(16, local_crops=0)(pictures(3, 16), seeded())) == 2


@pytest.mark.parametrize("side", [28, 64])
def test_slices_equal_the_whole(side):
    change, images = MultiCrop(side, patch=4, local_crops=3, solarize=(0.5, 0.5, 0.5)), pictures(8, side)
    draws = change.draw(8, seeded())
    assert all(len(value) == 8 for value in draws.values())
    whole = change.apply(images, draws)
    for a, b in ((0, 1), (3, 5), (4, 8)):
        part = change.apply(images[a:b], {name: value[a:b] for name, value in draws.items()})
        assert all(torch.equal(view, full[a:b]) for view, full in zip(part, whole, strict=True))


def test_the_generator_decides_all_and_every_view_draws_for_itself():
    change, images = MultiCrop(16, patch=4, blur=(0.0, 0.0, 0.0)), pictures(4, 16)
    first, second = change(images, seeded(1)), change(images, seeded(1))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    other = change(images, seeded(2))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    assert len({tuple(view.flatten().tolist()) for view in first}) == 10


def test_each_view_is_the_augment_it_says():
    """Recomputed with `Augment` itself from the same draws: scales, blur and solarisation of each view."""
    images, change = pictures(200, 24), MultiCrop(24, patch=4, local_crops=2)
    draws = change.draw(200, seeded())
    views = change.apply(images, draws)
    alike = {"flip": 0.5, "jitter": (0.4, 0.4, 0.2, 0.1), "jitter_p": 0.8, "grey": 0.2}
    for index, (size, scale, blur, solarize) in enumerate(
        [(24, (0.4, 1.0), 1.0, 0.0), (24, (0.4, 1.0), 0.1, 0.2)] + [(12, (0.05, 0.4), 0.5, 0.0)] * 2
    ):
        own = {name.split(" ")[1]: value for name, value in draws.items() if name.startswith(f"{index} ")}
        expected = Augment(size, scale=scale, blur=blur, blur_side=24, solarize=solarize, **alike).apply(images, own)
        assert torch.equal(views[index], expected)
    shares = [MultiCrop(24).views[i].boxes(Augment(24).draw(2000, seeded(i)), 224, 224) for i in (0, 2)]
    large, small = (boxes[:, 2:].prod(dim=1) / 224**2 for boxes in shares)
    assert 0.38 < large.min() < 0.5 and large.max() > 0.9 and small.max() < 0.42 and small.min() < 0.06


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"patch": 8, "local_size": 20}, r"local_size = 20 is no multiple of patch_size = 8; try 16"),
        ({"local_size": "96"}, r"local_size = '96'"),
        ({"local_size": 0}, r"local_size = 0"),
        ({"local_crops": -1}, r"local_crops = -1 is a number of views, from 0 to 100"),
        ({"local_crops": 2.5}, r"local_crops = 2.5"),
        ({"blur": 0.5}, r"blur = 0.5 should be three probabilities"),
        ({"solarize": (0.0, 0.2)}, r"three probabilities"),
        ({"blur": (1.0, 0.1, 5)}, r"blur = 5 is a probability"),
        ({"local_scale": (0.4, 0.05)}, r"\(0.4, 0.05\)"),
        ({"global_scale": 0.4}, r"0.4 should be two numbers"),
    ],
)
def test_refuses_what_cannot_work(options, said):
    with pytest.raises(Refused, match=said):
        MultiCrop(32, **options)
