"""Whatever combination of settings is accepted also trains: two steps, a reconstruction and a k-NN probe."""

import random

import pytest
import torch

from mimlab import config, kinds, masks, pretrain
from mimlab.data.augment import Augment
from mimlab.data.multicrop import MultiCrop
from mimlab.errors import Refused
from mimlab.evals import evaluate
from mimlab.find import find, kinds_of, names
from tests.test_options_fuzz import method_class

TINY = {
    "mae": {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2},
    "cae": {"regressor_depth": 1, "decoder_depth": 1},
    "cim": {"generator_dim": 24, "generator_depth": 1, "generator_heads": 2},
    "dino": {"out_dim": 32, "head_dim": 24, "bottleneck_dim": 8},
    "splitmask": {"decoder_depth": 1},
}
WHOLE = (0, 1, 2, 3, 4, 8, 12, 16, 32)
TOKENIZERS = ("none", "random_projection", "random_patches", "kmeans", "dvae")
SMALL = {"dvae": {"steps": 2, "samples": 100, "width": 8}, "kmeans": {"rounds": 2, "samples": 2000}}


def drawn(rng, told):
    """A value of what an option may be: of small sizes, its bounds among them."""
    found, none = told
    if none and rng.random() < 0.2:
        return None
    kind = rng.choice(found)
    if isinstance(kind, kinds.Switch):
        return rng.random() < 0.5
    if isinstance(kind, kinds.Choice):
        return rng.choice(kind.values)
    if isinstance(kind, kinds.Row):
        values = [drawn(rng, one) for one in kind.items]
        return sorted(values) if kind.rising else values
    if kind.type is int:
        return rng.choice([n for n in WHOLE if kind.low <= n <= kind.high] or [int(kind.low)])
    return rng.choice((kind.low, min(kind.high, 3.0), rng.uniform(kind.low, min(kind.high, 1.0)), 0.5, 1))


def some(rng, functions, left_out=(), share=0.25):
    """Some options of the functions."""
    known = {name: told for f in functions for name, told in kinds_of(f).items() if name not in left_out}
    return {
        name: drawn(rng, told)
        for name, told in known.items()
        if told[0] and not any(isinstance(k, kinds.Text) for k in told[0]) and rng.random() < share
    }


