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
        "from mimlab import data\nfrom mimlab.data import folder\nload = folder.load\n"
        "def loud(*a, **k):\n    print('built')\n    return load(*a, **k)\n"
        f"folder.load = loud\nprint(data.open('folder', size=8, path={str(nasty)!r}, holdout=0).fingerprint)"
    )
    # options are read from the signature of `load`
    program = program.replace("folder.load = loud", "import functools; folder.load = functools.wraps(load)(loud)")
    runs = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    lines = [line for run in runs for line in run.communicate()[0].split()]
    assert lines.count("built") == 1 and len(lines) == 3 and len(set(lines)) == 2
