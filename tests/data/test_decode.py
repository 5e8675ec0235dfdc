"""One decoder: every kind of file and of values comes out right, or is one line."""

import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from mimlab.data._decode import Unreadable, Values, checked, decode, formats, measured, suffixes
from mimlab.errors import Refused


def saved(image, kind="png", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def tiff(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    file.seek(0)
    return file


def filled(value, kind, bands=None, first=None):
    array = np.full((20, 20) if bands is None else (20, 20, bands), value, kind)
    if first is not None:
        array[0, 0] = first
    return array


def grey(file, **options):
    """The value of the middle, which must be the same in all bands."""
    out = decode(file, 20, **options)
    assert out.shape == (3, 20, 20) and out.dtype == np.uint8 and (out[:, 10, 10] == out[0, 10, 10]).all()
    return int(out[0, 10, 10])


@pytest.mark.parametrize(
    ("value", "kind", "first", "want"),
    [
        (2048, np.uint16, 4095, 128),  # 12 bits in 16
        (2048, np.uint16, 4096, 128),
        (2048, np.uint16, 65535, 128),  # one dead pixel
        (512, np.uint16, 1023, 128),
        (5000, np.uint16, 10000, 78),  # Sentinel-2
        (120, np.uint16, 255, 120),
        (32768, np.uint16, 65535, 128),
        (2048, np.int16, 4095, 128),
        (32768, np.uint32, 65536, 128),
        (32768, np.int32, -(2**31), 128),  # no data
        (0.5, np.float32, 1.2, 128),
        (0.5, np.float32, np.nan, 128),
        (0.5, np.float32, -np.inf, 128),
        (0.5, np.float32, -9999.0, 128),
        (0.5, np.float16, 1.0, 128),
        (0.5, np.float64, 1.0, 128),
        (120, np.float64, 254.0, 120),
        (100, np.int8, 127, 100),
        (0, np.float32, 0, 0),
        (np.nan, np.float32, np.nan, 0),
    ],
)
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_values_of_one_image(value, kind, first, want, byteorder):
    array = filled(value, kind, first=first)
    assert abs(grey(tiff(array, byteorder=byteorder)) - want) <= 1


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        (-50, np.int8, "from -50 to -50"),
        (-500, np.int16, "whole numbers from -500 to -500"),
        (100_000, np.int32, "from 100000 to 100000"),
        (1.7, np.float32, "floats from 1.7 to 1.7"),
        (-0.5, np.float32, "floats from -0.5"),
        (3000.0, np.float32, r"range = \[low, high\]"),
    ],
)
def test_values_that_no_rule_covers_are_refused_with_the_way_out(value, kind, said):
    with pytest.raises(Refused, match=said) as caught:
        decode(tiff(filled(value, kind)), 20)
    assert "\n" not in str(caught.value)
    low, high = value - 100, value + 100
    assert abs(grey(tiff(filled(value, kind)), values=Values([low, high])) - 128) <= 1


def test_a_range_is_for_wide_images_only():
    assert grey(saved(Image.new("L", (9, 9), 77)), values=Values([0, 4095])) == 77
    assert grey(tiff(filled(5000, np.uint16)), values=Values([0, 4095])) == 255


@pytest.mark.parametrize("given", ["all", None, 3, [1], [1, 1], [2, 1], [0, float("nan")], [0, float("inf")], ["0", "1"], [0, True], [0, 1, 2]])  # fmt: skip
def test_a_range_that_is_none_is_refused(given):
    with pytest.raises(Refused, match="range = "):
        checked(given)


