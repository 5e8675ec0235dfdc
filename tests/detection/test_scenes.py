"""Drawn scenes: exact masks, a pure function of the index, nothing shared between the splits."""

import numpy as np
import pytest
import torch

from mimlab.data import emoji
from mimlab.detection import data
from mimlab.detection.data import scenes
from mimlab.errors import Refused


@pytest.fixture(scope="module")
def train():
    return data.open("scenes", "train", {"size": 64, "train": 20, "test": 10})


def test_boxes_are_those_of_the_visible_pixels(train):
    counts = []
    for index in range(12):
        picture = train.item(index)
        assert picture.image.shape == (3, 64, 64) and picture.image.dtype == torch.uint8
        assert (picture.masks.sum(0) <= 1).all()  # a pixel is of one object
        for box, mask, area in zip(picture.boxes.tolist(), picture.masks, picture.areas, strict=True):
            rows, columns = np.nonzero(mask.numpy())
            assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert float(area) == len(rows) >= scenes.PIXELS
        assert int(picture.labels.min()) >= 1 and int(picture.labels.max()) <= 5
        counts.append(len(picture.labels))
    assert max(counts) > 3 and min(counts) >= 1


def test_an_image_depends_on_its_index_alone(train):
    again = data.open("scenes", "train", {"size": 64, "train": 8, "test": 10})
    assert torch.equal(train.item(5).image, again.item(5).image)
    assert not torch.equal(train.item(5).image, train.item(6).image)
    other = data.open("scenes", "train", {"size": 64, "seed": 1})
    assert not torch.equal(train.item(5).image, other.item(5).image)
    with pytest.raises(IndexError):
        again.item(8)


def test_the_splits_share_neither_drawings_nor_pixels_of_photographs(monkeypatch):
    drawn = {split: scenes._emoji(split, "group")[0] for split in ("train", "test")}
    assert {split: len(found) for split, found in drawn.items()} == {
        "train": len(emoji.load("train")),
        "test": len(emoji.load("test")),
    }
    hashes = [{picture.tobytes() for picture in found} for found in drawn.values()]
    assert not hashes[0] & hashes[1]
    from PIL import Image

    width = 1000
    ramp = Image.fromarray(np.broadcast_to(np.linspace(0, 255, width)[None, :, None], (300, width, 3)).astype(np.uint8))
    monkeypatch.setattr(scenes, "_photographs", lambda: [ramp])
    for split, inside in (("train", (0, 255 * 0.651)), ("test", (255 * 0.649, 255))):
        draw = np.random.default_rng(0)
        seen = np.concatenate([scenes._background(split, 32, draw).ravel() for _ in range(40)])
        assert inside[0] <= seen.min() + 1 and seen.max() - 1 <= inside[1] and np.ptp(seen) > 40


def test_object_layout_and_classes():
    centred = data.open("scenes", "test", {"layout": "object", "classes": "any", "size": 64})
    assert centred.classes == ["emoji"]
    for index in range(5):
        picture = centred.item(index)
        assert len(picture.labels) == 1 and 0.02 < float(picture.areas) / 64**2 < 0.75
        middle = (picture.boxes[0, :2] + picture.boxes[0, 2:]) / 2
        assert (middle - 32).abs().max() < 16 and float((picture.boxes[0, 2:] - picture.boxes[0, :2]).max()) > 20
    each = [data.open("scenes", split, {"classes": "emoji"}) for split in ("train", "test")]
    assert len(each[0].classes) == 20 == len(set(each[0].classes)) and each[0].classes == each[1].classes


def test_labels_of_pixels(train):
    picture = train.item(0)
    labels = picture.semantic()
    for label, mask in zip(picture.labels, picture.masks, strict=True):
        assert (labels[mask.bool()] == label).all()
    assert (labels[picture.masks.sum(0) == 0] == 0).all()


def test_mirroring(train):
    picture = train.item(1)
    mirrored = picture.flipped()
    for box, mask in zip(mirrored.boxes.tolist(), mirrored.masks, strict=True):
        assert box == [float(v) for v in scenes.box(mask.numpy().astype(bool))]
    assert torch.equal(mirrored.flipped().image, picture.image) and torch.equal(mirrored.flipped().boxes, picture.boxes)


def test_the_same_images_without_labels_for_pretraining(train):
    from mimlab import data as plain

    images = plain.open("mimlab.detection.data.scenes", "train", size=64, **{"train": 4})
    assert len(images) == 4 and images.labels is None
    drawn = data.open("scenes", "train", {"train": 4})
    assert plain.source("mimlab.detection.data.scenes").fingerprint("train", train=4) == drawn.fingerprint


def test_single_objects_have_the_class_as_label():
    from mimlab import data as plain

    options = {"train": 6, "layout": "object", "classes": "emoji"}
    images, drawn = (
        plain.open("mimlab.detection.data.scenes", "train", size=64, **options),
        data.open("scenes", "train", options),
    )
    assert images.classes == drawn.classes
    assert images.labels.tolist() == [int(drawn.item(index).labels) - 1 for index in range(6)]


def test_refusals():
    for options, said in (
        ({"layout": "scen"}, "did you mean 'scene'"),
        ({"size": 8}, "from 32 to 1024"),
        ({"n": 1}, "no option 'n'"),
    ):
        with pytest.raises(Refused, match=said):
            data.open("scenes", "train", options)
    with pytest.raises(Refused, match="scenes has train and test"):
        data.open("scenes", "val", {})
