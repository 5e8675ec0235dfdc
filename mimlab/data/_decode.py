"""One decoder for every source: an image file of any kind as 8-bit RGB, upright by its EXIF tag, its first page.

Values. Images of 8 bits and less are taken as they are. Wider ones (16 and 32 bits, signed, floats) are mapped from
[low, high] to [0, 255] and clipped, by one rule a data set and never an image (`Values`): the option `range = [low, high]`,
or "auto", which is decided once over training images, evenly spread: whole numbers reach from 0 to the end of 8, 10, 12,
14 or 16 bits, the fewest that hold them; floats from 0 to 1, or from 0 to 255; else the set is refused, with the values
that it has. What is held may leave out one value of 500, and a twentieth beyond the end. No-data values (not finite,
beyond 1e30, the ends of 32 bits, what the TIFF tag GDAL_NODATA names) do not count, and are painted as `low`.

Transparent pixels are laid over a background. Of more bands than three the first three count, of two the first. "White is
zero" is turned, where it is of whole numbers in the range of the file's own bits. Colour profiles and gamma are not applied.
"""

import io
import re
import threading
import warnings
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile

from mimlab.errors import Refused

BITS = (8, 10, 12, 14, 16)  # of whole numbers
FLOATS = ((0, 1), (16, 255))  # a set of floats whose largest value is above the first number and held by the second
BEYOND, OUTLIERS = 1.05, 1 / 500  # see above
NO_DATA = 1e30
SAMPLES, EACH = 1000, 4096  # images that decide a set's range, and values of each
UNSAFE = ("EPS", "MPEG")  # formats that Pillow names and does not decode itself: EPS would start another program
TURN = Image.Transpose
TURNS = {
    2: TURN.FLIP_LEFT_RIGHT, 3: TURN.ROTATE_180, 4: TURN.FLIP_TOP_BOTTOM, 5: TURN.TRANSPOSE, 6: TURN.ROTATE_270,
    7: TURN.TRANSVERSE, 8: TURN.ROTATE_90,
}  # fmt: skip
ORIENTATION, SAMPLE_FORMAT, PHOTOMETRIC, BITS_PER_SAMPLE, SAMPLES_PER_PIXEL, GDAL_NODATA = (
    274,
    339,
    262,
    258,
    277,
    42113,
)


class Unreadable(Exception):
    """A file that is no image, or not one we can hold: its message is the reason."""


