"""Pictures in and out of a viewer: image files and arrays, data URIs, and the static copy as one picture.

Inside, an image is a uint8 tensor (3, S, S).
"""

import base64
import binascii
import io
import warnings

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps

from mimlab.data.cache import Unreadable, decode
from mimlab.errors import Refused, shown
from mimlab.masks import pixels

EXACT = 96  # px: images up to this side travel exactly, as PNG; larger ones as JPEG
QUALITY = 85
LIGHT = 40_000  # bytes of a picture that keeps all its colours
SIDE, ACROSS, LINE, GAP = (
    180,
    5,
    20,
    8,
)  # of the static picture: px of a cell, cells in a row, px of a caption, px between


def uri(image):
    """An image (3, H, W) uint8 as a data URI: small ones exactly, as PNG, larger ones as JPEG."""
    picture = _pil(image)
    return data_uri(picture, "PNG" if max(picture.size) <= EXACT else "JPEG")


def data_uri(picture, kind):
    """A PIL image as text, PNG or JPEG."""
    file = io.BytesIO()
    picture.save(file, kind, **({"quality": QUALITY} if kind == "JPEG" else {}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def _pil(image):
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def content(text):
    """The bytes of an image file in a data URI; `Refused` for any other text."""
    head, _, body = str(text).partition(",")
    try:
        if head.startswith("data:image/") and head.endswith(";base64"):
            return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise Refused(f"picture = {shown(str(text)[:40])} is no image; drop or paste a file such as a PNG or JPEG")


def read(file, size, name="picture"):
    """The central square of an image file (bytes) at `size` pixels: uint8 (3, size, size).

    Transparent pixels are laid on white. Refuses what Pillow cannot read, and what is above its limit of pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `decode` refuses these itself
            return torch.from_numpy(decode(io.BytesIO(file), size))
    except Unreadable as reason:
        raise Refused(f"{name}: {reason}; any image that Pillow reads works, such as PNG, JPEG or WebP") from None


def file_of(image):
    """One image in any form as the bytes of an image file, losslessly.

    A PIL image, or an array or tensor (3, H, W) or (H, W, 3), uint8 or float in [0, 1]. Refuses anything else.
    """
    if not isinstance(image, Image.Image):
        image = Image.fromarray(_pixels(image))
    file = io.BytesIO()
    ImageOps.exif_transpose(image).save(file, "TIFF")  # holds every mode of Pillow, and costs nothing
    return file.getvalue()


def _pixels(image):
    """An array or tensor as uint8 (H, W, 3)."""
    array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    if array.ndim != 3 or 0 in array.shape or 3 not in (array.shape[0], array.shape[2]):
        raise Refused(f"images: shape {array.shape} is not (3, H, W) or (H, W, 3), nor a batch of such")
    if array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.floating):
            raise Refused(f"images: {array.dtype} is neither uint8 nor float in [0, 1]")
        low, high = float(array.min()), float(array.max())
        if not -1e-3 <= low <= high <= 1 + 1e-3:  # also where a value is NaN
            raise Refused(f"images: values from {low:.4g} to {high:.4g}; float images lie in [0, 1]")
        array = (array.clip(0, 1) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(array if array.shape[2] == 3 and array.shape[0] != 3 else array.transpose(1, 2, 0))


def hidden(image, mask, grid, grey=128):
    """An image (3, S, S) uint8 with the patches of mask (N,) grey."""
    return image.masked_fill(pixels(mask[None], grid, image.shape[1:])[0], grey)


def strip(cells):
    """Captions and images [(text, uint8 (3, H, W))] laid out in rows: a PIL image."""
    rows = -(-len(cells) // ACROSS)
    width = min(len(cells), ACROSS) * (SIDE + GAP) + GAP
    picture = Image.new("RGB", (width, rows * (SIDE + LINE + GAP) + GAP), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    for k, (caption, image) in enumerate(cells):
        left, top = GAP + k % ACROSS * (SIDE + GAP), GAP + k // ACROSS * (SIDE + LINE + GAP)
        while draw.textlength(caption, font) > SIDE:
            caption = caption.rstrip("…")[:-1] + "…"
        draw.text((left, top), caption, "#222222", font)
        shown = _pil(image)
        smooth = Image.Resampling.NEAREST if max(shown.size) < SIDE else Image.Resampling.BOX
        picture.paste(shown.resize((SIDE, SIDE), smooth), (left, top + LINE))
    return picture


def png(picture):
    """A PIL image as the bytes of a PNG: exact where that is light, else with 256 colours."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    if file.tell() > LIGHT:  # a photograph
        file = io.BytesIO()
        picture.quantize(256, Image.Quantize.FASTOCTREE).save(file, "PNG")  # tenfold faster than the default
    return file.getvalue()
