import numpy as np
import pytest
import torch
from PIL import Image

from mimlab.errors import Refused
from mimlab.figures.pictures import ACROSS, BUDGET, LEAST, cells, colours, panels, png, pngs


def test_png_keeps_pixels_and_enlarges_by_whole_factors(decode):
    image = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8)
    seen = decode(png(image))
    assert seen.shape == (112, 112, 3)  # 28 * 4 is the first multiple that reaches 96
    assert (seen[::4, ::4] == image.permute(1, 2, 0).numpy()).all()
    assert (seen[3::4, 3::4] == seen[::4, ::4]).all()
    assert decode(png(torch.zeros(3, LEAST, LEAST))).shape == (LEAST, LEAST, 3)


def test_float_and_uint8_give_the_same_picture():
    image = torch.randint(0, 256, (3, 100, 100), dtype=torch.uint8)
    assert png(image) == png(image / 255)
    assert png(image) == png(image.numpy())


def test_values_outside_are_clipped_and_nan_is_refused(decode):
    assert decode(png(torch.full((3, 96, 96), 1.7))).min() == 255
    with pytest.raises(Refused, match="NaN"):
        png(torch.full((3, 8, 8), float("nan")))
    with pytest.raises(Refused, match="shape"):
        colours(torch.zeros(0, 3, 8, 8))
    with pytest.raises(Refused, match="shape"):
        colours(torch.zeros(2, 1, 8, 8))


def test_cells_are_raster_order_also_where_pixels_do_not_divide():
    spread = cells(np.arange(6)[None], (2, 3), (4, 6))[0]
    assert (spread == np.kron(np.arange(6).reshape(2, 3), np.ones((2, 2)))).all()
    assert set(cells(np.arange(6)[None], (2, 3), (5, 7)).ravel()) == set(range(6))
    with pytest.raises(Refused, match="grid of 2 x 3"):
        cells(np.zeros((1, 5)), (2, 3), (4, 6))


def test_many_heavy_pictures_stay_within_the_budget(decode):
    noise = np.random.default_rng(0).integers(0, 256, (32, 224, 224, 3), dtype=np.uint8)
    smooth = np.asarray([Image.fromarray(n[:12, :12]).resize((224, 224), Image.Resampling.BICUBIC) for n in noise])
    uris = pngs(list(smooth))
    assert len(uris) == 32 and sum(map(len, uris)) <= BUDGET
    small = decode(uris[0]).astype(int)
    expected = np.asarray(Image.fromarray(smooth[0]).resize(small.shape[:2], Image.Resampling.BOX))
    assert np.abs(small - expected).mean() < 25  # 64 colours for colour noise, still the picture


def test_panels_place_every_picture_in_its_row_and_column(decode):
    reds = np.zeros((2, 96, 48, 3), np.uint8)
    reds[0, ..., 0], reds[1, ..., 0] = 100, 200
    figure = panels({"one": reds, "two": reds + 10}, title="T", note="N", rows=["cat", "dog"], scale=(0.5, "error"))
    assert [(round(i.x - 0.03), round((i.y - 0.06) / 2)) for i in figure.layout.images] == [
        (0, 0), (1, 0), (0, 1), (1, 1),
    ]  # fmt: skip
    assert [decode(i.source)[0, 0, 0] for i in figure.layout.images] == [100, 110, 200, 210]
    assert {i.sizey / i.sizex for i in figure.layout.images} == {2.0}
    assert [a.text for a in figure.layout.annotations] == ["one", "two", "cat", "dog"]
    assert figure.layout.title.text == "T" and figure.layout.title.subtitle.text == "N"
    assert figure.layout.yaxis.scaleanchor == "x" and not figure.layout.xaxis.visible
    assert figure.data[-1].marker.colorbar.title.text == "error"


def test_many_columns_are_smaller_and_a_note_of_more_lines_has_its_room():
    one = np.zeros((2, 8, 8, 3), np.uint8)
    wide, few = panels({str(k): one for k in range(12)}), panels({"a": one, "b": one}, note="x")
    assert wide.layout.width == ACROSS and wide.layout.height < few.layout.height
    assert panels({"a": one, "b": one}, note="x<br>y").layout.margin.t == few.layout.margin.t + 16
    long = panels({"a": one, "b": one}, note="word " * 30).layout
    assert long.title.subtitle.text.count("<br>") == 2 and long.margin.t == few.layout.margin.t + 32
