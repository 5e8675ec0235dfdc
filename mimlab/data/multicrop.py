"""Multi-crop (Caron et al. 2020, arXiv 2006.09882, as DINO uses it): two large views of an image and some small ones.

Each view is an `Augment` of its own: both global views cut 40 to 100 % of the image, the local ones 5 to 40 %,
into fewer pixels. All are flipped, jittered and made grey alike. The first global view is always blurred, the
second hardly ever but sometimes solarized, the local ones every other time.
Source: DINO (arXiv 2104.14294), main_dino.py, DataAugmentationDINO.

The blur's radius in pixels is the same for all views, in proportion to the global ones' side.

Differs from DINO's code: what `augment.py` says of colour and blur.
"""

from typing import Annotated

import torch

from mimlab import kinds
from mimlab.data.augment import Augment, Jitter, Scale
from mimlab.errors import Refused, shown

Each = tuple[kinds.Share, kinds.Share, kinds.Share]  # first global, second global and local views
LOCAL = 96 / 224  # side of a local view, in sides of a global one


class MultiCrop:
    """Two global views and `local_crops` local ones, as a tuple of batches: global, global, local, ...

    size: side of a global view in pixels. local_size: side of a local one, a multiple of `patch`; None: 96 / 224
    of `size`, to the nearest multiple. global_scale, local_scale: share of the image's area that is cut.
    blur, solarize: probabilities for the first global, the second global and the local views. The rest as in
    `Augment`, for all views. `patch`: what the method fills in, pixels of its encoder's patch.
    Without local crops the paper uses global_scale = (0.14, 1.0).
    """

    def __init__(
        self,
        size,
        *,
        global_scale: Scale | None = (0.4, 1.0),
        local_crops: Annotated[int, (0, 100)] = 8,
        local_size: Annotated[int, (1, 4096)] | None = None,
        local_scale: Scale | None = (0.05, 0.4),
        flip: kinds.Share = 0.5,
        jitter: Jitter = (0.4, 0.4, 0.2, 0.1),
        jitter_p: kinds.Share = 0.8,
        grey: kinds.Share = 0.2,
        blur: Each = (1.0, 0.1, 0.5),
        solarize: Each = (0.0, 0.2, 0.0),
        patch: Annotated[int, (1, 4096)] = 1,
    ):
        if isinstance(local_crops, bool) or not isinstance(local_crops, int) or not 0 <= local_crops <= 100:
            raise Refused(f"local_crops = {shown(local_crops)} is a number of views, from 0 to 100")
        for name, values in (("blur", blur), ("solarize", solarize)):
            if not isinstance(values, (tuple, list)) or len(values) != 3:
                raise Refused(
                    f"{name} = {shown(values)} should be three probabilities: first global, second global, local"
                )
        if local_size is None:
            local_size = max(1, round(LOCAL * size / patch)) * patch
        elif isinstance(local_size, bool) or not isinstance(local_size, int) or local_size < 1 or local_size % patch:
            near = max(1, round(local_size / patch)) * patch if isinstance(local_size, (int, float)) else patch
            raise Refused(f"local_size = {shown(local_size)} is no multiple of patch_size = {patch}; try {near}")
        alike = {"flip": flip, "jitter": jitter, "jitter_p": jitter_p, "grey": grey}
        views = [
            Augment(side, scale=scale, blur=blurred, blur_side=size, solarize=solarized, **alike)
            for side, scale, blurred, solarized in zip(
                (size, size, local_size), (global_scale, global_scale, local_scale), blur, solarize, strict=True
            )
        ]
        self.views = views[:2] + views[2:] * local_crops
        self.local_crops = local_crops

    def __call__(self, images, generator):
        return self.apply(images, self.draw(len(images), generator))

    def draw(self, batch, generator):
        """`Augment.draw` of each view in turn, as one dict: "0 crop", "0 place", ..., "1 crop", ..."""
        drawn = [view.draw(batch, generator) for view in self.views]
        return {f"{index} {name}": value for index, draws in enumerate(drawn) for name, value in draws.items()}

    def apply(self, images, draws):
        """uint8 images (B, 3, H, W) and their rows of `draw` -> a float (B, 3, side, side) in [0, 1] for each view."""
        own = [{} for _ in self.views]
        for name, value in draws.items():
            index, name = name.split(" ")
            own[int(index)][name] = value
        views = [view.apply(images, draws) for view, draws in zip(self.views[:2], own[:2], strict=True)]
        if self.local_crops:  # all at once
            together = {name: torch.cat([draws[name] for draws in own[2:]]) for name in own[2]}
            views += self.views[2].apply(images, together).chunk(self.local_crops)
        return tuple(views)
