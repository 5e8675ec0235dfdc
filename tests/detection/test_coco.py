"""COCO's format from folders and zips: masks, crowds, empty images, classes, and what is refused."""

import io
import json
import os
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from mimlab.detection import data
from mimlab.detection.data import coco, scenes
from mimlab.errors import Refused

SQUARE = [[2.0, 3.0, 8.0, 3.0, 8.0, 7.0, 2.0, 7.0]]  # x, y


def png(width=12, height=10):
    file = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 99, np.uint8)).save(file, "PNG")
    return file.getvalue()


def table():
    images = [
        {"id": k, "file_name": f"{k}.png", "width": 12, "height": 10, "split": split}
        for k, split in ((7, "train"), (8, "train"), (9, "val"))
    ]
    listed = {"size": [10, 12], "counts": [0, 10, 110]}  # the first column
    objects = [
        {
            "id": 1,
            "image_id": 7,
            "category_id": 44,
            "bbox": [2, 3, 6, 4],
            "area": 24,
            "iscrowd": 0,
            "segmentation": SQUARE,
        },
        {
            "id": 2,
            "image_id": 7,
            "category_id": 2,
            "bbox": [0, 0, 1, 10],
            "area": 10,
            "iscrowd": 1,
            "segmentation": listed,
        },
        {"id": 3, "image_id": 9, "category_id": 44, "bbox": [0, 0, 12, 10], "area": 5, "iscrowd": 0},
        {
            "id": 4,
            "image_id": 9,
            "category_id": 90,
            "bbox": [0, 0, 2, 2],
            "area": 4,
            "iscrowd": 0,
            "segmentation": SQUARE,
        },
    ]
    names = [{"id": 2, "name": "cat"}, {"id": 44, "name": "dog"}, {"id": 90, "name": "never trained"}]
    return {"images": images, "annotations": objects, "categories": names}


@pytest.fixture
def pack(tmp_path):
    def make(content, names=("7.png", "8.png", "9.png"), pixels=None):
        path = tmp_path / "pack.zip"
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("instances.json", content if isinstance(content, str) else json.dumps(content))
            for name in names:
                file.writestr(name, pixels or png())
        return str(path)

    return make


def test_a_zip(pack):
    train, test = (data.open("coco", split, {"path": pack(table())}) for split in ("train", "test"))
    assert test.shared(train) == 1  # all files have the same bytes here
    assert train.classes == test.classes == ["cat", "dog"] and (len(train), len(test)) == (2, 1)
    picture = train.item(0)
    assert picture.labels.tolist() == [2, 1] and picture.boxes.tolist() == [[2, 3, 8, 7], [0, 0, 1, 10]]
    want = torch.zeros(10, 12, dtype=torch.uint8)
    want[3:7, 2:8] = 1
    assert torch.equal(picture.masks[0], want) and picture.masks[1, :, 0].all() and picture.masks[1].sum() == 10
    target = picture.target()  # the crowd is not trained on
    assert target["labels"].tolist() == [2] and target["masks"].shape == (1, 10, 12)
    labels = picture.semantic()
    assert (labels[:, 0] == 255).all() and (labels[3:7, 2:8] == 2).all() and labels[0, 5] == 0
    empty = train.item(1)
    assert empty.boxes.shape == (0, 4) and empty.masks.shape == (0, 10, 12) and empty.target()["labels"].shape == (0,)
    only = test.item(0)  # the class that training never shows is left out; without a mask the box is one
    assert only.labels.tolist() == [2] and only.masks.all() and only.areas.tolist() == [5]


def test_run_lengths_as_text_and_several_polygons():
    from faster_coco_eval import mask

    want = np.zeros((10, 12), np.uint8)
    want[3:7, 2:8] = 1
    packed = mask.encode(np.asfortranarray(want))
    packed["counts"] = packed["counts"].decode() if isinstance(packed["counts"], bytes) else packed["counts"]
    assert np.array_equal(coco.decode(packed, None, 10, 12), want)
    two = coco.decode([*SQUARE, [10.0, 0.0, 12.0, 0.0, 12.0, 2.0, 10.0, 2.0]], None, 10, 12)
    assert two.sum() == want.sum() + 4 and two[0, 11] == 1
    with pytest.raises(Refused, match="lies on an image of 20 x 12"):
        coco.decode(packed, None, 20, 12)


