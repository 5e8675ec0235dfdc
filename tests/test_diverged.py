"""A line of metrics.jsonl whose loss is far above the first step's says so."""

import pytest

from mimlab import config, pretrain

TINY = {
    "method": "simmim", "encoder_args": {"dim": 24, "depth": 1, "heads": 2}, "data": "emoji", "fraction": 0.1, "image_size": 16, "patch_size": 4,
    "batch_size": 16, "updates": "8", "epochs": 1, "log_every": 1, "device": "cpu", "knn_every": 0, "film": 0, "warmup_epochs": 0, "clip": 0.0,
}  # fmt: skip


@pytest.mark.parametrize(("lr", "told"), [(100.0, True), (1e-3, False)])
def test_a_loss_far_above_the_first_is_told(lr, told, tmp_path, capsys):
    run = pretrain(config.Pretrain(**TINY, lr=lr, min_lr=0.0, out=str(tmp_path)))
    rows = [row for row in run.metrics() if "loss" in row]
    assert any(row.get("diverged") for row in rows) == told
    assert "diverged" not in rows[0]
    assert ("training diverges" in capsys.readouterr().err) == told