class Wide(NamedTuple):
    """Pixels that need a range: array (H, W, C), C 1 or 3, of `kind` "whole" or "float"; alpha uint8 (H, W) or None."""

    array: np.ndarray
    kind: str
    alpha: np.ndarray | None = None
    inverted: bool = False
    no_data: float | None = None

    def counted(self):
        """Whether a value counts, bool (H, W, C)."""
        x = self.array
        if self.kind == "float":
            good = np.isfinite(x) & (np.abs(x) < NO_DATA if x.dtype.itemsize > 2 else True)
        else:
            good = (x > -(2**31)) & (x < 2**31 - 1) if x.dtype.itemsize > 2 else np.ones(x.shape, bool)
        return good if self.no_data is None else good & (x != self.no_data)

    def values(self):
        """At most `EACH` values that count, evenly spread, (V,)."""
        x = self.array[self.counted()]
        return x[:: -(-len(x) // EACH) or 1].astype(np.float64)

    def scaled(self, low, high):
        """uint8 (H, W, C)."""
        x = np.where(self.counted(), self.array, low).astype(np.float64)
        x = np.uint8(np.clip((x - low) / (high - low), 0, 1) * 255 + 0.5)
        return 255 - x if self.inverted else x


class Values:
    """The range of a data set. `given`: "auto" or [low, high]; `samples`: functions that return files, tried in turn.

    A file is a path, a file object, or a function that opens one. Without samples each image decides for itself.
    """

    def __init__(self, given="auto", samples=()):
        self.given, self.samples, self.known = checked(given), samples, {}
        self._lock = threading.Lock()

    def __getstate__(self):
        return self.__dict__ | {"_lock": None}

    def __setstate__(self, state):
        self.__dict__ = state | {"_lock": threading.Lock()}

    def of(self, wide):
        """(low, high) of an image's kind. Raises `Refused` where "auto" finds none."""
        if self.given != "auto":
            return self.given
        if wide.inverted and wide.kind == "whole":
            return 0.0, float(np.iinfo(wide.array.dtype).max)
        if not self.samples:
            return decided(wide.kind, wide.values())
        with self._lock:
            if wide.kind not in self.known:
                self.known[wide.kind] = decided(wide.kind, self._seen(wide))
            return self.known[wide.kind]

    def _seen(self, wide):
        """Values of samples of this kind, of the first function that has any."""
        for files in self.samples:
            found = []
            for file in files():
                try:
                    other = _opened(file)[0]
                except Unreadable:
                    continue
                if isinstance(other, Wide) and (other.kind, other.inverted) == (wide.kind, wide.inverted):
                    found.append(other.values())
            if found:
                return np.concatenate(found)
        return wide.values()


def checked(given):
    """`given` as "auto" or a pair of floats; `Refused` for anything else."""
    from mimlab.errors import shown

    if isinstance(given, str) and given == "auto":
        return given
    pair = isinstance(given, (list, tuple)) and len(given) == 2
    numbers = pair and all(isinstance(x, (int, float)) and not isinstance(x, bool) and abs(x) < NO_DATA for x in given)
    if not numbers or not given[0] < given[1]:
        raise Refused(
            f"range = {shown(given)} should be 'auto', or [low, high], the values that become black and white, "
            "such as [0, 4095]"
        )
    return float(given[0]), float(given[1])


def decided(kind, values):
    """(low, high) for values (V,) of wide images, by the rule above. Raises `Refused`."""
    if not len(values):
        return 0.0, 1.0  # no-data throughout
    low, high = (float(x) for x in np.quantile(values, (OUTLIERS, 1 - OUTLIERS), method="nearest"))
    ends = [(0, 2**bits - 1) for bits in BITS] if kind == "whole" else FLOATS
    for least, top in ends:
        if (least < high or least == 0) and high <= BEYOND * top:
            if low < (1 - BEYOND) * top or high < 0:
                break
            return 0.0, float(top)
    what = "whole numbers" if kind == "whole" else "floats"
    raise Refused(
        f"range = 'auto': images hold {what} from {low:.6g} to {high:.6g}, which fill none of the usual ranges; give "
        f"range = [low, high], the values that become black and white, such as [{low:.4g}, {high:.4g}]"
    )


@lru_cache
def formats():
    """Formats that Pillow decodes by itself, those of plug-ins that are imported included."""
    Image.preinit()  # the common ones first, as Pillow tries them
    Image.init()
    stubs = [name for name, (kind, _) in Image.OPEN.items() if isinstance(kind, type) and issubclass(kind, ImageFile.StubImageFile)]  # fmt: skip
    return tuple(name for name in Image.OPEN if name not in (*UNSAFE, *stubs))


@lru_cache
def suffixes():
    """Lower-case suffixes of files of these formats, such as ".jpg"."""
    known = formats()  # fills the registry
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in known)


def decode(file, size, background=(255, 255, 255), values=None, seen=None):
    """The central square of an image file at `size` pixels, uint8 (3, size, size); `picture` says how it is read.

    Bicubic and antialiased: the shorter side becomes `size`. Raises what `picture` does.
    """
    image = picture(file, background, values, draft=2 * size, seen=seen)
    width, height = image.size
    short = min(width, height)
    left, top = (width - short) / 2, (height - short) / 2
    box = (left, top, left + short, top + short)
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))  # (3, S, S)


def picture(file, background=(255, 255, 255), values=None, *, draft=None, told=None, seen=None):
    """An image file as a Pillow image, RGB, upright; `file` is a path or an open binary file.

    values: the set's `Values`; None: this image's own. draft: a JPEG may come smaller, at least this large. told: (width,
    height) in an annotation; where only the size as stored fits it, the image is not turned. seen: a set, to which
    "pages" is added where only the first of several was read. Raises `Unreadable` for what cannot be decoded and for more
    pixels than Pillow's limit, `Refused` where no range fits.
    """
    image, orientation = _opened(file, draft, seen)
    if isinstance(image, Wide):
        pixels = image.scaled(*(values or Values()).of(image))
        pixels = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
        if image.alpha is not None:
            pixels = np.dstack([pixels, image.alpha])
        image = Image.fromarray(np.ascontiguousarray(pixels))
    with _reasons():
        image = _rgb(image, background)
        turned = upright(image, orientation)
        return image if told is not None and turned.size != tuple(told) == image.size else turned


