import math

import numpy as np
import pytest
import torch

from mimlab.errors import Refused
from mimlab.figures.masks import coverage, gallery, hide, statistics

GRID = (3, 4)


@pytest.fixture
def mask():
    return torch.rand(5, 12, generator=torch.Generator().manual_seed(0)) < 0.5


@pytest.fixture
def images():
    return torch.rand(5, 3, 96, 128, generator=torch.Generator().manual_seed(1)) * 0.3


def test_hide_fills_exactly_the_hidden_cells(images, mask):
    seen = hide(images, mask, GRID, colour=0.75)
    pixels = mask.reshape(5, 1, 3, 4).repeat_interleave(32, 2).repeat_interleave(32, 3).expand_as(images).numpy()
    assert (seen[pixels] == 0.75).all()
    assert (seen[~pixels] == images.numpy()[~pixels]).all()


def test_hide_keeps_uint8_and_the_input(images, mask):
    bytes_ = (images * 255).to(torch.uint8)
    before = bytes_.clone()
    seen = hide(bytes_, mask, GRID)
    assert seen.dtype == np.uint8 and (bytes_ == before).all()
    assert set(seen[np.asarray(mask[:, 0].nonzero())[0], :, 0, 0].ravel()) == {128}


def test_gallery_shows_the_mask_in_the_pixels(images, mask, decode):
    figure = gallery(images, {"random": mask, "all but": ~mask}, GRID)
    assert len(figure.layout.images) == 15  # 5 rows of the image and two strategies
    for row in range(5):
        for column, hidden in ((1, mask), (2, ~mask)):
            cell = decode(figure.layout.images[row * 3 + column].source)[16::32, 16::32]
            assert ((cell == 128).all(-1).ravel() == hidden[row].numpy()).all()
    assert [a.text for a in figure.layout.annotations][1] == f"random<br>{mask.float().mean():.0%} hidden"


def test_a_gallery_of_32_pictures_is_light():
    images = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    images = torch.nn.functional.interpolate(images, size=(224, 224), mode="bicubic").clamp(0, 1)
    masks = {name: torch.rand(8, 196) < 0.5 for name in "abc"}
    assert len(gallery(images, masks, (14, 14)).to_json()) < 300_000


def test_coverage_counts(mask):
    exact = torch.zeros(4, 12, dtype=torch.bool)
    exact[:, 2:5] = True
    figure = coverage({"random": mask, "fixed": exact}, GRID)
    assert np.allclose(figure.data[0].z, mask.float().mean(0).reshape(3, 4), atol=1e-4)
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (0, 1)
    assert {trace.coloraxis for trace in figure.data} == {"coloraxis"}
    assert figure.layout.annotations[1].text == "fixed<br>3 of 12 in every mask<br>mean 0.250"


def test_statistics_of_masks_counted_by_hand():
    masks = torch.tensor([[1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1], [0] * 12], dtype=torch.bool)
    corner = statistics({"m": masks[:1]}, GRID)["m"]
    # a corner of three (0, 1 and 4) and the single patch 11
    assert corner["hidden"] == 4 and corner["regions"] == 2 and corner["ratio"] == pytest.approx(4 / 12)
    assert corner["largest region"] == 3 / 4
    assert corner["hidden neighbours"] == pytest.approx(4 / (2 + 3 + 3 + 2))
    assert corner["distance to visible"] == pytest.approx((math.sqrt(2) + 1 + 1 + 1) / 4)
    assert math.isnan(statistics({"m": masks[1:]}, GRID)["m"]["largest region"])


def test_regions_do_not_connect_across_masks_and_full_masks_have_no_distance():
    full = torch.ones(3, 12, dtype=torch.bool)
    numbers = statistics({"m": full}, GRID)["m"]
    assert numbers["regions"] == 1 and numbers["hidden neighbours"] == 1 and numbers["largest region"] == 1
    assert math.isnan(numbers["distance to visible"])
    half = statistics({"m": torch.cat([full, ~full[:1]])}, GRID)["m"]
    assert half["regions"] == 3 / 4 and math.isnan(half["distance to visible"])


@pytest.mark.parametrize("bad", [{}, {"m": torch.zeros(2, 12)}, {"m": torch.zeros(2, 9, dtype=torch.bool)}])
def test_what_is_no_mask_is_refused(bad):
    with pytest.raises(Refused):
        coverage(bad, GRID)
    with pytest.raises(Refused, match="rows for"):
        hide(torch.zeros(3, 3, 9, 8), torch.zeros(2, 12, dtype=torch.bool), GRID)
