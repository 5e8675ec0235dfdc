import numpy as np
import pytest

from mimlab.errors import Refused
from mimlab.figures.tables import pairs, table, text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1234567, "1,234,567"), (0.123456, "0.1235"), (45.678, "45.68"), (1234.5, "1,234"), (3.1e-5, "3.1e-05"),
        (0.0, "0"), (float("nan"), "–"), (None, "–"), (True, "yes"), (np.float32(0.5), "0.5000"),
        (np.int64(7), "7"), ("random", "random"), (float("inf"), "inf"), (np.bool_(False), "no"),
    ],
)  # fmt: skip
def test_numbers_as_people_write_them(value, said):
    assert text(value) == said


def test_columns_in_order_of_appearance_with_dashes_for_gaps():
    figure = table([{"name": "a", "n": 1}, {"name": "b", "top1": 0.5}], title="T")
    assert list(figure.data[0].header.values) == ["<b>name</b>", "<b>n</b>", "<b>top1</b>"]
    assert [list(column) for column in figure.data[0].cells.values] == [
        ["a", "b"],
        ["1", "–"],
        ["–", "0.5000"],
    ]
    assert list(figure.data[0].cells.align) == ["left", "right", "right"]
    with pytest.raises(Refused):
        table([])


def test_names_with_angle_brackets_are_shown_as_they_are():
    figure = table([{"a<b": "<i>x</i> & y"}])
    assert list(figure.data[0].header.values) == ["<b>a&lt;b</b>"]
    assert list(figure.data[0].cells.values[0]) == ["&lt;i&gt;x&lt;/i&gt; &amp; y"]


def test_a_dict_as_a_table():
    one = pairs({"lr": 0.5, "method": "mae"}, "setting", "value")
    assert [list(column) for column in one.data[0].cells.values] == [["lr", "method"], ["0.5000", "mae"]]
    two = pairs({"a": (1, None)}, "name", "first", "second")
    assert [list(column) for column in two.data[0].cells.values] == [["a"], ["1"], ["–"]]
    with pytest.raises(ValueError):
        pairs({"a": (1, 2)}, "name", "first")


def test_a_word_is_not_cut_however_many_columns_there_are():
    names = {f"run_{k}": "finished" for k in range(30)}
    widths = table([{"setting": "mask_args.sampler_of_blocks"} | names]).data[0].columnwidth
    letter = 6.3  # pixels, at the most
    assert widths[0] >= letter * len("mask_args.sampler_of_blocks") and max(widths[1:]) < 20 * letter


def test_titles_are_not_cut_and_what_stands_above_a_column_has_its_edges():
    figure = table([{"method": "dino", "COCO (%)": 71.9}], title="iNaturalist 2019, top-1 after pre-training on")
    assert figure.layout.width >= 8 * len(figure.layout.title.text)
    assert figure.data[0].columnwidth[1] >= 8.5 * len("COCO (%)") + 16  # bold, and plotly's room on both sides
    assert figure.layout.height == 28 + 26 + 56


def test_the_height_counts_names_of_several_lines():
    names = {f"quantity {k} of the run": 1.0 for k in range(12)}
    assert table([names]).layout.height > 28 + 26 + 20


def test_a_short_row_takes_one_line():
    assert table([{"run": "cim_respix"}] * 5).layout.height == 28 + 26 * 5 + 20
