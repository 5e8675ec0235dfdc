"""Folders and zips of images, and every way in which they can be wrong."""

import json
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from mimlab import data
from mimlab.errors import Refused


def put(root, names):
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), i).save(root / name)
    return root


def pack(path, columns, rows, files=None, index=None):
    picture = path.with_suffix(".png")
    Image.new("RGB", (4, 4), "green").save(picture)
    with zipfile.ZipFile(path, "w") as file:
        for name in [row[0] for row in rows] if files is None else files:
            file.write(picture, name)
        file.writestr("index.json", json.dumps({"columns": columns, "rows": rows}) if index is None else index)
    return path


def opened(path, split="train", **options):
    return data.open("folder", split, size=4, path=path, **options)


def shades(images):
    return sorted(images.get(np.arange(len(images)))[:, 0, 0, 0].tolist())


def test_bare_folder_has_no_labels(tmp_path):
    put(tmp_path, [f"{i}.png" for i in range(10)])
    train, test = opened(tmp_path), opened(tmp_path, "test")
    assert train.labels is None and len(train) == 8 and len(test) == 2
    assert shades(train) != shades(test) and sorted(shades(train) + shades(test)) == list(range(10))


def test_class_folders_and_held_out_share(tmp_path):
    put(tmp_path, [f"{c}/{i}.png" for c in "zab" for i in range(10)] + [".hidden/x.png", "a/.y.png"])
    train, test = opened(tmp_path, holdout=0.3), opened(tmp_path, "test", holdout=0.3)
    assert train.classes == test.classes == ["a", "b", "z"]
    assert np.bincount(train.labels).tolist() == [7, 7, 7] and np.bincount(test.labels).tolist() == [3, 3, 3]
    assert sorted(shades(train) + shades(test)) == list(range(30))


@pytest.mark.parametrize("name", ["test", "val", "validation"])
def test_split_folders(tmp_path, name):
    put(tmp_path, ["train/a/0.png", "train/b/1.png", "train/c/2.png", f"{name}/b/3.png"])
    train, test = opened(tmp_path), opened(tmp_path, "test")
    assert (shades(train), shades(test)) == ([0, 1, 2], [3])
    assert test.classes == ["a", "b", "c"] and test.labels.tolist() == [1]
    assert shades(opened(tmp_path, name)) == [3]


def test_train_folder_alone_is_held_out_from(tmp_path):
    put(tmp_path, [f"train/a/{i}.png" for i in range(10)])
    assert len(opened(tmp_path)) == 8 and len(opened(tmp_path, "test")) == 2


def test_a_class_called_train(tmp_path):
    put(tmp_path, ["train/0.png", "boat/1.png"])
    assert opened(tmp_path, holdout=0).classes == ["boat", "train"]


def test_link_to_a_folder_above_ends(tmp_path):
    put(tmp_path, ["a/0.png", "b/1.png"])
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    assert len(opened(tmp_path, holdout=0)) == 2


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (lambda p: p / "nowhere", {}, "does not exist"),
        (lambda p: p, {}, "holds no image"),
        (lambda p: put(p, ["a/0.png", "1.png"]), {}, "1 images lie beside the class folders (1.png)"),
        (lambda p: put(p, ["0.png"]), {"split": "test"}, "leaves it no image"),
        (lambda p: put(p, ["0.png"]), {"holdout": 1}, "holdout = 1"),
        (lambda p: put(p, ["0.png"]), {"split": "dev"}, "only train and test"),
        (lambda p: put(p, ["train/a/0.png", "test/a/0.png"]), {"split": "dev"}, "there are: test, train"),
        (lambda p: put(p, ["0.png"]) / "0.png", {}, "neither a folder nor a .zip"),
    ],
)
def test_folder_refused(tmp_path, make, options, said):
    with pytest.raises(Refused) as caught:
        opened(make(tmp_path), **options)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_label_none_takes_any_folder(tmp_path):
    put(tmp_path, ["a/0.png", "1.png"])
    assert opened(tmp_path, label=None, holdout=0).labels is None


def test_zip_with_everything(tmp_path):
    rows = [
        ["x.png", "dog", "train", "old"],
        ["s/y.png", "cat", "train", "new"],
        ["z.png", "dog", "test", "new"],
    ]
    path = pack(tmp_path / "p.zip", ["file", "label", "split", "age"], rows)
    assert opened(path).labels.tolist() == [1, 0] and opened(path, "test").labels.tolist() == [1]
    assert opened(path, label="age").classes == ["new", "old"]
    assert len(opened(path, "new", split_column="age")) == 2
    assert len(opened(path, split_column=None, holdout=0)) == 3
    assert len(opened(path, train_split="old", test_split="new", split_column="age")) == 1
    assert len(opened(path, "test", train_split="old", test_split="new", split_column="age")) == 2


