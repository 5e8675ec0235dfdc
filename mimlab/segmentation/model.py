"""An encoder that gives every pixel a class."""

from typing import Annotated

import torch
from torch import nn
from torch.nn.functional import cross_entropy, interpolate, pad
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from mimlab.detection.backbone import DIVISOR, Maps
from mimlab.detection.neck import depths
from mimlab.segmentation.heads import Linear, Uper

IGNORED = 255  # label of pixels that are in no loss and no number: crowds, padding


class Segmenter(nn.Module):
    """In training a dict with the loss; else the classes of all pixels, int64 (H, W) an image, 0 being background.

    Images are lists of (3, H, W) in [0, 1] of any sizes, targets dicts with `classes` (H, W). `head` "uper" or "linear".
    """

    def __init__(
        self, encoder, classes, head, *, channels: Annotated[int, (1, 4096)] = 256, sides=(512,), long_side=2048
    ):
        super().__init__()
        layers = depths(encoder.depth) if head == "uper" else (encoder.depth - 1,)
        self.backbone = Maps(encoder, layers)
        self.head = (
            Uper(encoder.dim, encoder.patch, classes + 1, channels)
            if head == "uper"
            else Linear(encoder.dim, classes + 1)
        )
        mean = encoder.normalise.mean.flatten().tolist()
        self.transform = GeneralizedRCNNTransform(tuple(sides), long_side, mean, [1.0] * 3, size_divisible=DIVISOR)

    def forward(self, images, targets=None):
        batch, _ = self.transform(images)
        side = batch.tensors.shape[2:]
        logits = interpolate(self.head(self.backbone(batch.tensors)), size=side, mode="bilinear", align_corners=False)
        if self.training:
            labels = torch.stack(
                [padded(one["classes"], size, side) for one, size in zip(targets, batch.image_sizes, strict=True)]
            )
            counted = (labels != IGNORED).sum().clamp_min(1)
            return {
                "loss_pixels": cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum") / counted
            }
        found = []
        for one, image, (height, width) in zip(logits, images, batch.image_sizes, strict=True):
            whole = interpolate(
                one[None, :, :height, :width], size=image.shape[1:], mode="bilinear", align_corners=False
            )
            found.append(whole[0].argmax(dim=0))
        return found


def padded(labels, size, side):
    """Labels (H, W) at `size`, nearest, filled up with `IGNORED` to `side`."""
    labels = interpolate(labels[None, None].float(), size=size, mode="nearest")[0, 0].long()
    return pad(labels, (0, side[1] - size[1], 0, side[0] - size[0]), value=IGNORED)