def test_one_rule_a_set():
    dark, light = filled(0.2, np.float32), filled(200, np.float32)
    values = Values("auto", [lambda: [tiff(dark), tiff(light)]])
    assert grey(tiff(dark), values=values) == 0 and grey(tiff(light), values=values) == 200
    assert grey(tiff(dark)) == 51  # alone
    whole = Values("auto", [lambda: [tiff(filled(10, np.uint16)), tiff(filled(4000, np.uint16))]])
    assert grey(tiff(filled(2048, np.uint16)), values=whole) == 128


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_zero(dtype):
    top = np.iinfo(dtype).max
    array = filled(top // 10, dtype, first=top)
    assert grey(tiff(array, photometric="miniswhite")) in (229, 230)
    assert grey(tiff(filled(int(top * 0.92), dtype), photometric="miniswhite")) in (20, 21, 22)


def test_no_data_as_gdal_marks_it():
    array = filled(0.5, np.float32)
    array[:10] = -3333
    file = tiff(array, extratags=[(42113, "s", 0, "-3333", True)])
    out = decode(file, 20)
    assert out[0, 15, 10] == 128 and out[0, 2, 10] == 0


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_bands_beyond_three(planar):
    array = np.stack([filled(v, np.uint16) for v in (1000, 2000, 4000, 9, 65000)])
    array = array if planar == "separate" else array.transpose(1, 2, 0)
    out = decode(tiff(array, planarconfig=planar, photometric="minisblack"), 20)
    assert out[:, 5, 5].tolist() == [62, 125, 249]
    two = np.stack([filled(1000, np.uint16), filled(5, np.uint16)])
    assert grey(tiff(two, planarconfig="separate", photometric="minisblack")) == 249


def test_rgb_of_16_bits_keeps_all_of_them(tmp_path):
    ramp = np.zeros((64, 64, 3), np.uint16)
    ramp[...] = (np.arange(64 * 64).reshape(64, 64) % 4096)[..., None]
    import zlib

    import torch  # noqa: F401  Pillow cannot write such a PNG; torchvision only reads

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in ramp)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", 64, 64, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    for file in (io.BytesIO(png), tiff(ramp, photometric="rgb")):
        out = decode(file, 64)
        assert abs(int(out[0, 32, 0]) - 128) <= 1 and len(np.unique(out)) == 256
    (tmp_path / "x.png").write_bytes(png)
    assert np.array_equal(decode(str(tmp_path / "x.png"), 64), decode(io.BytesIO(png), 64))


def test_alpha_of_16_bits_and_of_floats():
    array = filled(65535, np.uint16, 4)
    array[..., 3] = 0
    assert decode(tiff(array, photometric="rgb", extrasamples=["unassalpha"]), 20, (9, 8, 7))[:, 5, 5].tolist() == [9, 8, 7]  # fmt: skip
    half = filled(32768, np.uint16, 4)  # white, multiplied with its alpha
    assert grey(tiff(half, photometric="rgb", extrasamples=["assocalpha"])) == 255
    array = filled(0.5, np.float32, 4)
    array[..., 3] = 1
    assert grey(tiff(array, photometric="rgb", extrasamples=["unassalpha"])) == 128


@pytest.mark.parametrize(
    "mode", ["La", "LA", "PA", "RGBa", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "1", "L", "P"]
)
def test_modes_that_pillow_has(mode):
    base = Image.new("RGB", (8, 8), (120, 120, 120))
    if mode in ("La", "RGBa"):
        image = base.convert({"La": "LA", "RGBa": "RGBA"}[mode]).convert(mode)
    elif mode == "PA":
        image = base.quantize(4).convert("PA")
    elif mode == "LAB":
        image = Image.merge("LAB", [Image.new("L", (8, 8), v) for v in (128, 128, 128)])
    else:
        image = base.quantize(4) if mode == "P" else base.convert(mode)
    if mode in ("La", "PA", "RGBa", "HSV"):  # nothing writes them
        from mimlab.data._decode import _rgb

        out = np.asarray(_rgb(image, (0, 0, 0)))
    else:
        out = decode(saved(image, "tiff"), 8)
    if mode != "1":
        assert np.abs(out.astype(int) - 120).max() <= 4


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_any_format(kind, orientation):
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16, :24] = 255  # top left as stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = decode(saved(Image.fromarray(pixels), kind, exif=exif), 32)
    corner = {1: (0, 0), 2: (0, 1), 3: (1, 1), 4: (1, 0), 5: (0, 0), 6: (0, 1), 7: (1, 1), 8: (1, 0)}[orientation]
    light = np.array([[out[0, y, x] for x in (4, 27)] for y in (4, 27)])
    assert np.argwhere(light > 128).tolist() == [list(corner)]


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tiff"])
def test_the_first_of_several_frames(kind):
    frames = [Image.new("RGB", (8, 8), (v, v, v)) for v in (40, 90, 200)]
    seen = set()
    out = decode(saved(frames[0], kind, save_all=True, append_images=frames[1:]), 8, seen=seen)
    assert abs(int(out[0, 4, 4]) - 40) <= 2 and seen == {"pages"}
    decode(saved(frames[0], kind), 8, seen=(once := set()))
    assert not once


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (2, 1)])
def test_thin_images(shape):
    assert (
        decode(saved(Image.fromarray(filled(7, np.uint8)[:1, :1].repeat(shape[0], 0).repeat(shape[1], 1))), 16) == 7
    ).all()


