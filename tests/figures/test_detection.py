import numpy as np
import pytest
import torch

from mimlab.detection.data import annotated
from mimlab.errors import Refused
from mimlab.figures import detection as figures

NAMES = ["cat", "dog"]


def picture(labels=(1, 2), size=(40, 80)):
    masks = torch.zeros(len(labels), *size, dtype=torch.uint8)
    boxes = [[10 * k, 10, 10 * k + 8, 30] for k in range(len(labels))]
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = 1
    return annotated(boxes, list(labels), masks, torch.full((3, *size), 100, dtype=torch.uint8))


def found(one, scores):
    return {"boxes": one.boxes, "labels": one.labels, "masks": one.masks.bool(), "scores": torch.tensor(scores)}


def test_true_beside_found():
    one = picture()
    figure = figures.objects([one], [found(one, [0.9, 0.3])], NAMES, least=0.5)
    assert len(figure.layout.images) == 2
    lines = {trace.name: trace for trace in figure.data if trace.mode == "lines"}
    assert set(lines) == {"cat", "dog"}
    assert len(lines["cat"].x) == 12 and len(lines["dog"].x) == 6  # the second is below the score
    left, right = (lines["dog"].x[k] for k in (0, 1))
    assert (left, right) == (pytest.approx(0.01 + 0.98 * 10 / 80), pytest.approx(0.01 + 0.98 * 18 / 80))
    assert lines["dog"].y[0] == pytest.approx(0.98 * 10 / 80)
    assert "cat 0.90" in lines["cat"].text


def test_masks_are_painted_in_the_colour_of_their_class(decode):
    figure = figures.objects([picture((2,))], None, NAMES)
    pixels = decode(figure.layout.images[0].source)
    scale = pixels.shape[1] // 80
    paint = np.array([int(figures.colour(2, 2)[k : k + 2], 16) for k in (1, 3, 5)])
    want = 0.55 * 100 + 0.45 * paint
    assert np.abs(pixels[20 * scale, 4 * scale] - want).max() < 3 and np.abs(pixels[1, -1] - 100).max() < 2


def test_many_classes_have_colours_and_no_legend():
    names = [f"c{k}" for k in range(80)]
    assert len({figures.colour(k, 80) for k in range(1, 81)}) == 80
    figure = figures.objects([picture((3, 77))], None, names)
    assert not any(trace.showlegend for trace in figure.data)
    assert {text for trace in figure.data if trace.mode == "text" for text in trace.text} == {"c2", "c76"}


def test_images_without_objects_and_none_at_all():
    empty = picture(())
    figure = figures.objects([empty], [found(empty, [])], NAMES)
    assert len(figure.layout.images) == 2 and not figure.data
    with pytest.raises(Refused, match="none to show"):
        figures.objects([], None, NAMES)


def test_classes_of_pixels(decode):
    one = picture((1,))
    labels = torch.zeros(40, 80, dtype=torch.int64)
    labels[:, 40:] = 2
    figure = figures.segments([one], [labels], NAMES)
    plain, true, got = (decode(image.source) for image in figure.layout.images)
    assert (plain == 100).all() and (true != 100).any() and (got[:, -1] != 100).any() and (got[:, 0] == 100).all()


def test_curves_and_tables():
    curve = {"0.5": [1.0] * 101, "0.75": [0.0] * 101}
    numbers = {f"{kind}_{name}": 12.34 for kind in ("box", "mask") for name in figures.NUMBERS} | {"box_ap_large": None}
    result = {"curves": {"box": curve, "mask": curve}, "numbers": numbers}
    figure = figures.precision_recall({"scratch": result, "mae": result}, "box")
    assert [trace.name for trace in figure.data] == [
        f"{n}, IoU {t}" for n in ("scratch", "mae") for t in ("0.5", "0.75")
    ]
    assert figure.data[0].x[-1] == 1 and len(figure.data[0].x) == 101
    cells = figures.precision_table({"scratch": result}).data[0].cells.values
    assert list(cells[1]) == ["box", "mask"] and list(cells[-1]) == ["–", "12.30"]
    bars = figures.class_bars({"curves": {"iou": {"a": [30.0], "b": [10.0]}}, "numbers": {"miou": 20.0}})
    assert list(bars.data[0].y) == ["b", "a"] and "20.0 %" in bars.layout.title.text
