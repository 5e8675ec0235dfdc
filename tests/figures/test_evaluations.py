import pytest

from mimlab.errors import Refused
from mimlab.figures.evaluations import bars


def test_bars_are_means_and_points_are_seeds():
    figure = bars({"mae": [40.0, 42.0], "splitmask": [45.0]}, title="k-NN", chance=10)
    assert list(figure.data[0].y) == [41.0, 45.0]
    assert list(figure.data[1].x) == ["mae", "mae", "splitmask"] and list(figure.data[1].y) == [40, 42, 45]
    texts = [a.text for a in figure.layout.annotations]
    assert texts == ["41.0%<br>± 1.4", "45.0%", "chance (10%)"]
    assert figure.layout.shapes[0].y0 == 10


def test_missing_results_are_said_and_not_drawn():
    figure = bars({"mae": [40.0, float("nan"), None], "dino": []})
    assert list(figure.data[0].y) == [40.0, None]
    assert [a.text for a in figure.layout.annotations] == ["40.0%", "no result"]
    assert bars({"dino": []}).layout.annotations[0].text == "no results yet"
    with pytest.raises(Refused):
        bars({})


def test_other_units_and_single_numbers():
    assert bars({"speed": 812.0}, unit="images/s").layout.annotations[0].text == "812.0 images/s"