def test_postscript_is_not_run():
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF"
    with pytest.raises(Unreadable):
        decode(io.BytesIO(program), 8)
    assert "EPS" not in formats() and ".eps" not in suffixes() and {".jpg", ".jfif", ".tga", ".apng"} <= suffixes()


@pytest.mark.parametrize(
    "raw",
    [b"", b"II*\0", b"MM\0*\0\0\0\x08", b"II+\0\x08\0\0\0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"<svg/>", b"\0" * 999],
)
def test_files_that_are_none(raw):
    with pytest.raises(Unreadable) as caught:
        decode(io.BytesIO(raw), 8)
    assert "\n" not in str(caught.value)


def test_a_large_float_tiff_is_refused_by_its_head():
    head = struct.pack("<2sHI", b"II", 42, 8)
    entries = [(256, 4, 1, 60000), (257, 4, 1, 60000), (258, 3, 1, 32), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 200), (277, 3, 1, 1), (278, 4, 1, 60000), (279, 4, 1, 4), (339, 3, 1, 3)]  # fmt: skip
    body = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *e) for e in entries) + struct.pack("<I", 0)
    file = io.BytesIO((head + body).ljust(300, b"\0"))
    with pytest.raises(Unreadable, match="limit"):
        decode(file, 8)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("text", "RGB"),
        ("zipped", "RGBA"),
        ("international", "P"),
        ("profile", "I;16"),
        ("profile", "RGB"),
        ("many", "P"),
    ],
)
def test_a_png_with_megabytes_beside_its_pixels_opens(kind, mode):
    """Pillow takes a megabyte of text or profile; pixels and EXIF are read as without them."""
    from PIL import PngImagePlugin

    texts, options, long = PngImagePlugin.PngInfo(), {}, "x" * 2_000_000
    if kind == "profile":
        options["icc_profile"] = bytes(2_000_000)
    elif kind == "many":
        for k in range(66):
            texts.add_text(f"key{k}", "x" * 1_040_000, zip=True)
    elif kind == "international":
        texts.add_itxt("key", long, zip=True)
    else:
        texts.add_text("key", long, zip=kind == "zipped")
    image = Image.fromarray(filled(77, np.uint16)) if mode == "I;16" else Image.new("RGB", (20, 20), (77,) * 3)
    image = image.convert(mode) if mode in ("RGBA", "P") else image
    image.putpixel((2, 1), 200 if mode in ("P", "I;16") else (200,) * len(image.getbands()))
    exif = Image.Exif()
    exif[274] = 3  # half a turn
    plain = decode(saved(image, exif=exif), 20, values=Values((0, 255)))
    full = decode(saved(image, exif=exif, pnginfo=texts, **options), 20, values=Values((0, 255)))
    assert np.array_equal(full, plain) and full[0, 18, 17] != full[0, 5, 5]
    assert measured(saved(image, exif=exif, pnginfo=texts, **options)) == (20, 20, False)
