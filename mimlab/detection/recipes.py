"""Published settings, and settings for minutes on a CPU; `None` in `Detect` means these.

"paper": SplitMask, section 5.5, after Swin (Liu et al. 2021) and XCiT's detection/configs: AdamW 1e-4, weight decay 0.05, 36
epochs (3x) of batches of 16, a tenth from epoch 27 and again from 33, 500 steps of warm-up, shorter side 480 to 800 and longer side at most 1333, drop path 0.05.
Half of the training images are first resized to a shorter side of 400, 500 or 600, and a rectangle of 384 to 600 pixels a side is cut
out of them (`multi_scale`; `cut`). Norms, positions and relative tables are spared from weight decay, biases are not.
"small" is ours: the same model with 64 channels, fewer regions and half the anchors' size, the same shape of schedule.
"""

RECIPES = {
    "paper": {
        "epochs": 36, "batch_size": 16, "lr": 1e-4, "warmup_steps": 500, "drop_path": 0.05, "image_size": 800, "long_side": 1333,
        "multi_scale": True, "anchor_scale": 8, "channels": 256, "hidden": 1024, "regions": 512, "proposals": 1000,
    },
    "small": {
        "epochs": 8, "batch_size": 8, "lr": 5e-4, "warmup_steps": 100, "drop_path": 0.0, "image_size": 96, "long_side": 160,
        "multi_scale": False, "anchor_scale": 4, "channels": 64, "hidden": 256, "regions": 32, "proposals": 100,
    },
}  # fmt: skip
DROPS = (27 / 36, 33 / 36)  # shares of training after which the learning rate is a tenth of what it was
CUT = 0.5  # share of training images that are cut, where `multi_scale`
FIRST = tuple(s / 800 for s in (400, 500, 600))  # of the shorter side, before the cut
SIDES = (384 / 800, 600 / 800)  # of the cut, from and to
SCALES = tuple(s / 800 for s in range(480, 801, 32))  # of the shorter side, where `multi_scale`
