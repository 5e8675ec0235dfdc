"""What notebooks look at: the strategies on images, the batch of a first step, what a run fills in."""

import math
from typing import NamedTuple

import torch

from mimlab import data, masks
from mimlab.data.augment import Augment, Plain
from mimlab.distributed import generator_for
from mimlab.find import names
from mimlab.methods import Batch, Progress
from mimlab.run import Run

MEASURED = 256  # images that numbers are measured on, however few are shown


class Explored(NamedTuple):
    """`images` (B, 3, H, W); `grid`; `shown` and `many`: strategy -> masks for the images, and for statistics."""

    images: torch.Tensor
    grid: tuple
    shown: dict
    many: dict


def explore(cfg):
    """Every strategy at one ratio on the images that an `Explore` asks for, the chosen one with its options."""
    cfg = cfg.resolved()
    images = pick(
        data.open(cfg.data, "train", size=cfg.image_size, seed=cfg.seed, **cfg.data_args), cfg.images, cfg.seed
    )
    grid = (cfg.image_size // cfg.patch_size,) * 2
    chosen = {cfg.mask: cfg.mask_args}
    strategies = {name: {} for name in names("masks")} | chosen
    shown, many = {}, {}
    for name, options in strategies.items():
        for kept, batch in ((shown, len(images)), (many, cfg.samples)):
            generator = generator_for(cfg.seed, batch, "explore")
            kept[name] = masks.sample(name, batch, grid, cfg.mask_ratio, generator, **options)
    return Explored(images, grid, shown, many)


def first_batch(cfg, images=8):
    """Some images of a run's first step, as the encoder gets them, and their masks: `Explored` without `many`."""
    cfg = cfg.resolved()
    found = data.open(cfg.data, "train", size=cfg.cache_size, fraction=cfg.fraction, seed=cfg.seed, **cfg.data_args)
    generator = generator_for(cfg.seed, 0, "order")
    rows = torch.randperm(len(found), generator=generator)[:images]
    pixels = Augment(cfg.image_size, **cfg.augment)(found.get(rows), generator_for(cfg.seed, 0, "augment"))
    grid = (cfg.image_size // cfg.patch_size,) * 2
    mask = masks.sample(cfg.mask, len(rows), grid, cfg.mask_ratio, generator_for(cfg.seed, 0, "mask"), **cfg.mask_args)
    return Explored(pixels, grid, {f"{cfg.method} sees": mask, "and hides": ~mask}, {})


class Seen(NamedTuple):
    """What a run fills in.

    `images` (B, 3, H, W), `mask` bool (B, N), `grid`, `filled` and `filled_rest` (the mask exchanged with its
    complement) images or None, `note`, `numbers` over `MEASURED` images: one row for a table.
    """

    images: torch.Tensor
    mask: torch.Tensor
    grid: tuple
    filled: torch.Tensor
    filled_rest: torch.Tensor
    note: str
    numbers: dict


@torch.inference_mode()
def look(cfg):
    """Reconstructions of a run under any mask, as a `Look` says, with their error beside what guessing reaches."""
    cfg = cfg.resolved()
    run = Run.open(cfg.run)
    method, found = run.method(), run.data(cfg.split)
    many = Plain(run.settings.image_size)(pick_rows(found, max(cfg.images, MEASURED), cfg.seed))
    grid = method.encoder.grid
    generator = generator_for(cfg.seed, 0, "look")
    hidden = masks.sample(cfg.mask, len(many), grid, cfg.mask_ratio, generator, **cfg.mask_args)
    output = method(Batch(many, torch.rand(hidden.shape, generator=generator)), hidden, Progress())
    logs = {"loss": output.loss} | output.logs
    numbers = {"images": len(many)} | {name: round(float(value), 4) for name, value in logs.items()}
    filled = method.reconstruct(many, hidden)
    images, mask = many[: cfg.images], hidden[: cfg.images]
    if filled is None:
        name = run.settings.tokenizer
        note = f"{run.settings.method} with tokenizer = {name} predicts no picture; pre-train with kmeans or random_patches"
        return Seen(images, mask, grid, None, None, note, numbers)
    numbers["psnr_hidden"] = psnr(many, filled.images, hidden, grid)
    numbers["psnr_mean_colour"] = psnr(many, mean_of_visible(many, hidden, grid), hidden, grid)
    other = method.reconstruct(images, ~mask).images
    return Seen(images, mask, grid, filled.images[: cfg.images], other, filled.note, numbers)


def psnr(images, filled, mask, grid):
    """Peak signal to noise ratio in dB over the hidden pixels of all images."""
    hidden = masks.pixels(mask, grid, images.shape[2:]).expand_as(images)
    error = float((images - filled)[hidden].square().mean())
    return round(-10 * math.log10(max(error, 1e-12)), 2)


def mean_of_visible(images, mask, grid):
    """Each image as the mean colour of its visible pixels: the guess to beat."""
    visible = ~masks.pixels(mask, grid, images.shape[2:])
    mean = (images * visible).sum(dim=(2, 3), keepdim=True) / visible.sum(dim=(2, 3), keepdim=True)
    return mean.expand_as(images)


def pick_rows(found, count, seed):
    """`count` images, uint8, chosen by `seed`."""
    order = torch.randperm(len(found), generator=generator_for(seed, 0, "pick"))
    return found.get(order[:count].numpy())


def pick(found, count, seed):
    return pick_rows(found, count, seed).float() / 255
