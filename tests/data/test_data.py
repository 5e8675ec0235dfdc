"""What `mimlab.data` promises of every source: names, options, subsets, rows."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from mimlab import data
from mimlab.errors import Refused


@pytest.fixture
def pictures(tmp_path):
    """Three classes of 4 plain pictures, each of its own grey."""
    for label in range(3):
        (tmp_path / "pictures" / f"c{label}").mkdir(parents=True)
        for i in range(4):
            Image.new("L", (10, 8), 60 * label + i).save(tmp_path / "pictures" / f"c{label}" / f"{i}.png")
    return tmp_path / "pictures"


def test_sources_lists_only_sources():
    assert data.sources() == ["emoji", "fashion_mnist", "folder", "hub", "photographs"]


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("fashion_mnits", {}, "did you mean 'fashion_mnist'"),
        ("augment", {}, "no data called 'augment'"),
        ("folder", {}, "needs the option 'path'"),
        ("folder", {"path": ".", "labl": "x"}, "did you mean 'label'"),
        ("emoji", {"background": "greyish"}, "is no colour"),
        ("emoji", {"background": 3}, "is no colour"),
        ("emoji", {"unreadable": "ignore"}, "should be 'error' or 'skip'"),
        ("emoji", {"size": 0}, "size = 0"),
        ("emoji", {"size": 32.0}, "size = 32.0"),
        ("emoji", {"fraction": 0}, "fraction = 0"),
        ("emoji", {"fraction": 1.5}, "fraction = 1.5"),
        ("emoji", {"split": "val"}, "only train and test"),
        ("fashion_mnist", {"split": "val"}, "there are: train, test"),
    ],
)
def test_open_refuses_in_one_line(name, settings, said):
    with pytest.raises(Refused) as caught:
        data.open(name, **{"size": 8, **settings})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_get_batches_and_rows(pictures):
    images = data.open("folder", size=8, path=pictures, holdout=0)
    assert len(images) == 12 and images.classes == ["c0", "c1", "c2"]
    batch = images.get([11, 0])
    assert batch.dtype == torch.uint8 and batch.shape == (2, 3, 8, 8) and batch.is_contiguous()
    assert batch[:, 0, 0, 0].tolist() == [123, 0]
    assert images.get(torch.tensor([5])).unique().tolist() == [61]
    assert images.get([]).shape == (0, 3, 8, 8)
    for rows in ([12], [-1], [0, 100]):
        with pytest.raises(IndexError):
            images.get(rows)
    sizes = [(len(x), y.tolist()) for x, y in images.batches(5)]
    assert sizes == [(5, [0, 0, 0, 0, 1]), (5, [1, 1, 1, 2, 2]), (2, [2, 2])]


def test_what_another_process_is_sent_names_the_pixels_and_has_the_same():
    some = data.open("emoji", "train", size=32, fraction=0.5)
    sent = pickle.dumps(some)
    assert len(sent) < some.get(np.arange(len(some))).nbytes / 20
    there = pickle.loads(sent)
    rows = np.arange(0, len(some), 7)
    assert torch.equal(there.get(rows), some.get(rows)) and np.array_equal(there.labels, some.labels)
    assert (there.fingerprint, there.classes, repr(there)) == (some.fingerprint, some.classes, repr(some))


def test_fraction_keeps_rows_of_the_same_cache(pictures, home):
    whole = data.open("folder", size=8, path=pictures, holdout=0)
    half = data.open("folder", size=8, path=pictures, holdout=0, fraction=0.5, seed=3)
    assert np.bincount(half.labels).tolist() == [2, 2, 2]
    assert torch.equal(half.get([0, 5]), whole.get(half.rows[[0, 5]]))
    assert len([f for f in (home / "images").iterdir() if f.is_dir()]) == 1
    others = [data.open("folder", size=8, path=pictures, holdout=0, fraction=0.5, seed=s) for s in range(4, 9)]
    assert len({half.fingerprint, whole.fingerprint, *(o.fingerprint for o in others)}) > 4


def test_unlabelled(pictures):
    images = data.open("folder", size=8, path=pictures, label=None, fraction=0.5)
    assert images.labels is None and images.classes is None
    assert next(iter(images.batches(2)))[1] is None
    with pytest.raises(Refused, match="has no labels"):
        images.require_labels()


def test_subset_is_nested_balanced_and_never_empty():
    labels = np.repeat(np.arange(20), [5, 50, 500, 40] * 5)
    smaller = np.zeros(0, np.int64)
    for fraction in (0.001, 0.01, 0.05, 0.1, 0.5, 1.0):
        rows = data.subset(labels, fraction, seed=1)
        assert (np.diff(rows) > 0).all()
        assert np.isin(smaller, rows).all()
        expected = np.maximum(1, np.floor(fraction * np.bincount(labels) + 0.5))
        assert (np.bincount(labels[rows]) == expected).all()
        smaller = rows
    assert len(smaller) == len(labels)


def test_subset_depends_on_the_seed_alone():
    assert data.subset(1000, 0.01, 0).tolist() == data.subset(1000, 0.01, 0).tolist()
    assert data.subset(1000, 0.01, 0).tolist() == [141, 152, 233, 237, 622, 649, 775, 898, 969, 989]
    overlap = [len(np.intersect1d(data.subset(1000, 0.1, 0), data.subset(1000, 0.1, s))) for s in range(1, 51)]
    assert 7 < np.mean(overlap) < 13  # 10 expected of independent draws
    counts = sum(np.bincount(data.subset(100, 0.2, s), minlength=100) for s in range(500))
    assert counts.min() > 60 and counts.max() < 145  # binomial(500, 0.2): 100 +- 9


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, "0.1", True, float("nan")])
def test_subset_refuses(fraction):
    with pytest.raises(Refused, match="fraction"):
        data.subset(10, fraction, 0)


def test_holdout_is_balanced_and_keeps_old_choices():
    names = [f"{i}.png" for i in range(100)]
    labels = np.arange(100) % 4
    held = data.holdout(names, labels, 0.2)
    assert np.bincount(labels[held]).tolist() == [5, 5, 5, 5]
    order = np.random.default_rng(0).permutation(100)
    shuffled = data.holdout([names[i] for i in order], labels[order], 0.2)
    assert (shuffled == held[order]).all()


def test_a_users_own_module(tmp_path, monkeypatch):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "__init__.py").touch()
    (tmp_path / "own" / "stripes.py").write_text(
        "from PIL import Image\n"
        "def fingerprint(split, *, n=3):\n    return '1'\n"
        "def load(split, *, n=3):\n"
        "    import datasets\n"
        "    return datasets.Dataset.from_dict({'image': [Image.new('RGB', (4, 4), 'red')] * n},\n"
        "        features=datasets.Features(image=datasets.Image()))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    images = data.open("own.stripes", size=4, n=5)
    assert len(images) == 5 and images.get([4])[0, :, 0, 0].tolist() == [255, 0, 0]


def test_opening_a_folder_imports_nothing_heavy(pictures):
    program = (
        "import sys\nfrom mimlab import data\n"
        f"images = data.open('folder', size=8, path={str(pictures)!r})\n"
        "print(len(images), 'datasets' in sys.modules, 'torchvision' in sys.modules)"
    )
    runs = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True) for _ in range(2)]
    assert [r.stdout.split() for r in runs] == [["9", "False", "False"]] * 2, runs[0].stderr


@pytest.mark.parametrize("name", data.sources())
def test_options_of_every_source_are_checked_before_anything_is_read(name):
    from mimlab import find, kinds

    load = data.source(name).load
    needed = {option: "x" for option, default in find.options(load).items() if default is find.inspect.Parameter.empty}
    for option, known in find.kinds_of(load).items():
        assert known[0], f"{option} of {name} has no kind"
        for value in (float("nan"), float("inf"), -1, [], {}, object(), "a\0b", True):
            if not kinds.fits(value, *known):
                with pytest.raises(Refused, match=f"^data_args: {option} = "):
                    data.check(name, needed | {option: value})
    for option, value in (("range", "wide"), ("unreadable", 1), ("background", 3)):
        with pytest.raises(Refused, match=option):
            data.check(name, needed | {option: value})
