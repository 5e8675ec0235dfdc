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


# -- what else lies in people's folders -----------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "test"), ("Train", "Test"), ("TRAIN", "VAL"), ("training", "testing"), ("training_set", "test_set"), ("train2017", "val2017"), ("train", "valid"), ("Training", "dev"), ("train-images", "eval"), ("trn", "evaluation")],
)  # fmt: skip
def test_splits_in_any_spelling(tmp_path, train, test):
    put(tmp_path, [f"{train}/a/0.png", f"{train}/b/1.png", f"{test}/b/2.png"])
    assert shades(opened(tmp_path)) == [0, 1] and shades(opened(tmp_path, "test")) == [2]


@pytest.mark.parametrize("beside", ["unlabeled/x", "previews", "boat/small", "test_a", "@eaDir/x", "$RECYCLE.BIN/S-1", "__MACOSX/train", "lost+found", ".thumbs", "System Volume Information"])  # fmt: skip
@pytest.mark.parametrize("test", ["test", "val"])
def test_a_folder_beside_the_splits_is_no_class_and_is_named(tmp_path, beside, test, capsys):
    put(tmp_path, ["train/a/0.png", "train/b/1.png", f"{test}/a/2.png", f"{beside}/3.png"])
    images = opened(tmp_path)
    assert shades(images) == [0, 1] and images.classes == ["a", "b"] and shades(opened(tmp_path, "test")) == [2]
    top = beside.split("/")[0]
    assert top.startswith(".") or (top in capsys.readouterr().err and top in json.dumps(images.about["left_out"]))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["train/a/0.png", "unlabeled/x/1.png"], "may be a split or a class"),
        (["test/a/0.png", "val/a/1.png"], "no training images"),
        (["test/a/0.png"], "no training images"),
        (["train/a/0.png", "Train/a/1.png", "test/a/2.png"], "Train and train could each be the split train"),
        (["set/train/a/0.png", "set/test/a/1.png"], "holds one folder, 'set', with test, train; give path = "),
        (["train/a/0.png", "train/1.png", "test/a/2.png"], "1 images lie beside the class folders (train/1.png)"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(tmp_path, names, said):
    put(tmp_path, names)
    with pytest.raises(Refused) as caught:
        opened(tmp_path)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    if "could each" not in said and "beside the class" not in said:
        assert len(opened(tmp_path, split_column=None, holdout=0)) == len(names)


def test_named_folders_are_splits(tmp_path):
    put(tmp_path, ["photo/a/0.png", "photo/b/1.png", "sketch/a/2.png", "train/a/3.png"])
    options = {"train_split": "photo", "test_split": "sketch"}
    assert shades(opened(tmp_path, **options)) == [0, 1] and shades(opened(tmp_path, "test", **options)) == [2]
    with pytest.raises(Refused, match="its folders are: photo, sketch, train"):
        opened(tmp_path, train_split="Photo")


def test_val_beside_test_is_left_for_choosing(tmp_path):
    put(tmp_path, ["train/a/0.png", "val/a/1.png", "test/a/2.png"])
    assert shades(opened(tmp_path, "test")) == [2] and shades(opened(tmp_path, "val")) == [1]
    assert shades(opened(tmp_path, "validation")) == [1]


def test_a_test_split_without_labels(tmp_path):
    put(tmp_path, ["train/a/0.png", "train/b/1.png", "test/2.png"])
    assert opened(tmp_path).labels.tolist() == [0, 1] and opened(tmp_path, "test").labels is None


def test_classes_that_one_split_lacks_or_that_differ_in_case_are_told(tmp_path, capsys):
    put(tmp_path, ["train/Cat/0.png", "train/dog/1.png", "test/cat/2.png"])
    images = opened(tmp_path)
    said = capsys.readouterr().err
    assert images.classes == ["Cat", "cat", "dog"] and "upper and lower case only: Cat, cat" in said
    assert "without an image in train: cat" in said and "without an image in test: Cat, dog" in said


def test_what_is_left_out_is_counted_and_kept(tmp_path, capsys):
    put(tmp_path, [f"a/{i}.png" for i in range(5)])
    for name in ("a/notes.txt", "a/more.TXT", "a/image", "a/clip.mpg", "labels.csv", "a/.DS_Store"):
        (tmp_path / name).write_text("x")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "a" / "pipe.png")
    images = opened(tmp_path)
    out = images.about["left_out"]
    assert out["files of other kinds"] == {".txt": 2, ".csv": 1, ".mpg": 1, "no suffix": 1}
    assert out["not regular files"] == ["a/pipe.png"] and out["folders without an image"] == ["empty"]
    assert "left out: files of other kinds: .txt 2" in (said := capsys.readouterr().err) and said.count("\n") == 1
    assert opened(tmp_path).about == images.about and not capsys.readouterr().err  # said once
    (tmp_path / "a" / "new.doc").touch()
    assert opened(tmp_path).about["left_out"]["files of other kinds"][".doc"] == 1  # though the images are the same
    json.dumps(images.about)


