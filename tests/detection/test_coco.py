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


# -- what other programs write ---------------------------------------------------------------------


def changed(image=(), **change):
    """`table()` with keys of image 7 and of object 1 changed, or left out where the value is `...`."""
    both = table()
    for one, new in ((both["images"][0], dict(image)), (both["annotations"][0], change)):
        one.update(new)
        for key in [key for key, value in new.items() if value is ...]:
            del one[key]
    return both


RUNS = {"size": [10, 12], "counts": [15, 4, 101]}


@pytest.mark.parametrize(
    "content",
    [
        changed(bbox=...),
        changed(bbox=None),
        changed(bbox=[]),
        changed(bbox=["2", "3", "6", "4"]),
        changed(area=...),
        changed(area=None),
        changed(iscrowd=...),
        changed(iscrowd=None),
        changed(iscrowd=False),
        changed(segmentation=SQUARE[0]),  # flat
        changed({"width": ..., "height": ...}),
        changed({"width": None, "height": None}),
        changed({"width": "12", "height": "10"}),
        changed({"width": 12.0, "height": 10.0}),
        changed(id=...),
    ],
)
def test_keys_that_may_be_missing_come_from_elsewhere(pack, content):
    picture = coco.open("train", path=pack(content)).item(0)
    assert picture.boxes[0].tolist() == [2, 3, 8, 7] and picture.areas[0] == 24 and picture.masks[0].sum() == 24
    assert not picture.crowd[0]


@pytest.mark.parametrize("gone", [{"segmentation": ...}, {"segmentation": None}, {"segmentation": []}, {"segmentation": {}}, {"segmentation": [[]]}])  # fmt: skip
def test_without_a_mask_the_box_is_one(pack, gone):
    picture = coco.open("train", path=pack(changed(area=..., **gone))).item(0)
    assert picture.masks[0].sum() == 24 and picture.areas[0] == 24


def test_categories_without_a_name(pack):
    both = table()
    del both["categories"][0]["name"]
    both["categories"][1]["name"] = None
    assert coco.open("train", path=pack(both)).classes == ["2", "44"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (changed(bbox=[1, 2, 3]), r"bbox = \[1, 2, 3\] is not \[left"),
        (changed(bbox="x"), "bbox = 'x' is not"),
        (changed(bbox=[1, 2, "x", 4]), "bbox = 'x' is no number"),
        (changed(bbox=[1, 2, -3, 4]), "negative side"),
        (changed(bbox=[1, 2, float("nan"), 4]), "bbox = nan is no number"),
        (changed(bbox=[1, 2, None, 4]), "bbox = None is no number"),
        (changed(bbox=..., segmentation=...), "neither bbox nor segmentation"),
        (changed(area="big"), "area = 'big' is no number"),
        (changed(area=-1), "area = -1 is no number"),
        (changed(iscrowd=7), "iscrowd = 7"),
        (changed(segmentation=[[1, 2, 3]]), "no polygon"),
        (changed(segmentation=[1, 2, 3, 4]), "no polygon"),
        (changed(segmentation=[[[1, 2], [3, 4], [5, 6]]]), "no polygon|no number"),
        (changed(segmentation=[[1, 2, 3, "x", 5, 6]]), "segmentation = 'x' is no number"),
        (changed(segmentation="x"), "neither polygons nor"),
        (changed(segmentation=RUNS | {"size": [12, 10]}), "lies on an image of 10 x 12"),
        (changed(segmentation=RUNS | {"size": "x"}), "neither polygons nor"),
        (changed(segmentation=RUNS | {"counts": [15, 4, 1000]}), "the runs of its mask are of 1,019 pixels"),
        (changed(segmentation=RUNS | {"counts": [15, -4, 109]}), "a run of its mask = -4"),
        (changed(segmentation=RUNS | {"counts": None}), "counts = None"),
        (changed({"width": "x"}), "size of '7.png' = 'x'"),
        (changed({"width": 11}), "has 10 x 12 pixels, its JSON says 10 x 11"),
        (changed({"width": -5}), "size of '7.png' = -5"),
        (changed({"file_name": 3}), "file_name = 3 is no name"),
        (changed({"file_name": None}), "file_name = None is no name"),
        (changed({"file_name": ...}), "not COCO's format"),
        (changed(category_id=...), "not COCO's format"),
        (changed(image_id=...), "not COCO's format"),
        (changed(category_id=[1]), "not COCO's format"),
        (table() | {"annotations": {}}, "not COCO's format"),
        (table() | {"annotations": [3]}, "not COCO's format"),
        (table() | {"images": [None]}, "not COCO's format"),
        (table() | {"categories": None}, "not COCO's format"),
        ("[" * 100_000, "not COCO's format"),
        ("null", "not COCO's format"),
    ],
)
def test_what_makes_no_sense_is_refused_at_opening(pack, content, said):
    with pytest.raises(Refused, match=said) as caught:
        coco.open("train", path=pack(content))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1200


