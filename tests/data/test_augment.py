"""Augmentation against torchvision, slices against the whole, and the laws of the crops."""

import math

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from mimlab.data import _pixels
from mimlab.data.augment import STRONG, Augment, Plain, blur, luma, resized_crops, shift_hue
from mimlab.errors import Refused


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(batch, side, seed=0):
    return torch.randint(0, 256, (batch, 3, side, side), generator=seeded(seed), dtype=torch.uint8)


def same(u, batch):
    """Draws in which every number is `u`."""
    return {k: torch.full_like(v, u) for k, v in Augment(8).draw(batch, seeded()).items()}


@pytest.mark.parametrize(("side", "size"), [(32, 32), (40, 32), (64, 32), (96, 64), (64, 96), (256, 224)])
def test_slices_equal_the_whole(side, size):
    change = Augment(size, **STRONG)
    images = pictures(12, side)
    draws = change.draw(12, seeded())
    whole = change.apply(images, draws)
    assert whole.shape == (12, 3, size, size) and whole.dtype == torch.float32
    assert whole.min() >= 0 and whole.max() <= 1
    for a, b in ((0, 1), (3, 4), (0, 6), (6, 12), (5, 12)):
        assert torch.equal(change.apply(images[a:b], {k: v[a:b] for k, v in draws.items()}), whole[a:b])


def test_the_generator_decides_all():
    change, images = Augment(32, **STRONG), pictures(8, 32)
    assert torch.equal(change(images, seeded(1)), change(images, seeded(1)))
    assert not torch.equal(change(images, seeded(1)), change(images, seeded(2)))
    first, second = seeded(), seeded()
    Augment(32).draw(8, first), change.draw(8, second)  # options do not change how much is drawn
    assert torch.equal(first.get_state(), second.get_state())


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("side", [32, 96])
def test_crops_match_torchvision(side, mode):
    images = pictures(6, side)
    boxes = Augment(24).boxes(Augment(24).draw(6, seeded()), side, side)
    flipped = torch.tensor([True, False] * 3)
    for crops in (_pixels._crops_at_once, _pixels._crops_one_by_one, resized_crops):
        out = crops(images, boxes, flipped, 24, mode)
        for i, (top, left, h, w) in enumerate(boxes.tolist()):
            bytewise = crops is _pixels._crops_one_by_one or (crops is resized_crops and side == 96)
            image = images[i] if bytewise else images[i].float() / 255
            expected = tv.resized_crop(image, top, left, h, w, [24, 24], v2.InterpolationMode(mode), antialias=True)
            expected = expected.flip(2) if flipped[i] else expected
            if bytewise:
                assert torch.equal(out[i], expected.float() / 255)
            else:
                assert (out[i] - expected.clamp(0, 1)).abs().max() < 1e-5


def test_boxes_follow_torchvisions_law():
    change = Augment(32, scale=(0.2, 1.0))
    boxes = change.boxes(change.draw(20000, seeded()), 224, 224).double()
    top, left, h, w = boxes.unbind(1)
    assert (top >= 0).all() and (left >= 0).all() and (top + h <= 224).all() and (left + w <= 224).all()
    torch.manual_seed(0)
    theirs = torch.tensor(
        [v2.RandomResizedCrop.get_params(torch.empty(3, 224, 224), (0.2, 1.0), (3 / 4, 4 / 3)) for _ in range(4000)]
        if hasattr(v2.RandomResizedCrop, "get_params")
        else [
            [p[k] for k in ("top", "left", "height", "width")]
            for p in (v2.RandomResizedCrop(32, (0.2, 1.0)).make_params([torch.empty(3, 224, 224)]) for _ in range(4000))
        ]
    ).double()
    for ours, other in (
        (h * w, theirs[:, 2] * theirs[:, 3]),
        (w / h, theirs[:, 3] / theirs[:, 2]),
        (top, theirs[:, 0]),
    ):
        points = torch.linspace(0.05, 0.95, 19, dtype=torch.double)
        quantile = other.quantile(points)
        ours_below = (ours[:, None] <= quantile).double().mean(0)
        theirs_below = (other[:, None] <= quantile).double().mean(0)
        assert (ours_below - theirs_below).abs().max() < 0.035  # Kolmogorov-Smirnov at 0.001


