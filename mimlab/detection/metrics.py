"""COCO's average precision (Lin et al. 2014, arXiv 1405.0312) by faster-coco-eval, its C++ evaluator.

The mean over classes and IoU 0.50, 0.55, ..., 0.95 of the area under precision against recall at 101 points, 100
detections an image. Small objects have at most 32^2 square pixels, large ones at least 96^2, in the images' own pixels.
"""

import copy
from statistics import NormalDist

import numpy as np
import torch

NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")  # the first six of the evaluator's statistics
KINDS = {"box": "bbox", "mask": "segm"}
RESAMPLES = 200
SURE = (2.5, 97.5)  # percentiles


def score(pictures, detections, classes):
    """({"box_ap": %, ..., "mask_ap_large": %}, precision curves, intervals) of detections beside the true objects.

    pictures: `Picture` an image; detections: a dict an image with boxes (K, 4), labels (K,) from 1, scores (K,) and masks
    (K, H, W) bool. A number is None where there is no such object. Curves: {"box": {"0.5": (101,), "0.75": (101,)}, "mask": ...} of the
    mean precision over classes, at recall 0, 0.01, ..., 1. Intervals: {"box_ap": [low, high], ...} of both kinds' first
    three numbers, 95 % of a bootstrap over the images, corrected for its bias. Crowds count as in COCO: what is found there is no error.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    truth = COCO(_truth(pictures, classes))
    found = _found(detections)
    numbers, curves, intervals = {}, {}, {}
    for kind, name in KINDS.items():
        if not found or not truth.anns:
            values, precision = _nothing(truth)
            spans = [[0.0, 0.0] if value == 0 else None for value in values[:3]]
        else:
            guesses = truth.loadRes([dict(one) for one in found])
            judge = COCOeval_faster(truth, guesses, name, print_function=_quiet, separate_eval=True)
            judge.evaluate()
            judge.accumulate()
            judge.summarize()
            values, precision = judge.stats[: len(NAMES)], judge.eval["precision"]  # (T, R, K, A, M)
            spans = _spans(judge, values[:3])
        values = [None if value < 0 else round(100 * float(value), 3) for value in values]
        numbers |= {f"{kind}_{n}": value for n, value in zip(NAMES, values, strict=True)}
        intervals |= {f"{kind}_{n}": span for n, span in zip(NAMES[:3], spans, strict=True)}
        curves[kind] = {}
        for row, threshold in ((0, "0.5"), (5, "0.75")):
            each = precision[row, :, :, 0, -1]  # (R, K) for objects of all sizes
            there = each[:, (each > -1).all(axis=0)]
            curves[kind][threshold] = there.mean(axis=1) if there.shape[1] else np.zeros(len(each))
    return numbers, curves, intervals


def _spans(judge, values):
    """[low, high] of AP, AP50 and AP75 in percent, 95 % of a bootstrap over the images, corrected for its bias.

    Detections are matched to objects once; what is drawn again is which images are counted, for objects of all sizes. AP of
    few images drawn with repetition is larger on average than theirs, so the ends are those percentiles that leave as much on
    either side of `values`, shares of 1 (Efron 1981, the bias-corrected percentile method).
    """
    from faster_coco_eval.faster_eval_api_cpp import COCOevalAccumulate

    settings, random = copy.deepcopy(judge._paramsEval), np.random.default_rng(0)
    shape = len(settings.catIds), len(settings.areaRng), len(settings.imgIds)
    matched = np.empty(int(np.prod(shape)), object)
    matched[:] = judge._evalImgs_cpp
    matched = matched.reshape(shape)[:, 0]  # (K, images)
    settings.areaRng, settings.areaRngLbl = settings.areaRng[:1], settings.areaRngLbl[:1]
    settings.maxDets = settings.maxDets[-1:]
    found = []
    for _ in range(RESAMPLES):
        drawn = matched[:, random.integers(0, shape[2], shape[2])]
        precision = COCOevalAccumulate(settings, list(drawn.reshape(-1)))["precision"]  # (T, R, K, 1, 1)
        found.append(
            [
                np.mean(some[some > -1]) if (some > -1).any() else np.nan
                for some in (precision, precision[0], precision[5])
            ]
        )
    spans = 100 * np.array(
        [corrected(np.array(drawn), value) for drawn, value in zip(zip(*found), values, strict=True)]
    )
    return [None if np.isnan(span).any() else [round(float(v), 3) for v in span] for span in spans]


def corrected(drawn, value):
    """The ends [low, high] of a bias-corrected interval: `drawn` (R,) of a bootstrap, nan left out, around `value`."""
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return [np.nan, np.nan]
    normal, least = NormalDist(), 0.5 / len(drawn)
    below = (drawn < value - 1e-9).mean() + (np.abs(drawn - value) <= 1e-9).mean() / 2
    bias = normal.inv_cdf(float(np.clip(below, least, 1 - least)))
    ends = [100 * normal.cdf(2 * bias + normal.inv_cdf(share / 100)) for share in SURE]
    return np.percentile(drawn, ends)


def _nothing(truth):
    """Statistics and precision where nothing was found: 0 where there was something to find, else -1."""
    areas = [one["area"] for one in truth.anns.values() if not one["iscrowd"]]
    sizes = (
        min(areas, default=-1) >= 0,
        *(any(low <= a < high for a in areas) for low, high in ((0, 32**2), (32**2, 96**2), (96**2, 1e12))),
    )
    all_, small, medium, large = (0.0 if there else -1.0 for there in sizes)
    return [all_, all_, all_, small, medium, large], np.full((10, 101, 1, 4, 3), all_)


def _truth(pictures, classes):
    images, objects = [], []
    for number, picture in enumerate(pictures, 1):
        height, width = picture.image.shape[1:]
        images.append({"id": number, "height": height, "width": width})
        for k, box in enumerate(picture.boxes.tolist()):
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": number,
                    "category_id": int(picture.labels[k]),
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    "area": float(picture.areas[k]),
                    "iscrowd": int(picture.crowd[k]),
                    "segmentation": encode(picture.masks[k]),
                }
            )
    names = [{"id": k, "name": name} for k, name in enumerate(classes, 1)]
    return {"info": {}, "images": images, "annotations": objects, "categories": names}


def _found(detections):
    found = []
    for number, one in enumerate(detections, 1):
        for box, label, score, mask in zip(
            one["boxes"].tolist(), one["labels"].tolist(), one["scores"].tolist(), one["masks"], strict=True
        ):
            sides = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            found.append(
                {"image_id": number, "category_id": label, "score": score, "bbox": sides, "segmentation": encode(mask)}
            )
    return found


def encode(mask):
    """COCO's run lengths of a mask (H, W)."""
    from faster_coco_eval import mask as runs

    return runs.encode(np.asfortranarray(torch.as_tensor(mask).cpu().numpy().astype(np.uint8)))


def _quiet(*said):
    """The evaluator's table is not printed."""
