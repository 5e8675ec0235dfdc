import base64
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mimlab.errors import Refused
from mimlab.looking.reconstructions import psnr
from mimlab.methods import Filled, Judged
from mimlab.viewers import seen
from mimlab.viewers.pictures import content, read


@pytest.fixture(scope="module")
def image(splitmask):
    return splitmask.data("test").get([3])[0]


@pytest.fixture(scope="module")
def mask():
    return torch.rand(16, generator=torch.Generator().manual_seed(0)) < 0.5


def test_what_is_seen_is_what_the_method_fills_in(splitmask, image, mask):
    method = splitmask.method()
    found = seen.see(method, image, mask)
    with torch.no_grad():
        filled = method.reconstruct(image[None] / 255, mask[None])
        judged = method.judge(image[None] / 255, mask[None])
    assert (found.filled / 255 - filled.images[0]).abs().max() <= 0.5 / 255 + 1e-6
    hidden = mask.view(4, 4).repeat_interleave(7, 0).repeat_interleave(7, 1)
    assert torch.equal(found.pasted[:, hidden], found.filled[:, hidden])
    assert torch.equal(found.pasted[:, ~hidden], image[:, ~hidden])
    assert found.note == filled.note
    assert found.numbers == {
        "psnr": psnr(image[None] / 255, filled.images, mask[None], (4, 4)),
        "loss": pytest.approx(float(judged.loss[0, mask].mean()), abs=1e-4),
        "token accuracy": pytest.approx(float(judged.right[0, mask].float().mean()), abs=1e-4),
    }
    assert torch.allclose(found.loss[mask], judged.loss[0, mask]) and found.loss[~mask].isnan().all()


class Constant:
    """Fills everything with one grey, and judges nothing."""

    encoder = SimpleNamespace(grid=(4, 4))

    def __init__(self, grey):
        self.grey = grey

    def judge(self, images, mask):
        return None

    def reconstruct(self, images, mask):
        return Filled(torch.full_like(images, self.grey), "grey")


def test_the_error_is_dark_where_visible_and_brightest_from_half_on(mask):
    black, hidden = (
        torch.zeros(3, 28, 28, dtype=torch.uint8),
        mask.view(4, 4).repeat_interleave(7, 0).repeat_interleave(7, 1),
    )
    dark, middle, bright = [68, 1, 84], [33, 145, 140], [253, 231, 37]  # Viridis at 0, a half and 1
    for grey, colour in ((0.0, dark), (0.25, middle), (0.5, bright), (0.9, bright)):
        found = seen.see(Constant(grey), black, mask)
        assert (found.error[:, ~hidden] == torch.tensor(dark)[:, None]).all()
        assert (found.error[:, hidden] - torch.tensor(colour)[:, None]).abs().max() <= 2, grey
        assert found.loss.isnan().all() and set(found.numbers) == {"psnr"}
    assert found.numbers["psnr"] == pytest.approx(-20 * math.log10(0.9), abs=0.01)


def test_a_run_that_diverged_can_still_be_told(mask):
    method = Constant(float("nan"))
    method.judge = lambda images, mask: Judged(torch.full(mask.shape, float("nan")))
    found = seen.see(method, torch.zeros(3, 28, 28, dtype=torch.uint8), mask)
    assert math.isnan(found.numbers["loss"]) and math.isnan(found.numbers["psnr"])
    json.dumps(found.message(), allow_nan=False)


def test_a_message_can_be_read_back(splitmask, image, mask):
    found = seen.see(splitmask.method(), image, mask)
    message = found.message()
    assert torch.equal(read(content(message["filled"]), 28), found.filled)  # small pictures travel exactly
    loss = np.frombuffer(base64.b64decode(message["loss"]), "<f4")
    assert np.array_equal(loss, found.loss.numpy(), equal_nan=True)
    assert set(message) == {"filled", "pasted", "error", "note", "numbers", "loss"}


def test_a_method_without_pictures_still_tells_its_loss(no_picture, image, mask):
    found = seen.see(no_picture.method(), image, mask)
    message = found.message()
    assert "kmeans" in message["refused"] and set(message) == {"refused", "numbers", "loss"}
    assert math.isfinite(message["numbers"]["loss"]) and "psnr" not in message["numbers"]
    assert found.loss[mask].isfinite().all()


@pytest.mark.parametrize("mask", [torch.zeros(16).bool(), torch.ones(16).bool(), torch.ones(9).bool()])
def test_masks_that_no_run_can_be_asked_for_are_refused(splitmask, image, mask):
    with pytest.raises(Refused, match=f"{int(mask.sum())} of {len(mask)}.*needs 16"):
        seen.see(splitmask.method(), image, mask)


def test_two_checkpoints_stay_in_memory(splitmask, monkeypatch):
    loads, plain = [], type(splitmask).method
    monkeypatch.setattr(type(splitmask), "method", lambda self, step=None: loads.append(step) or plain(self, step))
    weights = seen.Weights(splitmask)
    assert weights.steps[-1] == "final" and len(weights.steps) == 3 and weights.steps[0] < weights.steps[1]
    for step in (weights.steps[0], "final", weights.steps[0], "final", weights.steps[1], weights.steps[0]):
        weights.method(step)
    assert loads == [weights.steps[0], None, weights.steps[1], weights.steps[0]]
    with pytest.raises(Refused, match="no checkpoint"):
        weights.method(99)


def test_a_vocabulary_draws_images_that_are_alike_worse_than_their_own_patches():
    images = [
        torch.randint(256, (3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(k)) for k in range(4)
    ]
    tokenizer = seen.vocabulary(images, 8)
    drawn = seen.decoded(images[0], tokenizer, (4, 4))
    assert drawn.shape == images[0].shape and drawn.dtype == torch.uint8 and tokenizer.vocab == 32
    parts = {
        tuple(p.flatten().tolist())
        for im in images
        for p in im.unfold(1, 8, 8).unfold(2, 8, 8).permute(1, 2, 0, 3, 4).flatten(0, 1)
    }
    cells = drawn.unfold(1, 8, 8).unfold(2, 8, 8).permute(1, 2, 0, 3, 4).flatten(0, 1)
    assert all(tuple(cell.flatten().tolist()) in parts for cell in cells)
    assert not torch.equal(drawn, images[0])
    assert seen.vocabulary([torch.full((3, 16, 16), 7, dtype=torch.uint8)], 8) is None