def test_links(tmp_path):
    put(tmp_path / "store", ["x/0.png", "x/1.png"])
    (tmp_path / "set").mkdir()
    for name in "ab":
        os.symlink(tmp_path / "store" / "x", tmp_path / "set" / name)
    images = opened(tmp_path / "set", holdout=0)
    assert images.labels.tolist() == [0, 0, 1, 1]
    os.symlink(tmp_path / "set", tmp_path / "store" / "x" / "loop")
    again = opened(tmp_path / "set", holdout=0)
    assert len(again) == 4 and again.about["left_out"]["links to a folder above"] == ["b/loop", "a/loop"][::-1]


def test_links_that_multiply_are_refused(tmp_path):
    for level in range(20):
        (tmp_path / f"d{level}").mkdir()
        for name in "xy" if level < 19 else ():
            os.symlink(tmp_path / f"d{level + 1}", tmp_path / f"d{level}" / name)
    put(tmp_path, ["d19/0.png"])
    with pytest.raises(Refused, match="in more than 1,000 ways"):
        opened(tmp_path / "d0")


@pytest.mark.parametrize("name", [b"caf\xe9", "cafe\u0301".encode(), "\u202eabc".encode(), b"new\nline", b"tab\t\x1b[31m", "日本".encode()])  # fmt: skip
@pytest.mark.parametrize("holdout", [0, 0.4])
def test_names_of_any_bytes(tmp_path, name, holdout):
    root = os.fsencode(tmp_path / "set")
    for i in range(5):
        for part in (b"/a/" + name + b"%d.png" % i, b"/" + name + b"/%d.png" % i):
            os.makedirs(os.path.dirname(root + part), exist_ok=True)
            with open(root + part, "wb") as file:
                Image.new("L", (4, 4), i).save(file, "png")
    images = opened(tmp_path / "set", holdout=holdout)
    assert len(images) == (10 if not holdout else 6) and len(images.classes) == 2
    json.dumps([images.classes, images.about]).encode()
    " ".join(images.classes).encode()
    with open(root + b"/a/" + name + b".png", "wb") as file:
        file.write(b"bad")
    with pytest.raises(Refused) as caught:
        opened(tmp_path / "set", holdout=0)
    assert "a/" in str(caught.value) and str(caught.value).isprintable() and str(caught.value).encode()
    assert len(opened(tmp_path / "set", holdout=0, unreadable="skip").skipped) == 1


def test_accents_composed_in_two_ways_are_one_class_and_one_split(tmp_path):
    put(tmp_path / "mac", ["train/caf\u00e9/0.png", "train/b/1.png", "test/cafe\u0301/2.png"])
    assert opened(tmp_path / "mac", "test").labels.tolist() == opened(tmp_path / "mac").labels.tolist()[1:] == [1]
    for form, word in (("nfc", "\u00e9"), ("nfd", "e\u0301")):
        put(tmp_path / form, [f"a/{word}{i}.png" for i in range(10)])
    one, other = (opened(tmp_path / form) for form in ("nfc", "nfd"))
    assert shades(one) == shades(other) and one.fingerprint == other.fingerprint


def test_the_same_images_elsewhere_are_the_same_set_and_an_edit_is_not(tmp_path):
    import shutil

    put(tmp_path / "one", ["a/0.bmp", "a/1.bmp", "b/2.bmp"])
    first = opened(tmp_path / "one", holdout=0).fingerprint
    shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=shutil.copyfile)
    assert opened(tmp_path / "two", holdout=0).fingerprint == first
    (tmp_path / "one").rename(tmp_path / "three")
    assert opened(tmp_path / "three", holdout=0).fingerprint == first
    file = tmp_path / "two" / "a" / "0.bmp"
    before = file.stat()
    Image.new("L", (4, 4), 200).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # same name, size and time
    assert file.stat().st_size == before.st_size
    edited = opened(tmp_path / "two", holdout=0)
    assert edited.fingerprint != first and edited.get([0])[0, 0, 0, 0] == 200
    (tmp_path / "three" / "a" / "0.bmp").rename(tmp_path / "three" / "b" / "0.bmp")
    assert opened(tmp_path / "three", holdout=0).fingerprint != first  # another class


