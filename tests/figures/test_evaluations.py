import pytest

from mimlab.errors import Refused
from mimlab.figures.evaluations import bars, beside


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


def test_protocols_have_panels_of_their_own():
    figure = beside({"knn": {"mae": [40.0, 42.0]}, "finetune": {"mae": [80.0], "dino<": [70.0]}}, chance={"knn": 20.0})
    heads = [a.text for a in figure.layout.annotations]
    assert heads[:2] == ["knn", "finetune"] and heads.count("not evaluated") == 1
    bars = {(trace.xaxis, trace.y[0]): trace.x[0] for trace in figure.data if trace.type == "bar"}
    assert bars == {("x", "mae"): 41.0, ("x2", "mae"): 80.0, ("x", "dino&lt;"): None, ("x2", "dino&lt;"): 70.0}
    assert figure.layout.xaxis.title.text == "%; dashed: chance, 20"
    assert figure.layout.xaxis2.title.text == "%"
    assert [shape.x0 for shape in figure.layout.shapes] == [20.0]
    assert "no evaluations yet" in beside({}).layout.annotations[0].text
