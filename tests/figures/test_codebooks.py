import numpy as np
import pytest
import torch

from mimlab.errors import Refused
from mimlab.figures.codebooks import galleries, gallery, maps, roundtrip, usage
from mimlab.figures.token_pairs import neighbours
from mimlab.figures.tokens import token_map
from mimlab.looking.tokens import Neighbours


def greys(*values, size=8):
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, size, size)


def test_gallery_shows_the_most_used_first_with_their_numbers(decode):
    figure = gallery(greys(0.2, 0.4, 0.6), [1, 0, 3], ids=torch.tensor([10, 11, 12]))
    assert figure.data[0].hovertext[0] == "token 12<br>3 times, 75 %<br>rank 1"
    assert figure.data[0].hovertext[1].startswith("token 10<br>1 times") and "token 11" in figure.data[0].hovertext[2]
    pixels = decode(figure.layout.images[0].source)
    cell = (pixels.shape[1] - 4) // 3
    assert [int(pixels[10, 4 + k * cell + 10, 0]) for k in range(3)] == [153, 51, 102]
    assert len(figure.layout.images) == 1


def test_gallery_places_every_row_under_its_hover_text(decode):
    figure = gallery(
        np.linspace(0, 1, 40, dtype=np.float32)[:, None, None, None].repeat(5, 1).repeat(5, 2).repeat(3, 3), np.ones(40)
    )
    picture, marks = figure.layout.images[0], figure.data[0]
    pixels = decode(picture.source)
    scale_x, scale_y = pixels.shape[1] / picture.sizex, pixels.shape[0] / picture.sizey
    for k in (0, 15, 16, 39):  # the mark's place in the figure is the tile's in the picture
        value = pixels[round((marks.y[k] - picture.y) * scale_y), round((marks.x[k] - picture.x) * scale_x), 0]
        assert value == round(k / 39 * 255)
        assert marks.hovertext[k].startswith(f"token {k}<br>")


def test_gallery_takes_both_layouts_and_refuses_other_sizes(decode):
    first = gallery(greys(0.2, 0.4), [2, 1]).layout.images[0].source
    last = gallery(greys(0.2, 0.4).permute(0, 2, 3, 1), [2, 1]).layout.images[0].source
    assert first == last
    with pytest.raises(Refused, match="2 pictures, 3 counts"):
        gallery(greys(0.2, 0.4), [2, 1, 1])
    with pytest.raises(Refused, match="not all 0"):
        gallery(greys(0.2, 0.4), [0, 0])


def test_usage_is_share_by_rank_with_entropy_and_perplexity():
    figure = usage(torch.tensor([1, 0, 4, 2, 1]))
    assert figure.data[0].x.tolist() == [1, 2, 3, 4] and figure.data[0].y.tolist() == [0.5, 0.25, 0.125, 0.125]
    assert figure.layout.title.text == "Use of the vocabulary: 4 of 5 in use, 1.75 bits, perplexity 3"
    assert figure.layout.xaxis.type == figure.layout.yaxis.type == "log"


def test_usage_of_several_tokenizers_is_thinned_and_told_in_the_legend():
    figure = usage({"even": np.ones(8192), "one": [0, 5]})
    even, one = figure.data
    assert even.name == "even<br>8,192 of 8,192 in use, 13.00 bits, perplexity 8,192" and len(even.x) <= 400
    assert even.x[0] == 1 and even.x[-1] == 8192 and np.allclose(even.y, 1 / 8192)
    assert one.name == "one<br>1 of 2 in use, 0.00 bits, perplexity 1" and figure.layout.showlegend
    with pytest.raises(Refused, match="counts bad"):
        usage({"bad": [-1, 2]})
    with pytest.raises(Refused, match="empty dict"):
        usage({})


def test_roundtrip_columns_have_their_psnr():
    figure = roundtrip(greys(0.2, 0.6), {"exact": greys(0.2, 0.6), "off": greys(0.4, 0.8)})
    titles = [a.text for a in figure.layout.annotations]
    assert titles == ["image", "exact<br>120.0 dB", "off<br>14.0 dB"]  # an error of 51 of 255
    assert len(figure.layout.images) == 6
    with pytest.raises(Refused, match="off"):
        roundtrip(greys(0.2, 0.6), {"off": greys(0.4)})