def measured(file):
    """(width, height, whether its EXIF tag swaps them) of an image file, from its head. Raises `Unreadable`."""
    with _reasons():
        try:
            with Image.open(file, formats=formats()) as image:
                return *image.size, _orientation(image) in (5, 6, 7, 8) and image.format != "TIFF"
        except (Image.UnidentifiedImageError, ValueError):
            image, orientation = _opened(file)
            height, width = image.array.shape[:2] if isinstance(image, Wide) else image.size[::-1]
            return width, height, orientation in (5, 6, 7, 8)


def upright(image, orientation):
    """A Pillow image turned by the number of an EXIF orientation; anything but 2 to 8 turns nothing."""
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


class _reasons:  # noqa: N801  a context, as contextlib's are
    """Pillow's decoders raise a dozen kinds of errors, from struct.error to SyntaxError: `Unreadable` with the reason."""

    def __enter__(self):
        pass

    def __exit__(self, kind, error, trace):
        if error is None or isinstance(error, (Unreadable, MemoryError)) or not isinstance(error, Exception):
            return False
        if isinstance(error, Image.DecompressionBombError):
            raise Unreadable(str(error)) from None
        said = re.sub(r" <_io[^>]*>", "", " ".join(str(error).split()))  # a file in memory has no name worth telling
        raise Unreadable(f"not a readable image ({said or kind.__name__})") from None


def _opened(file, draft=None, seen=None):
    """(Pillow image or `Wide`, EXIF orientation or None) of a file, decoded and as stored."""
    with _reasons():
        if callable(file):
            file = file()
        try:
            return _as_stored(file, draft, seen)
        except ValueError as error:
            if "MAX_TEXT" not in str(error):
                raise
            return _as_stored(_textless(file), draft, seen)


def _as_stored(file, draft, seen):
    try:
        image = Image.open(file, formats=formats())
    except Image.UnidentifiedImageError:
        return _tiff(file)  # bands and numbers that Pillow has no mode for
    with image:
        width, height = image.size
        if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
            raise Unreadable(f"{width} x {height} pixels are above the limit of {Image.MAX_IMAGE_PIXELS:,}")
        if seen is not None and image.format not in ("MPO", "PSD") and getattr(image, "n_frames", 1) > 1:
            seen.add("pages")
        raw = str(image.tile[0][3]) if image.tile else ""
        tags = getattr(image, "tag_v2", {})
        if image.format == "PNG" and ";16" in raw and image.mode in ("RGB", "RGBA", "LA"):  # Pillow keeps 8 bits
            return _png(file), _orientation(image)
        bands, bits = (np.atleast_1d(tags.get(tag, 1)) for tag in (SAMPLES_PER_PIXEL, BITS_PER_SAMPLE))
        if bands[0] > 1 and max(bits) > 8 and tags.get(PHOTOMETRIC) in (0, 1, 2):
            return _tiff(file)
        if draft:
            image.draft("RGB", (draft, draft))  # JPEG only: a smaller inverse DCT
        try:
            image.load()
        except Exception:
            if image.format != "TIFF":
                raise
            return _tiff(file)
        told = _orientation(image)
        signed = 2 in np.atleast_1d(tags.get(SAMPLE_FORMAT, 1))
        if image.mode.startswith("I") or image.mode == "F" or (signed and image.mode == "L"):
            return _wide(np.asarray(image), tags, signed), told
        return image, told


def _textless(file):
    """A PNG without its texts and colour profile, of which Pillow takes a megabyte and no image depends on them."""
    raw, at = _bytes(file), 8
    parts = [raw[:8]]
    while at + 8 <= len(raw):
        length, kind = int.from_bytes(raw[at : at + 4], "big"), raw[at + 4 : at + 8]
        if kind not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            parts.append(raw[at : at + 12 + length])
        at += 12 + length
    return io.BytesIO(b"".join(parts))


def _orientation(image):
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # a broken EXIF block turns nothing
        return None


def _wide(array, tags, signed=False):
    """What Pillow decoded into one wide band, (H, W), as a `Wide`."""
    bits = int(np.atleast_1d(tags.get(BITS_PER_SAMPLE, 0))[0]) if tags else 0
    if bits == 8:
        array = array.view(np.int8)
    elif bits == 32 and array.dtype == np.int32 and not signed:
        array = array.view(np.uint32)
    kind = "float" if np.issubdtype(array.dtype, np.floating) else "whole"
    inverted = tags.get(PHOTOMETRIC) == 0
    return Wide(array[..., None], kind, None, inverted, _number(tags.get(GDAL_NODATA)))


def _number(text):
    """GDAL's no-data tag: a number as text."""
    try:
        return None if text is None else float(str(text).strip("\0 "))
    except ValueError:
        return None


