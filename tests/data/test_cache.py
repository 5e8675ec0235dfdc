"""Decoding of what lies in people's folders, and a cache that is whole or absent."""

import io
import os
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from mimlab import data
from mimlab.data import cache
from mimlab.errors import Refused


def saved(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def noise(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8).squeeze()


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (Image.new("L", (9, 9), 100), "png", (100, 100, 100)),
        (Image.new("1", (9, 9), 1), "png", (255, 255, 255)),
        (Image.fromarray(np.full((9, 9), 25700, np.uint16)), "png", (100, 100, 100)),
        (Image.fromarray(np.full((9, 9), 25700, np.int32)), "tiff", (100, 100, 100)),
        (Image.fromarray(np.full((9, 9), 0.5, np.float32)), "tiff", (128, 128, 128)),
        (Image.fromarray(np.full((9, 9), 51.0, np.float32)), "tiff", (51, 51, 51)),
        (Image.new("RGBA", (9, 9), (200, 0, 0, 0)), "png", (10, 20, 30)),
        (Image.new("RGBA", (9, 9), (200, 0, 0, 255)), "png", (200, 0, 0)),
        (Image.new("LA", (9, 9), (200, 0)), "png", (10, 20, 30)),
        (Image.new("RGB", (9, 9), (200, 100, 50)).quantize(4), "png", (200, 100, 50)),
        (Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "tiff", (255, 0, 0)),
        (Image.new("YCbCr", (9, 9), (128, 128, 128)), "jpeg", (128, 128, 128)),
    ],
)
def test_modes(image, kind, expected):
    out = cache.decode(saved(image, kind), 4, background=(10, 20, 30))
    assert out.shape == (3, 4, 4) and out.dtype == np.uint8
    assert np.abs(out.astype(int) - np.array(expected)[:, None, None]).max() <= 1


def test_cmyk_jpeg():
    out = cache.decode(saved(Image.new("CMYK", (64, 64), (0, 255, 255, 0)), "jpeg"), 4)
    assert np.abs(out.astype(int)[:, 0, 0] - [255, 0, 0]).max() <= 3


def test_palette_with_transparency():
    image = Image.new("P", (8, 8), 0)
    image.putpalette([250, 0, 0, 0, 250, 0])
    image.paste(1, (4, 0, 8, 8))
    out = cache.decode(saved(image, transparency=0), 8, background=(1, 2, 3))
    assert out[:, 4, 0].tolist() == [1, 2, 3] and out[:, 4, 7].tolist() == [0, 250, 0]


def test_half_transparent_is_composed():
    out = cache.decode(saved(Image.new("RGBA", (4, 4), (255, 0, 0, 51))), 4, background=(0, 0, 255))
    assert np.abs(out[:, 0, 0].astype(int) - [51, 0, 204]).max() <= 1


def test_exif_orientation():
    image = Image.fromarray(np.uint8([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]])).resize((64, 64), 0)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    out = cache.decode(saved(image, "jpeg", exif=exif, quality=95, subsampling=0), 64)
    assert out[2, 8, 8] > 200 and out[0, 8, 8] < 60  # blue from bottom left is now top left
    assert out[0, 8, 56] > 200 and out[2, 8, 56] < 60  # red from top left is now top right


@pytest.mark.parametrize(("shape", "size"), [((40, 320), 16), ((320, 40), 16), ((30, 60), 30), ((16, 48), 16)])
def test_square_crop_is_torchvisions(shape, size):
    pixels = noise(*shape)
    out = torch.from_numpy(cache.decode(saved(Image.fromarray(pixels)), size).astype(np.float32))
    whole = torch.from_numpy(pixels).permute(2, 0, 1).float()
    resized = v2.functional.resize(whole, [size], v2.InterpolationMode.BICUBIC, antialias=True)
    assert (out - v2.functional.center_crop(resized, [size]).clamp(0, 255)).abs().max() <= 1.01


@pytest.mark.parametrize("shape", [(57, 91), (1, 7), (900, 3), (1, 1)])
def test_odd_shapes(shape):
    grey = np.full(shape, 77, np.uint8)
    out = cache.decode(saved(Image.fromarray(grey)), 16)
    assert out.shape == (3, 16, 16) and (out == 77).all()


