"""What was made faster trains as before: the first 20 losses against the plain definitions, written out here."""

import pytest
import torch
from torch.nn.functional import conv2d, pad
from torchvision.transforms.v2 import functional as tv

import mimlab
from mimlab.batches import Batches
from mimlab.data import _pixels, augment, multicrop
from mimlab.distributed import generator_for

TINY = {
    "encoder_args": {"dim": 24, "depth": 1, "heads": 2},
    "data": "emoji",  # in colour
    "fraction": 0.1,
    "image_size": 28,
    "patch_size": 7,
    "batch_size": 32,
    "updates": "20",
    "log_every": 1,
    "knn_every": 0,
    "film": 0,
    "device": "cpu",
    "clip": 0,
    "lr": 4e-3,  # so that each step is seen in the next one's loss
    "warmup_epochs": 0,
}
DINO = {"method": "dino", "method_args": {"out_dim": 32, "head_dim": 24, "bottleneck_dim": 8}, "tokenizer": "none"}
SIMMIM = {"method": "simmim", "encoder": "vit", "tokenizer": "none"}  # bilinear crops
MAE = {"method": "mae", "method_args": {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}}


def rows(self, step):
    """A whole permutation at every step."""
    epoch, place = divmod(step, self.each)
    order = torch.randperm(len(self.images), generator=generator_for(self.seed, epoch, "order"))
    return order[place * self.batch_size : (place + 1) * self.batch_size]


def crops(images, boxes, flipped, size, mode="bicubic"):
    """One crop after the other, by torchvision, on floats."""
    found = []
    for i, (top, left, h, w) in enumerate(boxes.tolist()):
        image = images[i % len(images)].float() / 255
        one = tv.resized_crop(image, top, left, h, w, [size, size], tv.InterpolationMode(mode), antialias=True)
        found.append(one.flip(2) if flipped[i] else one)
    return torch.stack(found).clamp(0, 1)


def blur(x, sigma, radius):
    """Two convolutions an image, over mirrored borders."""
    radius = min(radius, x.shape[2] - 1)
    found = []
    for image, one in zip(x, sigma, strict=True):
        kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / one) ** 2)
        kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
        y = pad(image[None], (radius,) * 4, mode="reflect")
        found.append(conv2d(conv2d(y, kernel, groups=3), kernel.transpose(2, 3), groups=3)[0])
    return torch.stack(found)


def hue(x, shift):
    return torch.stack([tv.adjust_hue(image, float(one)) for image, one in zip(x, shift, strict=True)])


def views(self, images, draws):
    """Every view by itself."""
    own = [{} for _ in self.views]
    for name, value in draws.items():
        index, name = name.split(" ")
        own[int(index)][name] = value
    return tuple(view.apply(images, part) for view, part in zip(self.views, own, strict=True))


@pytest.mark.parametrize(
    "method",
    [pytest.param(DINO, marks=pytest.mark.slow), MAE, pytest.param(SIMMIM, marks=pytest.mark.slow)],
    ids=["dino", "mae", "simmim"],
)
def test_the_batch_path_trains_as_its_plain_definition(method, tmp_path, monkeypatch):
    found = []
    for name in ("fast", "plain"):
        if name == "plain":
            monkeypatch.setattr(Batches, "rows", rows)
            monkeypatch.setattr(augment, "resized_crops", crops)
            monkeypatch.setattr(augment, "blur", blur)
            monkeypatch.setattr(augment, "shift_hue", hue)
            monkeypatch.setattr(multicrop.MultiCrop, "apply", views)
            monkeypatch.setattr(_pixels, "_weights", None)  # nothing of the fast path may be left
        run = mimlab.pretrain(mimlab.Pretrain.read(TINY | method | {"out": str(tmp_path), "run": name}))
        found.append([row["loss"] for row in run.metrics() if "loss" in row])
    assert len(found[0]) == len(set(found[0])) == 20
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_the_order_of_an_epoch_is_drawn_once_and_is_the_same(monkeypatch):
    class Images:
        def __len__(self):
            return 100

    batches = Batches(Images(), None, mimlab.Pretrain(batch_size=10), 10)
    asked = [0, 1, 9, 10, 25, 3, 29]
    expected = [rows(batches, step) for step in asked]
    drawn = []
    draw = torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda *given, **options: drawn.append(1) or draw(*given, **options))
    assert all(torch.equal(batches.rows(step), one) for step, one in zip(asked, expected, strict=True))
    assert len(drawn) == 5  # epochs 0, 1, 2, 0, 2