def _png(file):
    """A PNG of 16 bits in two to four bands."""
    import torch
    from torchvision.io import ImageReadMode, decode_image

    raw = torch.frombuffer(bytearray(_bytes(file)), dtype=torch.uint8)
    pixels = decode_image(raw, ImageReadMode.UNCHANGED).numpy().transpose(1, 2, 0)
    return _banded(pixels, alpha=pixels.shape[2] - 1 if pixels.shape[2] in (2, 4) else None)


def _tiff(file):
    """(image, orientation) of a TIFF by tifffile, which knows what Pillow does not."""
    import tifffile

    raw = _bytes(file)
    if raw[:2] not in (b"II", b"MM"):
        raise Unreadable("not a readable image (cannot identify image file)")
    with warnings.catch_warnings(), tifffile.TiffFile(io.BytesIO(raw)) as pack:
        warnings.simplefilter("ignore")
        page = pack.pages[0]
        if Image.MAX_IMAGE_PIXELS and page.size > 16 * Image.MAX_IMAGE_PIXELS:
            raise Unreadable(f"{page.shape} values are above the limit of {16 * Image.MAX_IMAGE_PIXELS:,}")
        kind = page.dtype.kind if page.dtype is not None else "?"
        if kind not in "uifb" or page.photometric not in (0, 1, 2):
            raise Unreadable(f"not a readable image (a TIFF of {page.dtype}, {page.photometric!r})")
        pixels, axes = page.asarray(), page.axes
        if axes == "YX":
            pixels = pixels[..., None]
        elif axes == "SYX":
            pixels = pixels.transpose(1, 2, 0)
        elif axes != "YXS":
            raise Unreadable(f"not a readable image (a TIFF of axes {axes})")
        extra = [int(x) for x in page.extrasamples]
        colours = pixels.shape[2] - len(extra)
        alpha = colours + next((k for k, x in enumerate(extra) if x in (1, 2)), 0) if {1, 2} & set(extra) else None
        tags = {tag.code: tag.value for tag in page.tags}
    if alpha is not None and extra[alpha - colours] == 1:  # colours are multiplied with it
        pixels = _divided(pixels, alpha)
    wide = _banded(pixels, alpha, tags.get(PHOTOMETRIC) == 0, _number(tags.get(GDAL_NODATA)))
    return wide, tags.get(ORIENTATION)


def _divided(pixels, alpha):
    """Pixels (H, W, bands) of the same kind, whose bands are no longer multiplied with that of `alpha`."""
    full = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "ui" else 1
    cover = pixels[..., alpha : alpha + 1].astype(np.float64) / full
    found = pixels / np.where(cover > 0, cover, 1)
    found[..., alpha] = pixels[..., alpha]
    return np.clip(found.round(), 0, full).astype(pixels.dtype) if full > 1 else found.astype(pixels.dtype)


def _banded(pixels, alpha=None, inverted=False, no_data=None):
    """`Wide`, or of 8 bits a Pillow image, of pixels (H, W, bands), one of which may be `alpha`."""
    cover = None if alpha is None else pixels[..., alpha]
    bands = np.delete(pixels, alpha, axis=2) if alpha is not None else pixels
    bands = bands[..., :3] if bands.shape[2] > 2 else bands[..., :1]
    if cover is not None:
        full = np.iinfo(cover.dtype).max if cover.dtype.kind in "ui" else 1
        cover = np.uint8(np.clip(cover.astype(np.float64) / full, 0, 1) * 255 + 0.5)
    if bands.dtype in (np.uint8, np.bool_):
        flat = np.uint8(255) * bands if bands.dtype == np.bool_ else bands
        flat = 255 - flat if inverted else flat
        flat = np.repeat(flat, 3, axis=2) if flat.shape[2] == 1 else flat
        return Image.fromarray(np.ascontiguousarray(flat if cover is None else np.dstack([flat, cover])))
    kind = "float" if bands.dtype.kind == "f" else "whole"
    return Wide(bands, kind, cover, inverted, no_data)


def _bytes(file):
    """All of a file that may have been read from."""
    if hasattr(file, "read"):
        file.seek(0)
        return file.read()
    with open(file, "rb") as handle:
        return handle.read()


def _rgb(image, background):
    """RGB of any mode of 8 bits and less."""
    if image.mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if image.mode == "LAB":
        from PIL import ImageCms

        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image).convert("RGB")
    return image.convert("RGB")