# -- zips -----------------------------------------------------------------------------------------


def test_a_zip_is_read_as_a_folder_is(tmp_path):
    put(
        tmp_path / "set",
        ["train/a/0.png", "train/b/1.png", "test/a/2.png", "__MACOSX/train/a/3.png", "unlabeled/4.png"],
    )
    with zipfile.ZipFile(tmp_path / "p.ZIP", "w") as pack:
        for file in sorted((tmp_path / "set").rglob("*.png")):
            pack.write(file, file.relative_to(tmp_path / "set"))
        pack.writestr("readme.txt", "x")
        pack.writestr("../out.png", "x")
    images = opened(tmp_path / "p.ZIP")
    assert shades(images) == [0, 1] and shades(opened(tmp_path / "p.ZIP", "test")) == [2]
    out = images.about["left_out"]
    assert set(out) == {"files of other kinds", "system folders", "not regular files", "folders beside the splits"}


def test_members_too_large_to_be_images(tmp_path, monkeypatch):
    from mimlab.data import folder

    monkeypatch.setattr(folder, "MEMBER", 10_000)
    monkeypatch.setattr(folder.unpacked, "__defaults__", (10_000,))
    monkeypatch.setattr(folder, "INDEX", 10_000)
    path = pack(tmp_path / "p.zip", ["file"], [["0.png"], ["big.png"]], files=["0.png"])
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("big.png", bytes(10**6))
    with pytest.raises(Refused, match=r"big.png: unpacked it has 1,000,000 bytes, and 10,000 are the limit"):
        opened(path, holdout=0)
    assert len(opened(path, holdout=0, unreadable="skip")) == 1
    with pytest.raises(Refused, match="index.json: unpacked it has"):
        opened(pack(tmp_path / "q.zip", ["file"], [["0.png"]], index=" " * 20_000))


def test_one_image_named_often_is_read_as_often_and_kept_once(tmp_path):
    path = pack(tmp_path / "p.zip", ["file"], [["0.png"]] * 300, files=["0.png"])
    images = opened(path, holdout=0)
    assert len(images) == 300 and "299 files more than once" in images.about["notes"][0]


@pytest.mark.parametrize("missing", [None, "", float("nan")])
def test_labels_that_are_partly_missing(tmp_path, missing):
    rows = [["0.png", "a"], ["1.png", missing], ["2.png", "b"]]
    path = pack(tmp_path / "p.zip", ["file", "label"], rows)
    with pytest.raises(Refused, match=r"1 of 3 images have no label, such as p.zip/1.png; unreadable='skip'"):
        opened(path, holdout=0)
    images = opened(path, holdout=0, unreadable="skip")
    assert images.labels.tolist() == [0, 1] and images.about["left_out"]["without a label"] == 1
    assert opened(path, holdout=0, label=None).labels is None
    none = pack(tmp_path / "q.zip", ["file", "label"], [["0.png", missing]] * 2, files=["0.png"])
    assert opened(none, holdout=0).labels is None


@pytest.mark.parametrize("index", ['{"columns": ["file", "label"], "rows": [["0.png", ["a", "b"]]]}', '{"columns": [1], "rows": [[1]]}', '{"columns": "file", "rows": 3}', "[" * 100_000, '{"columns": ["file"], "rows": [3]}'])  # fmt: skip
def test_an_index_that_is_none(tmp_path, index):
    with pytest.raises(Refused) as caught:
        opened(pack(tmp_path / "p.zip", ["file"], [["0.png"]], index=index))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize("path", [None, 3, "", "\0", [], "x" * 5000, True])
def test_paths_that_are_none(path):
    with pytest.raises(Refused, match="path = "):
        opened(path)


def test_a_fifo_or_a_device_is_no_zip(tmp_path):
    os.mkfifo(tmp_path / "p.zip")
    for path in (tmp_path / "p.zip", "/dev/zero"):
        with pytest.raises(Refused, match="neither a folder nor"):
            opened(path)


@pytest.mark.parametrize("option", ["label", "split_column", "train_split", "test_split"])
@pytest.mark.parametrize("value", [3, True, [], {}, ["a"], 0.5, ""])
def test_options_that_are_no_names(tmp_path, option, value):
    put(tmp_path / "set", ["a/0.png"])
    for path in (tmp_path / "set", pack(tmp_path / "p.zip", ["file"], [["0.png"]])):
        with pytest.raises(Refused, match=f"{option} = "):
            opened(path, holdout=0, **{option: value})
