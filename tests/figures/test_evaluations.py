from mimlab.figures.evaluations import beside


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


def test_what_needs_no_skill_is_drawn_and_named():
    figure = beside({"knn": {"mae": [40.0]}}, chance={"knn": {"chance": 25.0, "most frequent class": 97.4}})
    assert figure.layout.xaxis.title.text == "%; dashed: chance, 25; dotted: most frequent class, 97.4"
    assert [shape.x0 for shape in figure.layout.shapes] == [25.0, 97.4]