def test_draft_of_a_large_jpeg_stays_close():
    smooth = Image.fromarray(noise(12, 16)).resize((1600, 1200), Image.Resampling.BICUBIC)
    out = cache.decode(saved(smooth, "jpeg", quality=95), 64)
    exact = smooth.crop((200, 0, 1400, 1200)).resize((64, 64), Image.Resampling.BICUBIC)
    assert np.abs(out.astype(int) - np.asarray(exact).transpose(2, 0, 1)).max() <= 6


def bomb(folder, side=20000):
    """A PNG of `side` squared one-bit pixels in some kB."""
    image = Image.new("1", (side, side))
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    image.save(folder / "bomb.png")
    Image.MAX_IMAGE_PIXELS = limit


@pytest.fixture
def nasty(tmp_path):
    """Three good images and one that `spoil` adds."""
    folder = tmp_path / "nasty"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(noise(20, 20)).save(folder / f"good{i}.png")
    return folder


def truncated(folder):
    Image.fromarray(noise(90, 90)).save(folder / "cut.jpg")
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:2000])


def truncated_png(folder):
    Image.fromarray(noise(90, 90)).save(folder / "cut.png")
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:9000])


def text(folder):
    (folder / "notes.jpg").write_text("not an image")


def empty(folder):
    (folder / "empty.png").touch()


def dangling(folder):
    (folder / "gone.png").symlink_to(folder / "nowhere.png")


def middling_bomb(folder):
    bomb(folder, 10000)  # above the limit, below twice the limit, where Pillow itself only warns


@pytest.mark.parametrize("spoil", [truncated, truncated_png, text, empty, dangling, bomb, middling_bomb])
def test_unreadable(nasty, spoil, home, recwarn):
    spoil(nasty)
    bad = next(f.name for f in nasty.iterdir() if not f.name.startswith("good"))
    with pytest.raises(Refused, match=bad) as caught:
        data.open("folder", size=8, path=nasty, holdout=0)
    assert "\n" not in str(caught.value)
    if spoil in (bomb, middling_bomb):
        assert "pixels" in str(caught.value)
    assert not [f for f in (home / "images").iterdir() if f.is_dir()]
    images = data.open("folder", size=8, path=nasty, holdout=0, unreadable="skip")
    assert len(images) == 3 and [os.path.basename(name) for name in images.skipped] == [bad]
    again = data.open("folder", size=8, path=nasty, holdout=0, unreadable="skip")
    assert again.skipped == images.skipped and torch.equal(again.get([0, 1, 2]), images.get([0, 1, 2]))
    assert not [w for w in recwarn if "bomb" in str(w.message).lower()]


def test_nothing_readable_is_refused(tmp_path):
    text(tmp_path)
    with pytest.raises(Refused, match="none of the 1 images"):
        data.open("folder", size=8, path=tmp_path, holdout=0, unreadable="skip")


def test_labels_stay_with_their_images_when_some_are_skipped(tmp_path):
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "0.png").write_text("bad")
        Image.new("L", (4, 4), 50 + ord(label)).save(tmp_path / label / "1.png")
    images = data.open("folder", size=4, path=tmp_path, holdout=0, unreadable="skip")
    assert images.labels.tolist() == [0, 1]
    assert images.get([0, 1])[:, 0, 0, 0].tolist() == [50 + ord("a"), 50 + ord("b")]


def test_changed_folder_is_read_again(nasty):
    first = data.open("folder", size=8, path=nasty, holdout=0)
    Image.fromarray(noise(9, 9)).save(nasty / "new.png")
    second = data.open("folder", size=8, path=nasty, holdout=0)
    assert len(second) == 4 and first.fingerprint != second.fingerprint
    assert data.open("folder", size=9, path=nasty, holdout=0).fingerprint != second.fingerprint


def test_small_disk_is_refused_before_work(nasty, home, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: usage(10, 9, 1))
    with pytest.raises(Refused, match="MIMLAB_HOME"):
        data.open("folder", size=8, path=nasty, holdout=0)
    assert not [f for f in (home / "images").iterdir() if f.is_dir()]


