"""Published fine-tuning settings, by name; learning rates are for 256 images a step and scale with the batch.

`paper_cars` and `paper_food` are the two kinds of column of SplitMask's table 9: Stanford Cars, ClipArt, Painting and Sketch;
and Food-101 and iNaturalist, without layer decay and with repeated augmentation. `mae`: FINETUNE.md and main_finetune.py
of facebookresearch/mae; `beit`: section 4 and appendix of BEiT, run_class_finetuning.py of microsoft/unilm, both for ViT-B.
`small` is ours: some thousand small images and minutes, with a higher learning rate, fewer epochs and milder crops.

Names: `scale` smallest area of a crop; `randaugment` timm's text for it, or ""; `erase` probability of random erasing;
`repeats` views of an image in a batch; `test_crop` central share of a test image's side, None: see `Centre`.
"""

SMALL = {
    "epochs": 20, "lr": 2e-2, "min_lr": 0.0, "schedule": "fraction", "batch": 32, "warmup_share": 0.2, "layer_decay": 0.65, "weight_decay": 0.05,
    "drop_path": 0.1, "scale": 0.7, "randaugment": "", "jitter": 0.0, "erase": 0.0, "repeats": 1, "mixup": 0.8, "cutmix": 1.0,
    "smoothing": 0.1, "test_crop": None,
}  # fmt: skip
CARS = {
    "epochs": 300, "lr": 4e-3 / 4, "min_lr": 0.0, "schedule": "fraction", "batch": 1024, "warmup_share": 60 / 300, "layer_decay": 0.65,
    "weight_decay": 0.05, "drop_path": 0.1, "scale": 0.08, "randaugment": "rand-m9-mstd0.5", "jitter": 0.4, "erase": 0.0, "repeats": 1,
    "mixup": 0.8, "cutmix": 1.0, "smoothing": 0.1, "test_crop": 0.875,
}  # fmt: skip
RECIPES = {
    "small": SMALL,
    "paper_cars": CARS,
    "paper_food": CARS
    | {"lr": 1.4e-4 / 4, "layer_decay": 1.0, "warmup_share": 5 / 300, "randaugment": "rand-m7-mstd0.5", "repeats": 3},
    "mae": CARS
    | {
        "epochs": 100, "lr": 5e-4, "min_lr": 1e-6 / 4, "warmup_share": 5 / 100, "randaugment": "rand-m9-mstd0.5-inc1", "jitter": 0.0,
        "erase": 0.25,
    },
    "beit": CARS
    | {
        "epochs": 100, "lr": 4e-3 / 4, "min_lr": 1e-6 / 4, "schedule": "table", "warmup_share": 20 / 100,
        "randaugment": "rand-m9-mstd0.5-inc1", "jitter": 0.4, "erase": 0.25,
    },
}  # fmt: skip