def test_zip_without_optional_columns(tmp_path):
    path = pack(tmp_path / "p.zip", ["file"], [[f"{i}.png"] for i in range(5)])
    assert opened(path).labels is None and len(opened(path)) == 4


def test_one_split_for_all_splits_nothing(tmp_path):
    path = pack(tmp_path / "p.zip", ["file", "split"], [[f"{i}.png", "all"] for i in range(10)])
    assert len(opened(path)) == 8 and len(opened(path, "test")) == 2


def test_moved_zip_is_the_same_set(tmp_path, home):
    path = pack(tmp_path / "p.zip", ["file"], [["0.png"]])
    opened(path, holdout=0)
    from mimlab.data import folder

    before = folder.fingerprint("train", path=path)
    path.rename(tmp_path / "q.zip")
    assert folder.fingerprint("train", path=tmp_path / "q.zip") == before


FILE, ROWS = ["file", "label", "split"], [["a.png", "x", "photo"], ["b.png", "y", "sketch"]]


@pytest.mark.parametrize(
    ("columns", "rows", "files", "index", "options", "said"),
    [
        (FILE, ROWS, None, None, {}, "no split 'train'"),
        (FILE, ROWS, None, None, {}, "there are: photo, sketch"),
        (FILE, ROWS, None, None, {"label": "kind"}, "there are: file, label, split"),
        (FILE, ROWS, None, None, {"split_column": "kind"}, "split_column = 'kind'"),
        (FILE, ROWS, ["a.png"], None, {}, "'b.png', which is not in the zip"),
        (FILE, [["../a.png", "x", "train"]], None, None, {}, "points outside"),
        (FILE, [["/a.png", "x", "train"]], ["a.png"], None, {}, "points outside"),
        (FILE, [["a\\..\\b.png", "x", "train"]], ["a.png"], None, {}, "points outside"),
        (FILE, [["a.png"]], None, None, {}, "index.json should be"),
        (FILE, [], None, None, {}, "lists no file"),
        (["name"], [["a.png"]], None, None, {}, "lists no file"),
        (FILE, ROWS, None, "{]", {}, "index.json should be"),
        (FILE, ROWS, None, "[]", {}, "index.json should be"),
        (FILE, ROWS, None, "{}", {}, "index.json should be"),
    ],
)
def test_zip_refused(tmp_path, columns, rows, files, index, options, said):
    with pytest.raises(Refused) as caught:
        opened(pack(tmp_path / "p.zip", columns, rows, files, index), **options)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_zip_without_index_and_no_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "bare.zip", "w") as file:
        file.writestr("a.txt", "a")
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(Refused, match="has no index"):
        opened(tmp_path / "bare.zip")
    with pytest.raises(Refused, match="not a zip file"):
        opened(tmp_path / "text.zip")


def test_damaged_member(tmp_path):
    path = pack(tmp_path / "p.zip", ["file"], [["0.png"], ["1.png"]])
    raw = bytearray(path.read_bytes())
    raw[45] ^= 0xFF  # inside the first stored file: its checksum no longer fits
    path.write_bytes(raw)
    with pytest.raises(Refused, match="cannot be unpacked"):
        opened(path, holdout=0)


@pytest.mark.packs
def test_caltech20():
    path = os.path.join(os.environ["MIMLAB_DATA_DIR"], "caltech20-64.zip")
    train = data.open("folder", size=32, path=path)
    test = data.open("folder", "test", size=32, path=path)
    assert (len(train), len(test), len(train.classes)) == (880, 400, 20)
    assert np.bincount(test.labels).tolist() == [20] * 20
    tenth = data.open("folder", size=32, path=path, fraction=0.1)
    assert np.bincount(tenth.labels, minlength=20).min() >= 1
    assert 60 < train.get(np.arange(880)).float().mean() < 200


@pytest.mark.packs
def test_pacs_domains():
    path = os.path.join(os.environ["MIMLAB_DATA_DIR"], "pacs-64.zip")
    with pytest.raises(Refused, match="art_painting, cartoon, photo, sketch"):
        data.open("folder", size=16, path=path)
    domains = dict(size=16, path=path, train_split="photo", test_split="sketch")
    assert len(data.open("folder", "train", **domains)) == 1670
    assert len(data.open("folder", "test", **domains)) == 3929
