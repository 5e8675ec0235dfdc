import numpy as np
import pytest
import torch

from mimlab.errors import Refused
from mimlab.figures import attention
from mimlab.figures.attention import (
    FAINT,
    MARKER,
    SLATE,
    VEIL,
    by_depth,
    in_colours,
    kept,
    marked,
    overlay,
    palette,
    shares,
)
from mimlab.looking.attention import mass

GRID = (3, 4)


@pytest.fixture
def images():
    return torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def maps():
    """(L, B, heads, N)."""
    return torch.randn(3, 2, 4, 12, generator=torch.Generator().manual_seed(2)).softmax(-1) * 0.9


def patches(pictures, grid=GRID):
    """The middle pixel of each patch: (B, N, 3)."""
    height, width = pictures.shape[1] // grid[0], pictures.shape[2] // grid[1]
    return pictures[:, height // 2 :: height, width // 2 :: width].reshape(len(pictures), -1, 3)


def test_shares_go_from_the_smallest_to_the_largest_and_a_flat_map_is_dark():
    found = shares([[2.0, 4.0, 3.0], [5.0, 5.0, 5.0]])
    assert found.tolist() == [[0, 1, 0.5], [0, 0, 0]]


def test_an_overlay_mixes_image_and_scale(maps):
    white = np.full((2, 3, 24, 32), 255, np.uint8)
    found = patches(overlay(white, maps[0, :, 0], GRID))
    dark, bright = np.array([68, 1, 84]), np.array([253, 231, 37])  # the ends of Viridis
    for row, weights in zip(found, maps[0, :, 0]):
        for colour, at in ((dark, weights.argmin()), (bright, weights.argmax())):
            np.testing.assert_allclose(row[at], (1 - VEIL) * 255 + VEIL * colour, atol=1)


def test_each_head_has_its_colour():
    one = np.zeros((1, 3, 12))
    for head in range(3):
        one[0, head, head * 4] = 1  # one strong patch each
        one[0, head, 11] = FAINT - 0.05  # and one that is too faint
    found = patches(in_colours(np.full((1, 3, 24, 32), 100, np.uint8), one, GRID))[0]
    grey = found[1]
    assert grey[0] == grey[1] == grey[2]
    for head in range(3):
        np.testing.assert_allclose(found[head * 4], 0.85 * palette(3)[head].astype(float) + 0.15 * grey, atol=1)
    assert (found[11] == grey).all()


@pytest.mark.parametrize("count", [1, 6, 7, 12, 16])
def test_heads_have_different_colours(count):
    colours = palette(count).astype(int)
    apart = np.abs(colours[:, None] - colours[None]).sum(-1)[~np.eye(count, dtype=bool)]
    assert len(colours) == count and (apart > 40).all()


def test_what_is_outside_the_mass_is_veiled(images, maps):
    weights, pixels = maps[0, :, 1], (images.numpy() * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    found, inside = patches(kept(images, weights, GRID, 0.5)), mass(weights, 0.5).numpy()
    assert (found[inside] == patches(pixels)[inside]).all()
    assert (np.abs(found[~inside] - SLATE) <= 0.15 * 255).all() and 0 < inside.sum() < 24


def test_the_query_is_framed(images):
    pixels = np.zeros((24, 32, 3), np.uint8)
    framed = marked(pixels, (1, 2), GRID)
    red = (framed == MARKER).all(-1)
    assert red[8:16, 16:24].any() and not np.delete(red, np.s_[8:16], 0).any() and not red[9:15, 17:23].any()
    assert pixels.max() == 0 and marked(pixels, "cls", GRID) is pixels


def test_the_grid_has_a_row_a_layer_and_a_column_a_head(images, maps, decode):
    figure = attention.heads(images[0], maps[:, 0], GRID, (1, 2))
    assert [image.name for image in figure.layout.images] == ["image", *(f"head {k}" for k in range(4)), "mean"] * 3
    for layer in range(3):
        for head in range(4):
            drawn = patches(decode(figure.layout.images[layer * 6 + 1 + head].source)[None])[0].astype(int)
            assert drawn.sum(1).argmax() == maps[layer, 0, head].argmax()
    assert "row 1, column 2" in figure.layout.title.subtitle.text
    alone = attention.heads(images[0], maps[:, 0, :1], GRID)
    assert [image.name for image in alone.layout.images[:2]] == ["image", "head 0"] and len(alone.layout.images) == 6


def test_many_layers_and_many_heads():
    many = torch.rand(24, 3, 196)
    figure = attention.heads(torch.rand(3, 224, 224), many, (14, 14))
    assert len(figure.layout.images) == 12 * 5
    labels = [a.text for a in figure.layout.annotations if a.text.startswith("layer")]
    assert (labels[0], labels[-1], len(labels)) == ("layer 0", "layer 23", 12)
    assert len(figure.to_json()) < 300_000
    wide = attention.heads(torch.rand(3, 32, 32), torch.rand(1, 16, 16), (4, 4))
    assert len(wide.layout.images) == 18 and wide.layout.width < 1200


def test_gallery_masses_and_overlays(images, maps):
    figure = attention.gallery(images, maps[0], GRID)
    assert len(figure.layout.images) == 2 * (3 + 4) and figure.layout.title.subtitle.text == "of CLS"
    one = attention.gallery(images[:1], maps[0, :1, :1], GRID)
    assert [image.name for image in one.layout.images] == ["image", "mean"]
    figure = attention.masses(images, maps[0], GRID, 0.6)
    assert len(figure.layout.images) == 2 * 5 and "60%" in figure.layout.title.subtitle.text
    figure = attention.overlays(images, {"mean": maps[0].mean(1), "max": maps[0].amax(1)}, GRID, "Rollout")
    assert [image.name for image in figure.layout.images] == ["image", "mean", "max"] * 2
    with pytest.raises(Refused, match="empty dict"):
        attention.overlays(images, {}, GRID, "Rollout")


def test_two_models_of_other_sizes(images, maps):
    figure = attention.beside(
        {"a": (images, maps[0].mean(1), GRID), "b" * 20: (images[:, :, ::2, ::2], maps[1].mean(1), GRID)}
    )
    assert [image.name for image in figure.layout.images] == ["image", "a", f"{'b' * 18}<br>bb"] * 2


def test_numbers_against_depth():
    values = {"a": np.arange(12.0).reshape(3, 4), "b": np.ones((2, 1))}
    figure = by_depth(values, "Mean attention distance", "pixels", 32)
    area, line, dots = figure.data[:3]
    assert list(dots.x) == [0] * 4 + [1] * 4 + [2] * 4 and list(dots.y) == list(range(12))
    assert list(dots.customdata) == [0, 1, 2, 3] * 3 and list(line.y) == [1.5, 5.5, 9.5]
    assert list(area.y) == [3, 7, 11, 8, 4, 0] and figure.layout.yaxis.title.text == "pixels"
    assert figure.layout.showlegend and "32 images" in figure.layout.title.subtitle.text
    assert figure.data[3].fillcolor != area.fillcolor
    assert by_depth({}, "x", "y").layout.annotations[0].text == "no model to show"


def test_channels(decode):
    weights = torch.rand(2, 3, 5, 5)
    figure = attention.channels(weights)
    assert len(figure.layout.images) == 6 and "5 channels" in figure.layout.title.subtitle.text
    drawn = decode(figure.layout.images[4].source)
    step = len(drawn) // 5
    assert drawn[step // 2 :: step, step // 2 :: step].astype(int).sum(-1).argmax() == weights[1, 1].argmax()
