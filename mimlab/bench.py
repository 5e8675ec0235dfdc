"""Images a second of the training loop, for several settings in turns, so that a busy machine slows all alike."""

import statistics
import tempfile

from mimlab.config import Pretrain
from mimlab.train import pretrain

WARM = 1  # log lines left out at the start of each turn
# heads and decoders in proportion to a small encoder; the papers' are for ViT-B
SMALL = {
    "mae": {"method_args": {"decoder_dim": 64, "decoder_depth": 2, "decoder_heads": 4}},
    "cim": {"method_args": {"generator_dim": 96, "generator_heads": 3}},
    "dino": {"method_args": {"out_dim": 1024, "head_dim": 256, "bottleneck_dim": 64}},
}


def methods(names, given):
    """`Pretrain` of each method with the settings `given`, over those of `SMALL`."""
    return {name: Pretrain.read(SMALL.get(name, {}) | given | {"method": name}) for name in names}


def compare(settings, rounds=3, steps=40, report=None):
    """Rows {name, images_per_s, relative} of `settings` (name -> `Pretrain`), each relative to the first.

    Every round trains each of them for `steps` steps from the start, in another order, in a folder that is thrown
    away: data, masks, forward, backward, optimiser and log, as `pretrain` does it. The speed is the median of the log
    lines of all rounds, the ratio the median of the rounds' ratios. `report(row)` gets each turn's speed. k-NN
    probes and checkpoints are switched off.
    """
    found = {name: [] for name in settings}
    for turn in range(rounds):
        order = list(settings)[turn % len(settings) :] + list(settings)[: turn % len(settings)]
        for name in order:
            with tempfile.TemporaryDirectory() as out:
                cfg = settings[name].replace(
                    updates=str(steps),
                    log_every=max(1, steps // 4),
                    knn_every=0,
                    checkpoint_every=0,
                    out=out,
                    run="bench",
                )
                rows = [row for row in pretrain(cfg).metrics() if "images_per_s" in row]
            found[name].append(statistics.median(row["images_per_s"] for row in rows[WARM:]))
            if report is not None:
                report({"round": turn, "name": name, "images_per_s": found[name][-1]})
    first = found[next(iter(settings))]
    return [
        {
            "name": name,
            "images_per_s": round(statistics.median(speeds), 1),
            "relative": round(statistics.median(s / f for s, f in zip(speeds, first, strict=True)), 3),
        }
        for name, speeds in found.items()
    ]
