"""`hub` on folders that `datasets` reads without a network."""

import os
import subprocess
import sys

import datasets
import numpy as np
import pytest
from PIL import Image

from mimlab import data
from mimlab.errors import Refused


@pytest.fixture
def parquet(tmp_path, monkeypatch):
    """A set with columns img, fine (ClassLabel), word and number, splits train and validation, as parquet files."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    features = datasets.Features(
        img=datasets.Image(),
        fine=datasets.ClassLabel(names=["dog", "cat"]),
        word=datasets.Value("string"),
        number=datasets.Value("int64"),
    )
    (tmp_path / "set").mkdir()
    for split, n in (("train", 6), ("validation", 2)):
        rows = {
            "img": [Image.new("RGB", (6, 4), (i, 0, 0)) for i in range(n)],
            "fine": [i % 2 for i in range(n)],
            "word": [["x", "y", "z"][i % 3] for i in range(n)],
            "number": [[10, 9][i % 2] for i in range(n)],
        }
        file = tmp_path / "set" / f"{split}-00000-of-00001.parquet"
        datasets.Dataset.from_dict(rows, features=features).to_parquet(file)
    return str(tmp_path / "set")


def opened(id, split="train", **options):
    return data.open("hub", split, size=4, id=id, **options)


def test_columns_and_splits(parquet):
    train = opened(parquet, image="img", label="fine")
    assert len(train) == 6 and train.classes == ["dog", "cat"] and train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert train.get(np.arange(6))[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert len(opened(parquet, "test", image="img", label="fine", test_split="validation")) == 2
    assert opened(parquet, image="img", label=None).labels is None
    assert opened(parquet, image="img", label="fine").fingerprint == train.fingerprint


def test_labels_that_are_words_or_numbers(parquet):
    words = opened(parquet, "test", image="img", label="word", test_split="validation")
    assert words.classes == ["x", "y", "z"] and words.labels.tolist() == [0, 1]  # z is in train only
    numbers = opened(parquet, image="img", label="number")
    assert numbers.classes == ["9", "10"] and numbers.labels.tolist() == [1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("split", "options", "said"),
    [
        ("train", {}, "image = 'image' is no column"),
        ("train", {}, "there are: img, fine, word, number"),
        ("train", {"image": "img"}, "label = 'label' is no column"),
        ("train", {"image": "word", "label": None}, "not images"),
        ("test", {"image": "img", "label": "fine"}, "there are: train, validation"),
        ("train", {"image": "img", "label": "fine", "config": "big"}, "cannot be loaded"),
    ],
)
def test_refused(parquet, split, options, said):
    with pytest.raises(Refused) as caught:
        opened(parquet, split, **options)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_offline_is_one_line(home):
    program = "from mimlab import data\ntry:\n    data.open('hub', size=4, id='nobody/nothing')\n"
    program += "except data.Refused as error:\n    print(error)"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(home / "hf")}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert len(run.stdout.splitlines()) == 1, run.stderr
    assert "hub: id = 'nobody/nothing'" in run.stdout and "offline" in run.stdout


def test_pinned_revision_opens_without_datasets(parquet, monkeypatch):
    settings = dict(image="img", label="fine", revision="0" * 40)
    from mimlab.data import hub

    real = hub._open
    monkeypatch.setattr(hub, "_open", lambda id, config, revision: real(id, config, None))
    first = opened(parquet, **settings)
    monkeypatch.setattr(hub, "_open", None)  # a second opening must not get so far
    assert opened(parquet, **settings).fingerprint == first.fingerprint


# -- what hubs hold -------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A function that writes a set with the columns image and label, splits train and test, and opens it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")

    def make(labels, kind, images=None, splits=("train", "test"), **options):
        images = images or [Image.new("RGB", (6, 6), (i, 0, 0)) for i in range(len(labels))]
        features = datasets.Features(image=datasets.Image(), label=kind)
        (tmp_path / "set").mkdir()
        for split in splits:
            rows = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
            rows.to_parquet(tmp_path / "set" / f"{split}-00000-of-00001.parquet")
        return lambda split="train", **more: opened(str(tmp_path / "set"), split, **(options | more))

    return make


AB = datasets.ClassLabel(names=["a", "b"])


@pytest.mark.parametrize(
    ("labels", "kind", "classes", "codes"),
    [
        ([True, False, True], datasets.Value("bool"), ["False", "True"], [1, 0, 1]),
        ([2.0, 1.0, 2.0], datasets.Value("float64"), ["1", "2"], [1, 0, 1]),
        ([-1, 1, -1], datasets.Value("int8"), ["-1", "1"], [0, 1, 0]),
        (["y", "x", "y"], datasets.Value("string"), ["x", "y"], [1, 0, 1]),
    ],
)
def test_labels_of_other_kinds(made, labels, kind, classes, codes):
    images = made(labels, kind)()
    assert images.classes == classes and images.labels.tolist() == codes


@pytest.mark.parametrize(
    ("labels", "kind"),
    [([0, None, 1], AB), ([0, -1, 1], AB), ([1.0, float("nan"), 2.0], datasets.Value("float32")), (["a", None, "b"], datasets.Value("string")), (["a", "", "b"], datasets.Value("string")), ([3, None, 4], datasets.Value("int64"))],
)  # fmt: skip
def test_rows_without_a_label(made, labels, kind):
    images = made(labels, kind)
    with pytest.raises(Refused, match="1 of 3 images have no label, such as row 1; unreadable='skip'"):
        images()
    kept = images(unreadable="skip")
    assert kept.labels.tolist() == [0, 1] and kept.get([0, 1])[:, 0, 0, 0].tolist() == [0, 2]
    assert images(label=None).labels is None


def test_labels_that_are_withheld_throughout(made):
    assert made([-1, -1], AB)().labels is None


@pytest.mark.parametrize(
    ("labels", "kind"),
    [([[0, 1], [1]], datasets.Sequence(AB)), ([{"x": 1}, {"x": 2}], {"x": datasets.Value("int64")}), ([[1.0], [2.0]], datasets.Sequence(datasets.Value("float32"))), ([0.5, 1.5], datasets.Value("float32"))],
)  # fmt: skip
def test_what_is_no_class_is_refused(made, labels, kind):
    images = made(labels, kind)
    with pytest.raises(Refused, match=r"label = 'label' of .*another column, or label=None") as caught:
        images()
    assert "\n" not in str(caught.value)
    assert len(images(label=None)) == 2


def test_an_image_that_is_null(made):
    images = made([0, 1, 1], AB, images=[Image.new("RGB", (6, 6)), None, Image.new("RGB", (6, 6))])
    with pytest.raises(Refused, match="row 1: there is no image"):
        images()
    assert images(unreadable="skip").skipped == ["row 1"]


def test_a_folder_of_a_hub_is_known_by_its_files(made, tmp_path):
    import shutil

    images = made([0, 1, 1], AB)
    first = images()
    shutil.copytree(tmp_path / "set", tmp_path / "elsewhere", copy_function=shutil.copyfile)
    assert opened(str(tmp_path / "elsewhere")).fingerprint == first.fingerprint
