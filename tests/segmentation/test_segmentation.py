"""Heads, mean intersection over union, and the loop with them."""

import pytest
import torch

from mimlab.config.detect import Detect
from mimlab.detection.backbone import any_size
from mimlab.detection.training import train
from mimlab.encoders import create
from mimlab.segmentation import metrics
from mimlab.segmentation.heads import Linear, Uper
from mimlab.segmentation.model import Segmenter, padded

TINY = {"dim": 16, "depth": 2, "heads": 2}


def test_mean_intersection_over_union_by_hand():
    truth = torch.tensor([[0, 0, 1, 1], [2, 2, 255, 0]])
    found = torch.tensor([[0, 1, 1, 1], [2, 0, 0, 0]])
    counts = metrics.confusion(truth, found, 4)
    assert counts.sum() == 7  # 255 is left out
    numbers, each = metrics.score(counts, ["a", "b", "c"])
    assert each == {
        "background": pytest.approx(50),
        "a": pytest.approx(200 / 3),
        "b": pytest.approx(50),
    }  # c is not there
    assert numbers == {
        "miou": pytest.approx(55.556),
        "miou_objects": pytest.approx(58.333),
        "pixel_accuracy": pytest.approx(71.429),
    }


def test_the_interval_is_over_images():
    """Half of the images are right everywhere, half nowhere: a bootstrap of the share of right ones."""
    right, wrong = torch.tensor([[50, 0], [0, 50]]), torch.tensor([[0, 50], [50, 0]])
    assert metrics.interval([right] * 6) == pytest.approx([100, 100])
    low, high = metrics.interval([right] * 20 + [wrong] * 20)
    shares = torch.tensor([0.5 - 1.96 * 0.079, 0.5 + 1.96 * 0.079])  # of images, binomial
    assert [low, high] == pytest.approx((100 * shares / (2 - shares)).tolist(), abs=4)  # intersection over union


def test_heads():
    maps = [torch.randn(2, 16, 8, 12) for _ in range(4)]
    assert Linear(16, 5)(maps).shape == (2, 5, 8, 12)
    head = Uper(16, 8, 5, 8)
    logits = head(maps)
    assert logits.shape == (2, 5, 16, 24)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in head.named_parameters() if p.ndim > 1)


@pytest.mark.parametrize("head", ["uper", "linear"])
def test_images_of_any_size(head):
    torch.manual_seed(0)
    encoder = create("vit", 64, 8, positions="sincos", **TINY)
    any_size(encoder)
    model = Segmenter(encoder, 3, head, channels=8, sides=(48,), long_side=96)
    images = [torch.rand(3, 40, 90), torch.rand(3, 64, 64)]
    targets = [{"classes": torch.randint(0, 4, image.shape[1:])} for image in images]
    loss = model.train()(images, targets)["loss_pixels"]
    loss.backward()
    assert 0.5 < loss.item() < 5 and encoder.trunk.patch_embed.proj.weight.grad.abs().sum() > 0
    with torch.no_grad():
        found = model.eval()(images)
    assert [one.shape for one in found] == [image.shape[1:] for image in images]


def test_padding_is_in_no_loss():
    labels = padded(torch.ones(4, 6, dtype=torch.int64), (2, 3), (3, 4))
    assert labels.tolist() == [[1, 1, 1, 255], [1, 1, 1, 255], [255] * 4]


def test_frozen_trains_the_head_only(tmp_path):
    from mimlab.detection import start, training
    from mimlab.segmentation import task

    pictures = {"size": 64, "train": 4, "test": 2}
    cfg = Detect(
        task="segment", head="linear", frozen=True, encoder_args=TINY, data_args=pictures, image_size=64, epochs=2, batch_size=2,
        log_every=1, device="cpu", out=str(tmp_path), run="s",
    )  # fmt: skip
    rows = []
    found = train(cfg, report=rows.append)
    assert (
        0 <= found["intervals"]["miou"][0] <= found["numbers"]["miou"] <= found["intervals"]["miou"][1] <= 100
        and "background" in found["curves"]["iou"]
        and len([r for r in rows if "loss" in r]) == 4
    )
    torch.manual_seed(0)
    fresh = task.build(start.encoder(cfg.resolved())[0], found["classes"], cfg.resolved()).state_dict()
    trained = training.opened(cfg)[0].state_dict()
    moved = {name.split(".")[0] for name in fresh if not torch.equal(fresh[name], trained[name])}
    assert moved == {"head"}
