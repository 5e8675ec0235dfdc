"""Every method learns from photographs, in float32 and in bfloat16 (-m packs; some minutes on two cores)."""

import math
import os
import statistics

import pytest
import torch

import mimlab
from mimlab.find import names

COMMON = {
    "data": "folder", "image_size": 64, "patch_size": 8, "batch_size": 32, "updates": "120", "epochs": 20, "lr": 4e-3,
    "augment": {"scale": [0.6, 1.0]}, "drop_path": 0.0, "log_every": 5, "knn_every": 1000, "checkpoint_every": 0, "film": 0,
}  # fmt: skip
# tokens that can be looked at; heads and decoders in proportion to the small encoder
OWN = {
    "beit": {"tokenizer": "kmeans"},
    "cae": {"tokenizer": "kmeans"},
    "cim": {"method_args": {"generator_dim": 96, "generator_heads": 3}},
    "dino": {
        "method_args": {"out_dim": 1024, "head_dim": 256, "bottleneck_dim": 64},
        "augment": {"local_crops": 4},
        "lr": 2e-3,
    },
    "mae": {"method_args": {"decoder_dim": 64, "decoder_depth": 2, "decoder_heads": 4}},
    "splitmask": {"tokenizer": "kmeans"},
}
RUNS = [(name, {}) for name in names("methods") if name != "cim"] + [
    ("cim", {"objective": objective}) for objective in ("respix", "revdet")
]


def run(method, told, precision, out):
    own = OWN.get(method, {})
    args = own.get("method_args", {}) | told
    path = os.path.join(os.environ["MIMLAB_DATA_DIR"], "caltech20-64.zip")
    given = COMMON | own | {"method_args": args, "data_args": {"path": path}, "out": str(out)}
    return mimlab.pretrain(mimlab.Pretrain(method=method, precision=precision, **given))


@pytest.mark.packs
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize(("method", "told"), RUNS)
def test_the_loss_falls_and_stays_finite(method, told, precision, tmp_path):
    """Of DINO's, which is its teacher's entropy and the distance from it, the distance: the entropy rises while the
    centre forms, for longer than this takes."""
    done = run(method, told, precision, tmp_path)
    rows = [row for row in done.metrics() if "loss" in row]
    assert done.finished and len(rows) == 24 and all(math.isfinite(row["loss"]) for row in rows)
    falling = [row["kl" if method == "dino" else "loss"] for row in rows]
    first, *_, last = (statistics.mean(falling[k : k + 6]) for k in range(0, 24, 6))
    assert last < first, falling
    assert all(torch.isfinite(value).all() for value in done.method().state_dict().values())
    (probe,) = (row for row in done.metrics() if "knn_top1" in row)
    assert probe["knn_top1"] > 2 * probe["knn_chance"]