def test_a_folder_as_coco_lays_it_out(tmp_path):
    both = table()
    for one in both["images"]:
        split = "train" if one.pop("split") == "train" else "val"
        (tmp_path / f"{split}2017").mkdir(exist_ok=True)
        (tmp_path / f"{split}2017" / one["file_name"]).write_bytes(png())
    (tmp_path / "annotations").mkdir()
    for split, ids in (("train", (7, 8)), ("val", (9,))):
        own = both | {"images": [one for one in both["images"] if one["id"] in ids]}
        (tmp_path / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(own))
    (tmp_path / "annotations" / "captions_val2017.json").write_text("{}")
    train = coco.open("train", path=tmp_path)
    assert train.names == ["train2017/7.png", "train2017/8.png"]
    assert len(train) == 2 and train.item(0).labels.tolist() == [2, 1]
    (tmp_path / "val2017" / "9.png").write_bytes(png() + b"other")
    test = coco.open("test", path=tmp_path)
    assert len(test) == 1 and test.shared(train) == 0
    assert coco.open("test", path=tmp_path, images="val2017").names == test.names
    (tmp_path / "val2017" / "9.png").write_bytes(png())
    assert test.shared(train) == 1
    (tmp_path / "images").mkdir()
    (tmp_path / "train2017").rename(tmp_path / "images" / "train2017")
    for images in (None, "images"):
        assert coco.open("train", path=tmp_path, images=images).names[0] == "images/train2017/7.png"
    with pytest.raises(Refused, match=r"no file 'elsewhere/7.png'.*option images"):
        coco.open("train", path=tmp_path, images="elsewhere")


def test_two_folders_may_use_the_same_names(tmp_path):
    both = table()
    for split, number in (("train", 7), ("val", 9)):
        images = [one | {"file_name": "1.png", "split": None} for one in both["images"] if one["id"] == number]
        for one in images:
            del one["split"]
        (tmp_path / split).mkdir()
        (tmp_path / split / "1.png").write_bytes(png() + split.encode())
        (tmp_path / f"instances_{split}.json").write_text(json.dumps(both | {"images": images}))
    assert coco.open("train", path=tmp_path).names == ["train/1.png"]
    assert coco.open("test", path=tmp_path).names == ["val/1.png"]


def test_refusals(pack, tmp_path):
    broken = table()
    broken["images"][0]["file_name"] = "../7.png"
    unmarked = table()
    for one in unmarked["images"]:
        del one["split"]
    twice = table()
    twice["images"].append(twice["images"][0] | {"id": 10, "split": "val"})
    strange = table()
    strange["annotations"][0]["category_id"] = 5
    for content, said in (
        (broken, "points outside"),
        (twice, "1 images are in both splits, such as '7.png'"),
        (strange, r"categories \[5\], which it does not name"),
        (unmarked, "marks no image as train or test"),
        ("{", "not COCO's format"),
        ({"images": []}, "not COCO's format"),
        (table() | {"annotations": []}, "no annotated object"),
    ):
        with pytest.raises(Refused, match=said):
            coco.open("train", path=pack(content))
    with pytest.raises(Refused, match=r"no file '8.png'"):
        coco.open("train", path=pack(table(), names=("7.png", "9.png")))
    with pytest.raises(Refused, match="cannot be decoded"):
        coco.open("train", path=pack(table(), pixels=b"no image")).item(0)
    with pytest.raises(Refused, match="10 x 12"):
        coco.open("train", path=pack(table(), pixels=png(6, 6))).item(0)
    with pytest.raises(Refused, match="does not exist"):
        coco.open("train", path=tmp_path / "nowhere")
    with pytest.raises(Refused, match="needs the option 'path'"):
        data.open("coco", "train", {})


@pytest.mark.packs
def test_the_packs():
    for name, counts, classes, shared in (
        ("coco-ccby-157-320", (82, 75), 67, 2),  # 397133 and 6818 are in both splits
        ("coco-mini-553-320", (292, 261), 80, 3),  # and 184321
    ):
        path = os.path.join(os.environ["MIMLAB_DATA_DIR"], f"{name}.zip")
        train, test = (data.open("coco", split, {"path": path}) for split in ("train", "test"))
        assert (len(train), len(test)) == counts and len(train.classes) == classes and test.shared(train) == shared
        close = []
        for index in range(0, len(test), 5):
            picture = test.item(index)
            for box, mask in zip(picture.boxes, picture.masks, strict=True):
                close.append((torch.tensor(scenes.box(mask.numpy().astype(bool))) - box).abs().max() <= 2)
        assert len(close) > 80 and sum(close) > 0.95 * len(close)  # masks fill their boxes
