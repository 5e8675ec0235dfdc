"""Average precision on cases that can be worked out by hand."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from mimlab.detection import metrics
from mimlab.detection.data import annotated


def picture(boxes, labels, crowd=None):
    masks = torch.zeros(len(boxes), 200, 200, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
        mask[top:bottom, left:right] = 1
    return annotated(boxes, labels, masks, torch.zeros(3, 200, 200, dtype=torch.uint8), crowd=crowd)


def found(boxes, labels, scores):
    one = picture(boxes, labels)
    return {"boxes": one.boxes, "labels": one.labels, "masks": one.masks.bool(), "scores": torch.tensor(scores)}


SMALL, LARGE, FAR = [10, 10, 30, 30], [50, 50, 170, 170], [180, 180, 199, 199]


def test_perfect_detections():
    numbers, curves, _ = metrics.score(
        [picture([SMALL, LARGE], [1, 2])], [found([SMALL, LARGE], [1, 2], [0.9, 0.8])], ["a", "b"]
    )
    for kind in ("box", "mask"):
        assert [numbers[f"{kind}_{n}"] for n in ("ap", "ap50", "ap75", "ap_small", "ap_large")] == [100] * 5
        assert numbers[f"{kind}_ap_medium"] is None
        assert len(curves[kind]["0.5"]) == 101 and curves[kind]["0.5"].min() == 1


def test_a_wrong_one_before_a_right_one():
    """Precision 1/2 at every recall; with the wrong one behind, 1."""
    truth = [picture([LARGE], [1])]
    before, *_ = metrics.score(truth, [found([FAR, LARGE], [1, 1], [0.9, 0.8])], ["a"])
    behind, *_ = metrics.score(truth, [found([FAR, LARGE], [1, 1], [0.7, 0.8])], ["a"])
    assert (before["box_ap"], behind["box_ap"]) == (50, 100)


def test_overlap_decides_at_which_thresholds_it_counts():
    """120 x 120 shifted by 20: IoU 5/7 = 0.714, so right at 0.50 to 0.70, five of ten thresholds."""
    shifted = [70, 50, 190, 170]
    numbers, *_ = metrics.score([picture([LARGE], [1])], [found([shifted], [1], [0.9])], ["a"])
    assert (numbers["box_ap"], numbers["box_ap50"], numbers["box_ap75"]) == (50, 100, 0)
    assert numbers["mask_ap"] == 50


def test_half_of_the_objects():
    """Recall ends at 1/2: 51 of 101 points have precision 1. The mean is over classes that are there."""
    numbers, curves, _ = metrics.score(
        [picture([SMALL, LARGE], [1, 1])], [found([LARGE], [1], [0.9])], ["a", "never there"]
    )
    assert numbers["box_ap"] == pytest.approx(100 * 51 / 101, abs=1e-3)
    assert (numbers["box_ap_small"], numbers["box_ap_large"]) == (0, 100)
    assert curves["mask"]["0.75"][50] == 1 and curves["mask"]["0.75"][51] == 0


def test_masks_and_boxes_are_judged_apart():
    one = found([LARGE], [1], [0.9])
    one["masks"][0, :, 110:] = False  # half of the mask: IoU 1/2
    numbers, *_ = metrics.score([picture([LARGE], [1])], [one], ["a"])
    assert numbers["box_ap"] == 100 and numbers["mask_ap"] == 10  # at 0.50 only


def test_what_lies_in_a_crowd_is_no_error():
    numbers, *_ = metrics.score(
        [picture([LARGE, SMALL], [1, 1], [True, False])], [found([LARGE, SMALL], [1, 1], [0.9, 0.8])], ["a"]
    )
    assert numbers["box_ap"] == 100


def test_nothing_found_and_nothing_there():
    numbers, curves, intervals = metrics.score([picture([LARGE], [1])], [found([], [], [])], ["a"])
    assert intervals["box_ap"] == [0, 0]
    assert numbers["box_ap"] == 0 and numbers["box_ap_large"] == 0 and numbers["box_ap_small"] is None
    assert curves["box"]["0.5"].max() == 0
    nothing, _, intervals = metrics.score([picture([], [])], [found([LARGE], [1], [0.9])], ["a"])
    assert nothing["box_ap"] is None and intervals["mask_ap75"] is None


def test_intervals_are_those_of_scoring_drawn_images_anew(monkeypatch):
    """The bootstrap reuses matches; here every drawn set of images is scored from the beginning."""
    random = np.random.default_rng(5)
    pictures, detections = [], []
    for _ in range(8):
        shift = int(random.integers(0, 60))
        pictures.append(picture([SMALL, LARGE], [1, 2]))
        moved = [LARGE[0] + shift, LARGE[1], LARGE[2] + shift, LARGE[3]]
        detections.append(found([SMALL, moved, FAR], [1, 2, 2], random.random(3).tolist()))
    monkeypatch.setattr(metrics, "RESAMPLES", 40)
    numbers, _, intervals = metrics.score(pictures, detections, ["a", "b"])
    monkeypatch.setattr(metrics, "RESAMPLES", 1)
    draws, values = np.random.default_rng(0), []
    for _ in range(40):
        rows = draws.integers(0, 8, 8)
        values.append(metrics.score([pictures[k] for k in rows], [detections[k] for k in rows], ["a", "b"])[0])
    for name in ("box_ap", "box_ap75", "mask_ap50"):
        drawn = np.array([one[name] for one in values])
        ties = np.abs(drawn - numbers[name]) < 1e-3
        below = np.clip(((drawn < numbers[name]) & ~ties).mean() + ties.mean() / 2, 1 / 80, 79 / 80)
        levels = norm.cdf(2 * norm.ppf(below) + norm.ppf([0.025, 0.975]))  # Efron's bias-corrected percentiles
        expected = np.percentile(drawn, 100 * levels)
        assert intervals[name] == pytest.approx(expected, abs=2e-3)
        assert intervals[name][0] <= numbers[name] <= intervals[name][1]
    assert intervals["box_ap"][0] < intervals["box_ap"][1]


def test_a_biased_bootstrap_is_corrected():
    """With as many resamples above as below the value the plain percentiles stay; an upward bias moves both ends down."""
    drawn = np.random.default_rng(0).normal(5.0, 1.0, 20001)
    assert metrics.corrected(drawn, np.median(drawn)) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=1e-6)
    low, high = metrics.corrected(drawn, 4.5)  # 69 % of the resamples lie above it
    assert low == pytest.approx(5 - 2 * 0.5 - 1.96, abs=0.15) and high == pytest.approx(5 - 2 * 0.5 + 1.96, abs=0.05)
    assert np.isnan(metrics.corrected(np.array([np.nan]), 1.0)).all()
