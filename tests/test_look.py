"""What the notebooks look at."""

import math

import pytest
import torch

import mimlab
from mimlab import look


def test_psnr_by_hand():
    images, mask = torch.zeros(1, 3, 4, 4), torch.tensor([[True, False, False, False]])
    filled = torch.full_like(images, 0.1)
    assert look.psnr(images, filled, mask, (2, 2)) == pytest.approx(20.0)
    filled[:, :, :2, :2] = 0  # only hidden pixels count
    assert look.psnr(images, filled, mask, (2, 2)) > 100


def test_mean_of_visible_sees_nothing_hidden():
    images, mask = torch.rand(2, 3, 4, 4), torch.tensor([[True, False, False, False]] * 2)
    changed = images.clone()
    changed[:, :, :2, :2] = 9
    assert torch.equal(look.mean_of_visible(images, mask, (2, 2)), look.mean_of_visible(changed, mask, (2, 2)))
    want = (images.sum(dim=(2, 3)) - images[:, :, :2, :2].sum(dim=(2, 3))) / 12
    assert torch.allclose(look.mean_of_visible(images, mask, (2, 2))[:, :, 0, 0], want, atol=1e-6)


def test_explore_compares_all_strategies_at_one_ratio():
    cfg = mimlab.Explore(
        data="fashion_mnist", image_size=28, images=3, samples=20, mask="split", mask_args={"by": "rows"}
    )
    found = look.explore(cfg)
    assert found.images.shape == (3, 3, 28, 28) and found.grid == (7, 7)
    assert set(found.shown) == set(found.many) == {"random", "blockwise", "split"}
    assert all(mask.sum(dim=1).eq(math.ceil(49 * 0.5)).all() for mask in found.many.values())


def test_first_batch_is_what_training_gets(tmp_path, monkeypatch):
    from mimlab.methods.mae import MAE

    got, plain = [], MAE.forward
    monkeypatch.setattr(
        MAE, "forward", lambda self, batch, mask, p: got.append((batch, mask)) or plain(self, batch, mask, p)
    )
    cfg = mimlab.Pretrain(
        method="mae", fraction=0.016, patch_size=7, epochs=1, batch_size=32, out=str(tmp_path), knn_every=0,
        encoder_args={"dim": 24, "depth": 1, "heads": 2}, method_args={"decoder_dim": 16, "decoder_heads": 2, "decoder_depth": 1},
    )  # fmt: skip
    mimlab.pretrain(cfg)
    seen = look.first_batch(cfg, images=32)
    assert torch.equal(seen.images, got[0][0].images)
    assert torch.equal(seen.shown["mae sees"], got[0][1])


def test_look_measures_more_images_than_it_shows(tmp_path):
    cfg = mimlab.Pretrain(
        fraction=0.016, patch_size=7, epochs=1, batch_size=32, out=str(tmp_path), knn_every=0, vocab=16, tokenizer="kmeans",
        encoder_args={"dim": 24, "depth": 1, "heads": 2},
    )  # fmt: skip
    run = mimlab.pretrain(cfg)
    two, three = (look.look(mimlab.Look(run=str(run.path), images=k, mask="random", mask_ratio=0.6)) for k in (2, 3))
    assert two.images.shape == two.filled.shape == two.filled_rest.shape == (2, 3, 28, 28)
    assert torch.equal(two.mask, three.mask[:2]) and (two.mask.sum(dim=1) == 10).all()
    assert two.numbers == three.numbers and two.numbers["images"] == look.MEASURED
    want = run.method().reconstruct(two.images, two.mask).images
    assert torch.allclose(two.filled, want, atol=1e-5)
