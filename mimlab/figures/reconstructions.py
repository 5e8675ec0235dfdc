"""What a method fills in."""

import numpy as np

from mimlab.errors import Refused
from mimlab.figures.masks import hide
from mimlab.figures.pictures import cells, colours, numpy, painted, panels


def _blend(images, mask, grid, filled):
    """The visible patches of `images`, the hidden ones of `filled`: uint8 (B, H, W, 3)."""
    hidden = cells(mask, grid, images.shape[1:3])[..., None].astype(bool)
    return np.where(hidden, filled, images)


def _same(name, pictures, images):
    if pictures.shape != images.shape:
        raise Refused(
            f"{name}: {pictures.shape[0]} of {pictures.shape[1]} x {pictures.shape[2]} px; "
            f"images are {images.shape[0]} of {images.shape[1]} x {images.shape[2]} px"
        )
    return pictures


def panel(images, mask, grid, filled, target=None, note=None):
    """Original, what the encoder saw, what the method filled in, both together, and the error.

    All images (B, 3, H, W) in [0, 1], mask bool (B, N). The error is the absolute difference of filled and
    `target` (the images where None), averaged over colours, all rows on one scale. `note` says under the title
    what a reader must know, such as that de-normalising used the true patch mean and deviation.
    """
    original, guess = (
        colours(images),
        _same("filled", colours(filled, "filled"), colours(images)),
    )
    truth = original if target is None else _same("target", colours(target, "target"), original)
    error = np.abs(guess.astype(float) - truth).mean(-1) / 255  # (B, H, W)
    top = float(np.ceil(error.max() * 20) / 20)
    columns = {"image": original}
    if target is not None:
        columns["target"] = truth
    columns |= {
        "visible": colours(hide(images, mask, grid)),
        "filled in": guess,
        "visible + filled in": _blend(original, mask, grid, guess),
        "error": painted(error, top),
    }
    return panels(columns, title="Reconstruction", note=note, scale=(top, "absolute error"))


def branches(images, mask_a, mask_b, grid, filled_a, filled_b):
    """SplitMask's two branches: what each sees, how it completes it, and the two completions merged.

    The merged picture takes each patch from the branch that did not see it; a patch that neither branch had
    hidden stays the image's, one that both had hidden is the mean of the two. Figure 2 of the SplitMask paper.
    """
    original = colours(images)
    one = _same("filled_a", colours(filled_a, "filled_a"), original)
    other = _same("filled_b", colours(filled_b, "filled_b"), original)
    a, b = numpy(mask_a).astype(bool), numpy(mask_b).astype(bool)
    merged = _blend(_blend(original, a, grid, one), b, grid, other)
    mean = ((one.astype(int) + other) // 2).astype(np.uint8)
    columns = {
        "image": original,
        "A sees": colours(hide(images, a, grid)),
        "A's completion": _blend(original, a, grid, one),
        "B sees": colours(hide(images, b, grid)),
        "B's completion": _blend(original, b, grid, other),
        "merged": _blend(merged, a & b, grid, mean),
    }
    return panels(columns, title="The two branches")
