"""Segmentation as a task of `detection.training.train`: `build`, `spared`, `augmented`, `target`, `evaluate`."""

import torch

from mimlab.detection.recipes import SCALES
from mimlab.segmentation import metrics
from mimlab.segmentation.model import Segmenter

PROTOCOL = (
    "semantic segmentation, UperNet's or a linear head on the encoder, sine-cosine positions; mean intersection over union in percent over the "
    "classes of the test images, background being one; one scale, no flip; the last epoch, nothing chosen on the test images"
)
METRIC = "miou"  # the first of the numbers
AT_ONCE = 8  # images


def build(encoder, classes, cfg):
    """The segmenter for names `classes` and resolved `Detect` settings."""
    sides = [round(share * cfg.image_size) for share in SCALES] if cfg.multi_scale else [cfg.image_size]
    return Segmenter(encoder, len(classes), cfg.head, channels=cfg.channels, sides=sides, long_side=cfg.long_side)


def spared(name, parameter):
    """Whether a parameter is not decayed: norms, biases, positions and class tokens (BEiT, semantic_segmentation), relative tables too."""
    last = name.split(".")[-1]
    return parameter.ndim <= 1 or last in ("pos_embed", "cls_token", "relative_position_bias_table")


def augmented(picture, cfg, generator):
    """The `Picture` as it is: what `multi_scale` does is done by the model."""
    return picture


def target(picture):
    """What the loss needs of a `Picture`."""
    return {"classes": picture.semantic()}


def evaluate(model, pictures):
    """(numbers, {"iou": {class: (1,)}}, {"miou": [low, high]}) of `metrics` on all test pictures."""
    device, kinds = next(model.parameters()).device, len(pictures.classes) + 1
    counts = []
    for start in range(0, len(pictures), AT_ONCE):
        some = [pictures.item(i) for i in range(start, min(start + AT_ONCE, len(pictures)))]
        for picture, found in zip(some, predict(model, [one.image for one in some], device), strict=True):
            counts.append(metrics.confusion(picture.semantic(), found, kinds))
    numbers, each = metrics.score(sum(counts), pictures.classes)
    return numbers, {"iou": {name: [value] for name, value in each.items()}}, {"miou": metrics.interval(counts)}


@torch.inference_mode()
def predict(model, images, device="cpu"):
    """The classes of the pixels of uint8 images (3, H, W): int64 (H, W) each, on the CPU."""
    training = model.training
    model.eval()
    found = [one.cpu() for one in model([image.to(device).float() / 255 for image in images])]
    model.train(training)
    return found