def draw(seed):
    """Settings of a run, at random; most are accepted."""
    rng = random.Random(seed)
    method = rng.choice(names("methods"))
    cls, pick = method_class(method), rng.choice
    encoder = pick(("vit", "vit", "vit", "vit", "beit", "beit", "xcit", "resnet18"))
    sizes = {"dim": pick((16, 24, 32)), "depth": pick((1, 2)), "heads": pick((1, 2))}
    family = find("encoders", encoder.rstrip("0123456789"))
    encoder_args = {} if encoder == "resnet18" else sizes
    encoder_args = encoder_args | some(rng, [family.create], ("dim", "depth", "heads", "drop_path"))
    side, patch = (
        pick(((16, 8), (32, 8)))
        if encoder == "xcit"
        else pick(((16, 4), (28, 7), (32, 8), (24, 8), (32, 4), (20, 5), (6, 3), (18, 2)))
    )
    given = {
        "method": method, "encoder": encoder, "encoder_args": encoder_args, "data": "emoji", "fraction": pick((0.1, 0.2)), "image_size": side,
        "patch_size": patch, "vocab": pick((2, 16, 64)), "batch_size": pick((2, 8, 16, 32)), "updates": "2", "log_every": 1, "device": "cpu",
        "accumulate": pick((1, 1, 1, 2)), "recompute": rng.random() < 0.2, "precision": "no" if encoder == "resnet18" else pick(("no", "no", "bf16")), "film": pick((0, 1)),
        "keep_weights": rng.random() < 0.2, "seed": rng.randrange(5), "epochs": 1, "checkpoint_every": pick((0, 1)), "knn_every": pick((0, 1)),
        "method_args": TINY.get(method, {}) | some(rng, [cls.__init__], ("classes",), 0.15),
    }  # fmt: skip
    maybe = {
        "cache_size": side + pick((0, 1, 8)), "lr": pick((1e-3, 1e-2)), "min_lr": 0.0, "schedule": pick(("fraction", "table", "step")),
        "warmup_epochs": pick((0, 0.5, 1)), "weight_decay": pick((0.0, 0.05, 10.0)), "weight_decay_end": pick((0.0, 0.4)), "no_decay": pick(("", "pos_embed", "cls_token")),
        "beta2": pick((0.5, 0.95, 0.999)), "clip": pick((0.0, 1e-6, 1.0, 3.0)), "drop_path": pick((0.0, 0.1, 0.9)), "workers": 0,
        "recipe": pick(tuple(find("methods", method).RECIPE)),
    }  # fmt: skip
    given |= {name: value for name, value in maybe.items() if rng.random() < 0.25}
    view = MultiCrop if method == "dino" else Augment
    given["augment"] = some(rng, [view], ("patch", "local_crops")) | (
        {"local_crops": pick((0, 1, 2))} if method == "dino" else {}
    )
    if method not in ("dino", "supervised"):
        if rng.random() < 0.8:
            given["mask"] = pick(names("masks"))
            given["mask_args"] = some(rng, masks._functions(given["mask"]), masks.FILLED)
        if rng.random() < 0.7:
            given["mask_ratio"] = pick((0.1, 0.25, 0.5, 0.6, 0.75, 0.9))
        if rng.random() < 0.3:
            given["mask_schedule"] = {"end": pick((0.2, 0.5, 0.8))} | some(rng, [masks.ratio], ("end",), 0.5)
    if rng.random() < 0.8:
        given["tokenizer"] = pick(
            TOKENIZERS[1:]
            if given["method_args"].get("target", "tokens" if method != "mae" else "pixels") == "tokens"
            else TOKENIZERS[:1]
        )
        if method in ("dino", "supervised", "simmim"):
            given["tokenizer"] = "none"
        if given["tokenizer"] == "none":
            return given
        kind = find("tokenizers", given["tokenizer"]).Tokenizer
        left_out = {"rounds", "steps", "samples", "width", "blocks"}
        given["tokenizer_args"] = SMALL.get(given["tokenizer"], {}) | some(rng, [kind], left_out)
    return given


def accepted(seed):
    """The first settings from a seed on that are not refused: (settings, seed), and those that were."""
    refused = []
    for k in range(50):
        try:
            return config.Pretrain.read(draw(f"{seed} {k}")).resolved(), refused
        except Refused as error:
            refused.append(str(error))
    raise AssertionError(refused)


def train(seed, folder):
    """Two steps of what is accepted, a reconstruction and a probe."""
    cfg, refused = accepted(seed)
    assert all("\n" not in said for said in refused)
    run = pretrain(cfg.replace(out=str(folder), run=f"r{seed}"))
    rows = [row for row in run.metrics() if "loss" in row]
    assert len(rows) == 2
    method = run.method()
    images = torch.rand(2, 3, cfg.image_size, cfg.image_size)
    if method.masked:
        n = method.encoder.grid[0] * method.encoder.grid[1]
        hidden = masks.count(n, cfg.mask_ratio)
        mask = torch.arange(n).expand(2, n) < hidden
        with torch.no_grad():
            filled = method.eval().reconstruct(images, mask)
        if filled is not None:
            assert torch.isfinite(filled.images).all()
    given = {"evaluation": "knn", "evaluation_args": {"k": 1}, "seeds": 1, "baseline": False, "device": "cpu"}
    found = evaluate(config.Evaluate(run=str(run.path), out=str(folder), **given))
    assert 0 <= next(iter(found.values()))["top1"] <= 100


def test_what_is_accepted_trains(tmp_path):
    for seed in range(3):
        train(seed, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 203))
def test_whatever_is_accepted_trains(seed, tmp_path):
    train(seed, tmp_path)
