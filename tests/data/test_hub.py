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