def test_impossible_crops_fall_back_to_the_centre():
    change = Augment(8, scale=(1.0, 1.0), ratio=(2.0, 2.0))  # the whole area at 2:1 never fits a square
    boxes = change.boxes(change.draw(5, seeded()), 32, 32)
    assert boxes.tolist() == [[8, 0, 16, 32]] * 5


def test_flip_rate_and_no_crop():
    images = torch.zeros(4000, 3, 8, 8, dtype=torch.uint8)
    images[..., :4] = 255
    out = Augment(8, scale=None)(images, seeded())
    assert set(out[:, 0, 0, 0].tolist()) == {0.0, 1.0}
    assert abs(out[:, 0, 0, 0].mean() - 0.5) < 0.03
    assert torch.equal(Augment(8, scale=None, flip=0)(images, seeded()), images.float() / 255)


@pytest.mark.parametrize("u", [0.0, 0.3, 0.9])
def test_jitter_matches_torchvision(u):
    images = pictures(4, 32)
    x = images.float() / 255
    draws = same(u, 4)
    factor = 0.6 + u * 0.8
    plain = dict(scale=None, flip=0, jitter_p=1.0)
    for strengths, expected in (
        ((0.4, 0, 0, 0), tv.adjust_brightness(x, factor)),
        ((0, 0.4, 0, 0), tv.adjust_contrast(x, factor)),
        ((0, 0, 0.4, 0), tv.adjust_saturation(x, factor)),
        ((0, 0, 0, 0.4), tv.adjust_hue(x, -0.4 + u * 0.8)),
    ):
        out = Augment(32, jitter=strengths, **plain).apply(images, draws)
        assert (out - expected).abs().max() < 2e-5


def test_hue_of_a_full_circle_changes_nothing():
    x = torch.rand(3, 3, 9, 9, generator=seeded())
    assert (shift_hue(x, torch.tensor([0.0, 1.0, -1.0])) - x).abs().max() < 1e-5
    grey = x[:, :1].expand_as(x)
    assert (shift_hue(grey, torch.tensor([0.1, 0.3, 0.5])) - grey).abs().max() < 1e-6


def test_grey_and_solarize_match_torchvision():
    images = pictures(3, 32)
    x = images.float() / 255
    plain = dict(scale=None, flip=0)
    out = Augment(32, grey=1.0, **plain)(images, seeded())
    assert (out - tv.rgb_to_grayscale(x, num_output_channels=3)).abs().max() < 1e-6
    out = Augment(32, solarize=1.0, **plain)(images, seeded())
    assert (out - tv.solarize(x, 0.5)).abs().max() < 1e-6
    assert luma(x).shape == (3, 1, 32, 32)


@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_matches_torchvision(sigma):
    x = torch.rand(2, 3, 40, 40, generator=seeded())
    out = blur(x, torch.full((2,), sigma), 8)
    assert (out - tv.gaussian_blur(x, [21, 21], [sigma, sigma])).abs().max() < 1e-4
    constant = torch.full((1, 3, 16, 16), 0.4)
    assert (blur(constant, torch.tensor([sigma]), 8) - 0.4).abs().max() < 1e-6


def test_tiny_images_go_through():
    assert Augment(1, **STRONG)(pictures(4, 1), seeded()).shape == (4, 3, 1, 1)
    assert Augment(2, **STRONG)(pictures(4, 5), seeded()).shape == (4, 3, 2, 2)


def test_blur_radius_scales_with_the_image():
    images = pictures(2, 112)
    out = Augment(112, scale=None, flip=0, blur=1.0).apply(images, same(0.5, 2))
    expected = tv.gaussian_blur(images.float() / 255, [21, 21], [1.05 / 2, 1.05 / 2])
    assert (out - expected).abs().max() < 1e-4


