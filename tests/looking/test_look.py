"""What the notebooks look at."""

import math

import pytest
import torch

import mimlab
from mimlab.errors import Refused
from mimlab.looking import look


def test_explore_compares_strategies_on_the_same_images():
    cfg = mimlab.Explore(
        data="fashion_mnist", image_size=28, patch_size=4, images=3, samples=20, mask="split", mask_args={"by": "rows"},
        strategies="random, superpixel",
    )  # fmt: skip
    rows = torch.arange(49.0)
    found = look.explore(
        cfg, {"top": lambda batch, grid, generator: -rows.expand(batch, -1), "left": ("split", {"by": "columns"})}
    )
    assert found.images.shape == (3, 3, 28, 28) and found.grid == (7, 7)
    assert list(found.shown) == list(found.many) == ["random", "superpixel", "split", "top", "left"]
    assert all(mask.sum(dim=1).eq(math.ceil(49 * 0.5)).all() for mask in found.many.values())
    assert all(len(mask) == 20 for mask in found.many.values())
    assert found.shown["top"][0, :24].all()
    assert [row["strategy"] for row in found.numbers] == list(found.shown)
    hard = {row["strategy"]: row["psnr linear"] for row in found.numbers}
    assert hard["random"] > hard["top"] + 2  # what has visible neighbours is predicted


def test_explore_names_what_asks_a_model():
    assert not {"attention", "loss"} & set(mimlab.Explore().compared())
    with pytest.raises(Refused, match="mask = 'attention' asks a model; give run"):
        mimlab.Explore(mask="attention").resolved()
    with pytest.raises(Refused, match="patch_size = 15 does not divide image_size = 224; try one of: 2, 4, 7"):
        mimlab.Explore(patch_size=15).resolved()
    with pytest.raises(Refused, match="no masks called 'rando' .did you mean 'random'"):
        mimlab.Explore(strategies="rando").resolved()


def test_explore_with_a_run_asks_it(tmp_path):
    cfg = mimlab.Pretrain(
        fraction=0.016, patch_size=7, epochs=1, batch_size=32, out=str(tmp_path), knn_every=0, vocab=16, tokenizer="kmeans",
        encoder_args={"dim": 24, "depth": 1, "heads": 2},
    )  # fmt: skip
    run = mimlab.pretrain(cfg)
    cfg = mimlab.Explore(run=str(run.path), samples=8, images=2, strategies="random, attention, loss")
    found = look.explore(cfg)
    assert cfg.resolved().image_size == 28 and cfg.folder() == run.path
    for row in found.numbers:
        assert 0 < row["loss"] < 20 and 0 <= row["token accuracy"] <= 1 and 0 < row["psnr of the run"] < 60
    method, mask = run.method(), found.shown["random"]
    judged = method.judge(found.images, mask)
    assert judged.loss.shape == judged.right.shape == mask.shape


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
