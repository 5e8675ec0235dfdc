"""`mimlab data`: what it tells of folders, zips and sources, and that it overwrites nothing."""

import numpy as np
import pytest
from PIL import Image

from mimlab.__main__ import main
from mimlab.errors import Refused
from mimlab.looking import dataset


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MIMLAB_HOME", str(tmp_path / "home"))


def noise(path, seed, noisy=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3)).astype(int)
    pixels = pixels + np.random.default_rng(99).integers(-noisy, noisy + 1, pixels.shape)
    Image.fromarray(np.uint8(pixels.clip(0, 255))).save(path)


@pytest.fixture
def photos(tmp_path):
    """Two classes with 6 and 3 training images; of 4 test images one is a training image and one nearly."""
    root = tmp_path / "photos"
    for i in range(6):
        noise(root / "train" / "a" / f"{i}.png", i)
    for i in range(3):
        noise(root / "train" / "b" / f"{i}.png", 10 + i)
    noise(root / "test" / "a" / "0.png", 3)
    noise(root / "test" / "a" / "1.png", 4, noisy=6)
    noise(root / "test" / "a" / "2.png", 50)
    noise(root / "test" / "b" / "3.png", 51)
    noise(root / "unlabeled" / "9.png", 60)
    (root / "train" / "a" / "notes.txt").write_text("x")
    return root


def test_a_folder(photos, capsys):
    assert main(["data", str(photos), "--size", "32"]) == 0
    said = capsys.readouterr().out
    assert "train: 9 images, 2 of 2 classes\n  images a class: a 6, b 3\ntest: 4 images, 2 of 2 classes" in said
    assert "folders beside the splits: unlabeled 1" in said and ".txt 1" in said
    assert "of 4 test images 1 are also training images, pixel for pixel at 32 px, and 1 more are near one" in said
    assert "test 0 and train 3: 1.0000" in said and "test 1 and train 4: 0.99" in said


@pytest.mark.parametrize("suffix", [".html", ".png"])
def test_what_it_writes_replaces_nothing(photos, tmp_path, capsys, suffix):
    out = tmp_path / f"out{suffix}"
    assert main(["data", str(photos), "--size", "32", "--out", str(out)]) == 0
    made = out.read_bytes()
    if suffix == ".html":
        assert b"unlabeled" in made and made.count(b"data:image/png") >= 3 and b"images a class" in made
    else:
        assert Image.open(out).size[1] > 500
    assert main(["data", str(photos), "--size", "32", "--out", str(out)]) == 2
    assert "is there; choose another name" in capsys.readouterr().err and out.read_bytes() == made
    assert [f.name for f in tmp_path.iterdir() if "out" in f.name] == [out.name]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "neither a folder or zip"),
        (["emoji", "--zoom", "3"], "'--zoom' is no option of emoji"),
        (["emoji", "--size", "2"], "size = '2'"),
        (["emoji", "--size", "x"], "size = 'x'"),
        (["emoji", "--size"], "expected one argument"),
        (["emoji", "--out", "x.txt"], "ends in .html or .png"),
        (["emoji", "--range", "[1"], "range"),
        (["folder"], "needs the option 'path'"),
        (["os.path"], "os.path"),
    ],
)
def test_one_line_of_refusal(arguments, said, capsys):
    assert main(["data", *arguments]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1


def test_options_reach_the_source(photos, capsys):
    assert main(["data", str(photos), "--size", "32", "--label", "null", "--train_split", "train"]) == 0
    assert "train: 9 images, no labels" in capsys.readouterr().out


def test_even_images_are_like_to_nothing_and_memory_is_bounded(monkeypatch):
    import torch

    even = dataset.thumbnails(torch.full((3, 3, 32, 32), 90, dtype=torch.uint8))
    assert (even @ even.T == 0).all()
    ramp = torch.arange(32).expand(1, 3, 32, 32).to(torch.uint8) * 8
    one = dataset.thumbnails(ramp)
    assert one @ one.T == pytest.approx(1, abs=1e-5)
    brighter = dataset.thumbnails((ramp.float() * 0.5 + 60).to(torch.uint8))
    assert (one @ brighter.T).item() > 0.99


def test_the_room_for_products_changes_nothing(photos, monkeypatch):
    whole = dataset.look("folder", size=32, path=str(photos))
    monkeypatch.setattr(dataset, "ROOM", 4)
    parts = dataset.look("folder", size=32, path=str(photos))
    assert (whole.same, whole.near) == (parts.same, parts.near) == (1, 1)
    assert [pair[1:] for pair in whole.pairs] == [pair[1:] for pair in parts.pairs] == [(0, 3), (1, 4)]


def test_a_source_that_is_none_is_refused():
    with pytest.raises(Refused, match="nowhere"):
        dataset.command("./nowhere", [])