def test_probabilities():
    images = pictures(2000, 8)
    plain = dict(scale=None, flip=0)
    for option, p in (({"grey": 0.2}, 0.2), ({"solarize": 0.1}, 0.1), ({"jitter": 0.4}, 0.8)):
        out = Augment(8, **plain, **option)(images, seeded())
        changed = ((out - images.float() / 255).abs().amax(dim=(1, 2, 3)) > 0).double().mean()
        assert abs(changed - p) < 0.03
    images = pictures(400, 112)
    out = Augment(112, blur=0.5, **plain)(images, seeded())
    changed = ((out - images.float() / 255).abs().amax(dim=(1, 2, 3)) > 1e-3).double().mean()
    assert 0.36 < changed < 0.56  # half, less the radii too small to be seen


def test_one_number_for_jitter():
    assert Augment(8, jitter=0.4).jitter == pytest.approx(STRONG["jitter"])


def test_plain():
    images = pictures(3, 32)
    assert torch.equal(Plain(32)(images), images.float() / 255)
    out = Plain(20)(images)
    expected = tv.resize(images.float() / 255, [20, 20], v2.InterpolationMode.BICUBIC, antialias=True)
    assert out.shape == (3, 3, 20, 20) and (out - expected.clamp(0, 1)).abs().max() < 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {"scale": (0.5, 0.2)},
        {"scale": (0, 1)},
        {"scale": (0.2, 1.5)},
        {"scale": 0.2},
        {"ratio": (0, 1)},
        {"flip": 1.2},
        {"grey": -0.1},
        {"blur": "0.5"},
        {"jitter": (0.4, 0.4)},
        {"jitter": (0.4, 0.4, 0.4, 0.6)},
        {"jitter": -1},
        {"size": 0},
        {"size": 8.5},
    ],
)
def test_refused(options):
    with pytest.raises(Refused, match=next(iter(options))):
        Augment(**{"size": 8, **options})


def test_near_square_aspects_are_log_uniform():
    change = Augment(8, scale=(0.2, 0.3))
    boxes = change.boxes(change.draw(8000, seeded()), 1000, 1000).double()
    aspect = (boxes[:, 3] / boxes[:, 2]).log() / math.log(4 / 3)  # uniform in (-1, 1)
    assert abs(aspect.mean()) < 0.03 and abs(aspect.std() - 1 / math.sqrt(3)) < 0.02


@pytest.mark.parametrize("side", [24, 96])
def test_colours_that_change_first_are_those_of_the_whole_image(side):
    """As torchvision does it: jitter, then the crop; contrast is about the mean of what was there before."""
    images = pictures(4, side)
    change = Augment(16, jitter=(0.4, 0.4, 0.4, 0.0), jitter_p=1.0, jitter_first=True, flip=0.0)
    draws = change.draw(4, seeded())
    found, boxes = change.apply(images, draws), change.boxes(draws, side, side).tolist()
    for i, (top, left, h, w) in enumerate(boxes):
        strengths = [1 - 0.4 + 0.8 * float(u) for u in draws["strength"][i, :3]]
        one = images[i].float() / 255
        for turn, strength in zip(
            (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation), strengths, strict=True
        ):
            one = turn(one, strength)
        mode = v2.InterpolationMode.BICUBIC
        want = tv.resized_crop(one, top, left, h, w, [16, 16], mode, antialias=True).clamp(0, 1)
        assert (found[i] - want).abs().max() < 2.5 / 255  # bytes in between
    later = Augment(16, jitter=(0.4, 0.4, 0.4, 0.0), jitter_p=1.0, flip=0.0).apply(images, draws)
    assert (found - later).abs().max() > 2.5 / 255
    twice = {name: torch.cat([value, value]) for name, value in draws.items()}
    assert torch.equal(change.apply(images, twice), torch.cat([found, found]))


@pytest.mark.parametrize("aspect", [0.01, 0.02, 50.0, 100.0])
def test_a_crop_of_any_aspect_has_at_least_one_pixel(aspect):
    images = torch.randint(0, 256, (8, 3, 24, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    x = Augment(24, scale=(0.08, 1.0), ratio=(aspect, aspect))(images, torch.Generator().manual_seed(1))
    assert torch.isfinite(x).all() and x.std() > 0.1