def test_damaged_run_lengths_as_text_are_refused_and_others_are_read(pack):
    from faster_coco_eval import mask

    draw = np.random.default_rng(0)
    for _ in range(30):
        want = (draw.random((10, 12)) < 0.4).astype(np.uint8)
        packed = mask.encode(np.asfortranarray(want))
        packed["counts"] = packed["counts"].decode() if isinstance(packed["counts"], bytes) else packed["counts"]
        found = coco.open("train", path=pack(changed(segmentation=packed))).item(0)
        assert np.array_equal(found.masks[0].numpy(), want)
        text = "".join(chr(c) for c in draw.integers(32, 127, draw.integers(1, 9)))
        with pytest.raises(Refused, match="mask"):
            coco.open("train", path=pack(changed(segmentation=packed | {"counts": text})))


@pytest.mark.parametrize("option", [{"most": "x"}, {"most": 0}, {"most": True}, {"most": 1.5}, {"images": 3}, {"train_json": []}, {"path": 3}, {"range": [3, 2]}, {"path": ""}])  # fmt: skip
def test_options_that_make_no_sense(pack, option):
    with pytest.raises(Refused, match=next(iter(option))):
        coco.open("train", **({"path": pack(table())} | option))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("told", ["stored", "upright", None])
def test_images_are_turned_unless_only_the_size_as_stored_fits(pack, orientation, told):
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[:10, :10] = 255  # top left as stored
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(file, "png", exif=exif)
    swapped = orientation in (6, 8)
    size = {"stored": (40, 30), "upright": (30, 40) if swapped else (40, 30), None: (None, None)}[told]
    both = table() | {"annotations": [one | {"segmentation": None} for one in table()["annotations"]]}
    for one in both["images"]:
        one["width"], one["height"] = size
    image = coco.open("train", path=pack(both, pixels=file.getvalue())).item(0).image
    turned = not (swapped and told == "stored")
    corner = {1: (0, 0), 3: (-1, -1), 6: (0, -1), 8: (-1, 0)}[orientation if turned else 1]
    assert image.shape[1:] == ((40, 30) if swapped and turned else (30, 40))
    assert image[0, corner[0], corner[1]] == 255 and (image[0] == 255).sum() == 100


def test_a_copy_is_the_same_set_and_other_pixels_are_not(tmp_path):
    import shutil

    def made(folder, value):
        folder.mkdir()
        (folder / "instances.json").write_text(json.dumps(table()))
        for k in (7, 8, 9):
            Image.fromarray(np.full((10, 12, 3), value + k, np.uint8)).save(folder / f"{k}.bmp")
            (folder / f"{k}.bmp").rename(folder / f"{k}.png")
        return folder

    first = coco.open("train", path=made(tmp_path / "a", 0)).fingerprint
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    assert coco.open("train", path=tmp_path / "b").fingerprint == first
    assert coco.open("train", path=made(tmp_path / "c", 1)).fingerprint != first


def test_wide_images_have_one_range_and_serve_pre_training(pack, home):
    from mimlab import data as images

    file = io.BytesIO()
    Image.fromarray(np.full((10, 12), 2048, np.uint16) + np.eye(10, 12, dtype=np.uint16) * 2000).save(file, "png")
    path = pack(table(), pixels=file.getvalue())
    assert coco.open("train", path=path).item(0).image[0, 9, 0] == 128
    assert coco.open("train", path=path, range=[0, 65535]).item(0).image[0, 9, 0] == 8
    assert images.open("mimlab.detection.data.coco", size=8, path=path).get([0])[0, 0, 7, 1] == 128
