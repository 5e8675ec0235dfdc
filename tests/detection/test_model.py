"""Backbones for images of any size, and the detector on them."""

import pytest
import torch

from mimlab.detection.backbone import Backbone, any_size
from mimlab.detection.model import mask_rcnn
from mimlab.encoders import create
from mimlab.errors import Refused
from mimlab.layers import sincos_2d

TINY = {"dim": 16, "depth": 2, "heads": 2}
SMALL = {"channels": 8, "hidden": 16, "regions": 8, "proposals": 20, "anchor_scale": 4, "sides": (64,), "long_side": 96}


def test_positions_are_computed_for_the_grid():
    encoder = create("vit", 32, 8, positions="sincos", **TINY).eval()
    before = encoder.positions_at((4, 4))[1].clone()
    assert any_size(encoder) == ""
    assert torch.allclose(encoder.positions_at((4, 4))[1], before, atol=1e-6)
    assert torch.equal(encoder.positions_at((3, 7))[1][0], sincos_2d(16, (3, 7)))
    moved = encoder.positions_at((6, 6))[1].reshape(6, 6, 16)[:4, :4]
    assert torch.allclose(moved, before.reshape(4, 4, 16), atol=1e-6)  # a larger image continues the grid


def test_learned_positions_are_replaced_and_it_says_so():
    encoder = create("vit", 32, 8, positions="learned", **TINY)
    torch.nn.init.normal_(encoder.trunk.pos_embed)
    assert "replaced by sine-cosine" in any_size(encoder)
    assert torch.equal(encoder.positions_at((4, 4))[1][0], sincos_2d(16, (4, 4)))
    assert not encoder.trunk.pos_embed.requires_grad


@pytest.mark.parametrize("name", ["vit", "xcit"])
def test_every_trained_parameter_of_the_backbone_is_reached(name):
    encoder = create(name, 32, 8, **TINY)
    any_size(encoder)
    backbone = Backbone(encoder, 8)
    maps = backbone(torch.rand(2, 3, 64, 96))
    assert [tuple(x.shape) for x in maps.values()] == [(2, 8, h, 3 * h // 2) for h in (16, 8, 4)] + [
        (2, 8, 2, 3),
        (2, 8, 1, 2),
    ]
    sum(x.square().sum() for x in maps.values()).backward()
    assert [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None] == []


def test_encoders_of_one_size_are_refused():
    for name in ("beit", "resnet18"):
        with pytest.raises(Refused, match="maps of four depths for images of any size"):
            any_size(create(name, 32, 8, **(TINY if name == "beit" else {})))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    encoder = create("vit", 64, 8, positions="sincos", **TINY)
    any_size(encoder)
    return mask_rcnn(encoder, 3, **SMALL)


def test_anchors_and_regions_are_sized_together(model):
    areas = [cell.prod(dim=1) ** 0.5 for cell in (c[:, 2:] - c[:, :2] for c in model.rpn.anchor_generator.cell_anchors)]
    assert [round(float(a.mean())) for a in areas] == [16, 32, 64, 128, 256]
    assert model.roi_heads.box_roi_pool.canonical_scale == 112
    assert (model.roi_heads.box_roi_pool.output_size, model.roi_heads.mask_roi_pool.output_size) == ((7, 7), (14, 14))


def test_padding_is_the_mean_colour(model):
    image = model.backbone.encoder.normalise.mean[0].expand(3, 40, 70)
    batch, _ = model.eval().transform([image, torch.rand(3, 64, 64)])
    assert batch.tensors.shape[2:] == (64, 96) and batch.tensors[0].abs().max() < 1e-6


def test_images_of_any_size_with_and_without_objects(model):
    torch.manual_seed(0)
    images = [torch.rand(3, 48, 80), torch.rand(3, 70, 64)]
    masks = torch.zeros(1, 48, 80, dtype=torch.uint8)
    masks[0, 10:30, 20:50] = 1
    targets = [
        {"boxes": torch.tensor([[20.0, 10, 50, 30]]), "labels": torch.tensor([2]), "masks": masks},
        {
            "boxes": torch.zeros(0, 4),
            "labels": torch.zeros(0, dtype=torch.int64),
            "masks": torch.zeros(0, 70, 64, dtype=torch.uint8),
        },
    ]
    for chosen in (slice(0, 2), slice(1, 2)):  # also a batch without any object
        losses = model.train()(images[chosen], targets[chosen])
        assert len(losses) == 5 and all(torch.isfinite(loss) for loss in losses.values())
    with torch.no_grad():
        found = model.eval()(images)
    for one, image in zip(found, images, strict=True):
        assert one["masks"].shape[2:] == image.shape[1:]
        assert (one["boxes"] >= 0).all() and (one["boxes"][:, 2::2] <= image.shape[2]).all()