def test_maps_have_a_row_for_each_tokenizer_under_the_images(decode):
    ids = {"one": torch.tensor([[0, 1, 1, 3, 0, 0], [2, 2, 2, 2, 2, 2]]), "two": torch.tensor([[9, 8, 7, 6, 5, 4]] * 2)}
    figure = maps(greys(0.2, 0.6, size=6), ids, (2, 3), {"one": 4, "two": 10})
    assert [round(decode(picture.source).mean()) for picture in figure.layout.images] == [51, 153]
    assert len(figure.data) == 4 and figure.data[0].y0 < figure.data[2].y0 and figure.data[0].x0 < figure.data[1].x0
    alone = token_map(ids["one"][1:], (2, 3), 4).data[0]
    assert np.array_equal(figure.data[1].z, alone.z) and figure.data[1].text == alone.text
    said = [a.text for a in figure.layout.annotations]
    assert said[:2] == ["3 of 6", "1 of 6"] and said[-3:] == ["image", "one", "two"]
    low, high = figure.layout.yaxis.range  # downwards
    assert low > figure.data[3].y0 + 1 and high < -0.5
    with pytest.raises(Refused, match="is vocab = 3 right"):
        maps(greys(0.2, 0.6, size=6), ids, (2, 3), {"one": 3, "two": 10})


def test_galleries_show_each_tokenizer_as_gallery_does():
    counts = {"a": torch.tensor([0, 5, 1, 2, 0]), "b": torch.tensor([1, 1, 8])}
    ids = {"a": torch.tensor([1, 3, 2]), "b": torch.tensor([2])}
    pictures = {"a": greys(0.2, 0.4, 0.6), "b": greys(0.8)}
    figure = galleries(pictures, counts, ids, most=2)
    first, second = figure.layout.images
    alone = gallery(pictures["a"][:2], [5, 2], ids["a"][:2]).layout.images[0]
    assert first.source == alone.source and second.y > first.y + first.sizey
    assert list(figure.data[0].hovertext) == [
        "token 1<br>5 times, 71 %<br>rank 1",
        "token 3<br>2 times, 29 %<br>rank 2",
    ]
    assert [a.text for a in figure.layout.annotations] == [
        "<b>a</b>: the 2 most used tokens are 88% of all patches", "<b>b</b>: the 1 most used tokens are 80% of all patches"
    ]  # fmt: skip
    assert second.y < figure.data[1].y[0] < second.y + second.sizey


def test_neighbours_are_coloured_by_pmi_with_their_pictures_along_the_axes(decode):
    counts = torch.tensor([[[4, 0], [1, 2]], [[0, 8], [1, 1]]])
    expected = torch.tensor([[[2.0, 1.0], [1.0, 2.0]], [[1.0, 2.0], [2.0, 1.0]]])
    found = Neighbours(torch.tensor([11, 7]), counts, expected)
    figure = neighbours({"k": found}, {"k": greys(0.2, 0.4, 0.6)})
    right, below = figure.data
    assert [list(row) for row in right.z] == [[1, None], [0, 0]] and [list(row) for row in below.z] == [
        [None, 2],
        [-1, 0],
    ]
    assert figure.layout.coloraxis.cmin == -2 and figure.layout.coloraxis.cmax == 2  # 0 is white
    assert right.customdata[0, 0].tolist() == [11, 11, 4, 2, 1] and right.customdata[0, 1].tolist()[:4] == [11, 7, 0, 1]
    assert "at its right" in right.hovertemplate and "below it" in below.hovertemplate
    pmi, plain = figure.layout.updatemenus[0].buttons
    assert pmi.args[0]["z"][1] == [[None, 2.0], [-1.0, 0.0]]
    assert plain.args[0]["z"][0] == [[round(np.log10(4), 2), None], [0.0, round(np.log10(2), 2)]]
    across, down = (decode(picture.source) for picture in figure.layout.images[:2])
    assert across.shape[0] * 2 == across.shape[1] == down.shape[0]
    assert across[2, 2, 0] == down[2, 2, 0] == 51 and across[2, -2, 0] == down[-2, 2, 0] == 102
    assert len(neighbours({"k": found}).layout.images) == 0
    with pytest.raises(Refused, match="empty dict"):
        neighbours({})
