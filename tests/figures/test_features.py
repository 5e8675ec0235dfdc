import numpy as np
import pytest
import torch

from mimlab.errors import Refused
from mimlab.figures import features, style


def greys(*values, size=96):
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, size, size)


def test_components_show_each_patch_in_its_colour(decode):
    colours = torch.rand(2, 3, 4, 3, generator=torch.Generator().manual_seed(0))
    inside = torch.zeros(2, 3, 4, 3)
    inside[0, 1, 2] = 1
    figure = features.components(greys(0.2, 0.8), colours, [0.5, 0.2, 0.1], inside, [0.4, 0.3, 0.2], "a run")
    image, patches, foreground = (decode(figure.layout.images[k].source) for k in range(3))
    assert (image == 51).all() and patches.shape == (96, 96, 3)
    for row in range(3):
        for column in range(4):
            expected = (colours[0, row, column] * 255).round().numpy()
            np.testing.assert_array_equal(patches[row * 32 + 16, column * 24 + 12], expected)
    assert foreground[48, 60].tolist() == [255, 255, 255] and foreground[0, 0].tolist() == [0, 0, 0]
    said = figure.layout.title.subtitle.text
    assert "50, 20, 10 %" in said and "40, 30, 20 %" in said and "a run" in figure.layout.title.text
    assert len(features.components(greys(0.2, 0.8), colours, [1.0]).layout.images) == 4


def test_neighbours_have_the_frame_of_right_or_wrong(decode):
    images, labels = greys(0.1, 0.3, 0.5, 0.7), torch.tensor([0, 0, 1, 1])
    nearest, cosine = torch.tensor([[1, 2], [2, 3]]), torch.tensor([[0.9, 0.8], [0.7, 0.6]])
    agreement = {"top1": 50.0, "chance": 33.3}
    figure = features.neighbours(images, nearest, cosine, labels, ["cat", "dog"], agreement, "t")
    pictures = [decode(image.source) for image in figure.layout.images]
    middle, edge = [int(p[60, 60, 0]) for p in pictures], [tuple(p[1, 1]) for p in pictures]
    assert middle == [26, 76, 128, 76, 128, 178]
    assert edge[0] == edge[3] == features.PLAIN
    assert edge[1] == features.RIGHT and {edge[2], edge[4], edge[5]} == {features.WRONG}
    said = figure.data[0].hovertext
    assert said[0] == "image 0<br>cat" and said[1] == "image 1<br>cat<br>cosine 0.900" and "dog" in said[5]
    assert "50.0 % (chance 33.3 %)" in figure.layout.title.subtitle.text.replace("<br>", " ")
    bare = features.neighbours(images, nearest, cosine)
    assert "no labels" in bare.layout.title.subtitle.text
    assert {tuple(decode(image.source)[1, 1]) for image in bare.layout.images} == {features.PLAIN}


def test_similarity_is_a_heat_map_between_named_layers():
    values = torch.tensor([[1.0, 0.5, 0.25], [0.5, 1.0, float("nan")]])
    figure = features.similarity(values, [0, "output"], [0, 1, "output"], "one", "other", 300)
    (heat,) = figure.data
    assert [list(row) for row in heat.z] == [[1.0, 0.5, 0.25], [0.5, 1.0, None]] and heat.text[1][2] == "–"
    assert (heat.zmin, heat.zmax) == (0, 1) and list(heat.y) == ["0", "output"]
    assert "other" in figure.layout.xaxis.title.text and "one" in figure.layout.yaxis.title.text
    assert "300 images" in figure.layout.title.subtitle.text and "unbiased" in figure.layout.title.subtitle.text
    assert "one" in features.similarity(values, [0, 1], [0, 1, 2], "one", "one", 9).layout.title.text


def test_ranks_have_a_line_for_images_and_one_for_patches():
    row = {"rank": 3.0, "most": 16, "rows": 100, "cosine": 0.2, "spread": 0.9}
    alone = {"rank": 1.0, "most": 1, "rows": 1, "cosine": float("nan"), "spread": float("nan")}
    figure = features.ranks({"images": [alone, alone], "patches": [row, row | {"rank": 5.0}]}, [0, "output"], "t")
    lines = {(line.name, line.xaxis): line for line in figure.data}
    assert lines["patches", "x"].y == (3.0, 5.0) and lines["images", "x2"].y == (None, None)
    assert lines["patches", "x"].customdata[0] == [16, 100] and list(lines["patches", "x3"].x) == ["0", "output"]
    assert [a.text for a in figure.layout.annotations] == [
        "effective rank",
        "mean cosine of pairs",
        "spread (std × √D)",
    ]


def test_accuracies_name_protocol_and_chance():
    figure = features.accuracies(
        {"k-NN": [20.0, 60.0], "linear": [30.0, 50.0]}, [0, "output"], 25.0, "t", "protocol " * 30
    )
    assert [line.y for line in figure.data] == [(20.0, 60.0), (30.0, 50.0)]
    assert figure.layout.shapes[0].y0 == 25 and "25.0 %" in figure.layout.annotations[0].text
    assert figure.layout.title.subtitle.text.replace("<br>", " ").split() == ["protocol"] * 30
    assert figure.layout.yaxis.range[1] == pytest.approx(66)


def test_a_refusal_becomes_one_line_and_no_other_error_does():
    def refuse():
        raise Refused("there is none")

    assert style.drawn(features.ranks, refuse).layout.annotations[0].text == "there is none"
    with pytest.raises(ZeroDivisionError):
        style.drawn(features.ranks, lambda: 1 / 0)
    assert style.drawn(dict, lambda: {"a": 1}) == {"a": 1}
