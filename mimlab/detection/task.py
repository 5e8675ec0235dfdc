"""Detection as a task of `training.train`: `build`, `spared`, `augmented`, `target`, `evaluate`."""

import torch

from mimlab.detection import metrics
from mimlab.detection.model import mask_rcnn
from mimlab.detection.recipes import CUT, FIRST, SCALES, SIDES

PROTOCOL = (
    "Mask R-CNN on the encoder through XCiT's pyramid of four depths, sine-cosine positions; COCO's box and mask AP in percent, 100 "
    "detections an image, areas in pixels of the test images; the last epoch, nothing chosen on the test images"
)
METRIC = "box_ap"  # the first of the numbers
AT_ONCE = 8  # images


def build(encoder, classes, cfg):
    """The detector for names `classes` and resolved `Detect` settings."""
    sides = [round(share * cfg.image_size) for share in SCALES] if cfg.multi_scale else [cfg.image_size]
    wanted = ("channels", "hidden", "regions", "proposals", "anchor_scale", "long_side")
    return mask_rcnn(encoder, len(classes), sides=sides, **{name: getattr(cfg, name) for name in wanted})


def spared(name, parameter):
    """Whether a parameter is not decayed: norms, positions and relative tables (Swin-Transformer-Object-Detection, configs/swin)."""
    return any(part in name for part in ("norm", "pos_embed", "relative_position_bias_table"))


def augmented(picture, cfg, generator):
    """The `Picture`, or by chance a rectangle cut out of it after a resize, with `multi_scale` (Swin's and XCiT's detection configs).

    Height and width are drawn each for itself, the place is uniform, and objects outside are left out, all of them if need be.
    """
    if not cfg.multi_scale or torch.rand((), generator=generator) >= CUT:
        return picture

    def whole(low, high):  # uniform, both ends included
        return int(torch.randint(low, high + 1, (), generator=generator))

    picture = picture.resized(round(FIRST[whole(0, len(FIRST) - 1)] * cfg.image_size), cfg.long_side)
    sides = picture.image.shape[1:]
    low, high = (max(1, round(share * cfg.image_size)) for share in SIDES)
    size = [whole(min(side, low), min(side, high)) for side in sides]
    top, left = (whole(0, side - one) for side, one in zip(sides, size, strict=True))
    return picture.cut(top, left, *size)


def target(picture):
    """What the loss needs of a `Picture`."""
    return picture.target()


def evaluate(model, pictures):
    """(numbers, curves, intervals) of `metrics.score` on all test pictures."""
    device = next(model.parameters()).device
    seen, found = [], []
    for start in range(0, len(pictures), AT_ONCE):
        some = [pictures.item(i) for i in range(start, min(start + AT_ONCE, len(pictures)))]
        seen += some
        found += predict(model, [picture.image for picture in some], device)
    return metrics.score(seen, found, pictures.classes)


@torch.inference_mode()
def predict(model, images, device="cpu", least=0.05):
    """Detections in uint8 images (3, H, W): dicts of boxes, labels, scores from `least`, and masks (K, H, W) bool, on the CPU."""
    training = model.training
    model.eval()
    found = []
    for one in model([image.to(device).float() / 255 for image in images]):
        kept = one["scores"] >= least
        found.append({name: one[name][kept].cpu() for name in ("boxes", "labels", "scores")})
        found[-1]["masks"] = (one["masks"][kept, 0] >= 0.5).cpu()
    model.train(training)
    return found