def test_disk_that_fills_up_leaves_nothing(nasty, home, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cache.os, "fsync", full)
        with pytest.raises(Refused, match="No space left on device; set MIMLAB_HOME elsewhere"):
            data.open("folder", size=8, path=nasty, holdout=0)
    assert not [f for f in (home / "images").iterdir() if f.is_dir()]
    assert len(data.open("folder", size=8, path=nasty, holdout=0)) == 3


def test_home_that_is_no_folder(nasty, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MIMLAB_HOME", str(tmp_path / "file"))
    with pytest.raises(Refused, match="set MIMLAB_HOME elsewhere"):
        data.open("folder", size=8, path=nasty)


def test_leftover_of_a_crash_is_replaced(nasty, home):
    images = data.open("folder", size=8, path=nasty, holdout=0)
    place = next(f for f in (home / "images").iterdir() if f.is_dir())
    aside = place.with_name(f".{place.name}.partial")
    place.rename(aside)  # as if the process had died before the rename
    (aside / "images.npy").write_bytes(b"half")
    again = data.open("folder", size=8, path=nasty, holdout=0)
    assert len(again) == len(images) and not aside.exists()


def test_two_processes_at_once(nasty, home):
    program = (
        "from mimlab import data\nfrom mimlab.data import folder\nopened = folder.opened\n"
        "def loud(*a, **k):\n"
        "    found = opened(*a, **k)\n"
        "    return found._replace(load=lambda: print('built') or found.load())\n"
        f"folder.opened = loud\nprint(data.open('folder', size=8, path={str(nasty)!r}, holdout=0).fingerprint)"
    )
    runs = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    lines = [line for run in runs for line in run.communicate()[0].split()]
    assert lines.count("built") == 1 and len(lines) == 3 and len(set(lines)) == 2


# -- damaged caches -------------------------------------------------------------------------------


@pytest.fixture
def labelled(tmp_path):
    for label in "ab":
        (tmp_path / "set" / label).mkdir(parents=True)
        for i in range(4):
            Image.new("L", (8, 8), 60 * i + ord(label)).save(tmp_path / "set" / label / f"{i}.png")
    return tmp_path / "set"


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def longer(file):
    file.write_bytes(file.read_bytes() + b"x")


def void(file):
    file.write_bytes(b"")


def zeros(file):
    file.write_bytes(bytes(file.stat().st_size))


def gone(file):
    file.unlink()


def pickled(file):
    np.save(file, np.array([{}], object), allow_pickle=True) if file.suffix == ".npy" else file.write_text("[1]")


@pytest.mark.parametrize("name", ["images.npy", "labels.npy", "meta.json"])
@pytest.mark.parametrize("damage", [cut, longer, void, zeros, gone, pickled])
def test_a_damaged_cache_is_built_anew_with_a_line(labelled, home, name, damage, capsys):
    if (name, damage) == ("labels.npy", longer):
        pytest.skip("numpy reads as many labels as the head says")
    if (name, damage) == ("labels.npy", zeros):
        pytest.skip("a head of zeros is tried with images.npy")
    first = data.open("folder", size=8, path=labelled, holdout=0)
    pixels, labels = first.get(range(8)), first.labels.tolist()
    (place,) = (f for f in (home / "images").iterdir() if f.is_dir())
    damage(place / name)
    again = data.open("folder", size=8, path=labelled, holdout=0)
    assert torch.equal(again.get(range(8)), pixels) and again.labels.tolist() == labels
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and str(place) in said and "built anew" in said
    data.open("folder", size=8, path=labelled, holdout=0)
    assert not capsys.readouterr().err  # once


@pytest.mark.parametrize(
    "write",
    [
        lambda p: np.save(p / "images.npy", np.zeros((8, 3, 9, 9), np.uint8)),
        lambda p: np.save(p / "images.npy", np.zeros((7, 3, 8, 8), np.uint8)),
        lambda p: np.save(p / "images.npy", np.zeros((8, 3, 8, 8), np.float32)),
        lambda p: np.save(p / "images.npy", np.zeros((8, 8, 8, 3), np.uint8)),
        lambda p: np.save(p / "labels.npy", np.full(8, 99)),
        lambda p: np.save(p / "labels.npy", np.full(8, -1)),
        lambda p: np.save(p / "labels.npy", np.zeros(5, np.int64)),
        lambda p: np.save(p / "labels.npy", np.zeros(8)),
        lambda p: (p / "meta.json").write_text("{}"),
        lambda p: (p / "meta.json").write_text((p / "meta.json").read_text().replace('"rows": 8', '"rows": 9')),
        lambda p: (p / "meta.json").write_text((p / "meta.json").read_text().replace('["a", "b"]', "null")),
        lambda p: (p / "meta.json").write_text("[" * 100_000),
    ],
)
def test_a_cache_that_does_not_fit_together_is_never_taken(labelled, home, write):
    first = data.open("folder", size=8, path=labelled, holdout=0).get(range(8))
    (place,) = (f for f in (home / "images").iterdir() if f.is_dir())
    write(place)
    again = data.open("folder", size=8, path=labelled, holdout=0)
    assert torch.equal(again.get(range(8)), first) and again.labels.tolist() == [0] * 4 + [1] * 4


def test_a_file_where_the_cache_belongs(labelled, home):
    data.open("folder", size=8, path=labelled, holdout=0)
    (place,) = (f for f in (home / "images").iterdir() if f.is_dir())
    cache.shutil.rmtree(place)
    place.write_text("x")
    assert len(data.open("folder", size=8, path=labelled, holdout=0)) == 8


# -- one range a data set --------------------------------------------------------------------------


def floats(folder, values):
    for name, value in values.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        array = np.full((8, 8), value, np.float32 if isinstance(value, float) else np.uint16)
        Image.fromarray(array).save(folder / name, "tiff")


def middles(images):
    return images.get(range(len(images)))[:, 0, 4, 4].tolist()


def test_the_range_is_of_the_training_images_for_both_splits(tmp_path):
    floats(tmp_path, {"train/a/0.tif": 10, "train/a/1.tif": 4000, "test/a/0.tif": 100, "test/a/1.tif": 65000})
    train, test = (data.open("folder", split, size=8, path=tmp_path) for split in ("train", "test"))
    assert middles(train) == [1, 249] and middles(test) == [6, 255]
    assert "0 to 4095 became 0 to 255" in " ".join(train.about["notes"])
    wide = data.open("folder", size=8, path=tmp_path, range=[0, 65535])
    assert middles(wide) == [0, 16] and wide.fingerprint != train.fingerprint


def test_a_kind_that_only_the_test_images_have(tmp_path):
    floats(tmp_path, {"train/a/0.tif": 0.5, "train/a/1.tif": 1.0, "test/a/0.tif": 100, "test/a/1.tif": 4000})
    assert middles(data.open("folder", "train", size=8, path=tmp_path)) == [128, 255]
    assert middles(data.open("folder", "test", size=8, path=tmp_path)) == [6, 249]


@pytest.mark.parametrize("unreadable", ["error", "skip"])
def test_a_range_that_cannot_be_found_is_refused_and_not_skipped(tmp_path, unreadable):
    floats(tmp_path, {"0.tif": -1.0, "1.tif": 1.0})
    with pytest.raises(Refused, match=r"floats from -1 to 1, .* range = \[low, high\]") as caught:
        data.open("folder", size=8, path=tmp_path, holdout=0, unreadable=unreadable)
    assert "\n" not in str(caught.value)
    assert middles(data.open("folder", size=8, path=tmp_path, holdout=0, range=[-1, 1])) == [0, 255]


def test_several_pages_are_told(tmp_path):
    first, second = Image.new("L", (8, 8), 50), Image.new("L", (8, 8), 200)
    first.save(tmp_path / "0.tif", save_all=True, append_images=[second])
    images = data.open("folder", size=8, path=tmp_path, holdout=0)
    assert middles(images) == [50] and "1 files hold several pages" in images.about["notes"][0]
