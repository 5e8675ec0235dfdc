"""What notebooks look at: the strategies on images, and the batch of a first step."""

from typing import NamedTuple

import torch

from mimlab import data, masks
from mimlab.distributed import generator_for
from mimlab.looking import difficulty, statistics
from mimlab.looking.reconstructions import asked
from mimlab.run import Run

HARD = 8  # images that the difficulty without a model is measured on


class Explored(NamedTuple):
    """`images` (B, 3, H, W); `grid`; `shown` and `many`: strategy -> masks for the images, and for statistics;
    `numbers`: a row for a table, each a strategy's statistics and difficulty on the same images; `guessed`: what
    the best linear prediction fills in, strategy -> small images, of `small`; `about`: where the images come from, and
    the seed.
    """

    images: torch.Tensor
    grid: tuple
    shown: dict
    many: dict = {}
    numbers: list = ()
    small: torch.Tensor | None = None
    guessed: dict = {}
    about: str = ""

    @property
    def table(self):
        """The numbers with a column for each strategy, to three digits."""
        names = [name for name in self.numbers[0] if name != "strategy"]
        return [{"": name} | {row["strategy"]: f"{row[name]:.3g}" for row in self.numbers} for name in names]

    @property
    def spectra(self):
        """Strategy -> radial power spectrum of its masks."""
        return {title: statistics.spectrum(mask, self.grid) for title, mask in self.many.items()}


def explore(cfg, extra=None):
    """Strategies at one ratio on the images that an `Explore` asks for, the chosen one with its options.

    `extra` adds more by title: a function, or a pair of strategy and options. Difficulty is measured on `HARD`
    images; with a run also its loss, token accuracy and reconstruction.
    """
    cfg = cfg.resolved()
    found = data.open(cfg.data, "train", size=cfg.image_size, seed=cfg.seed, **cfg.data_args)
    images = pick(found, max(cfg.images, HARD), cfg.seed)
    grid = (cfg.image_size // cfg.patch_size,) * 2
    method = Run.open(cfg.run).method() if cfg.run else None
    strategies = {_title(name): (name, cfg.mask_args if name == cfg.mask else {}) for name in cfg.compared()}
    strategies |= {title: one if isinstance(one, tuple) else (one, {}) for title, one in (extra or {}).items()}
    shown, many, numbers, guessed = {}, {}, [], {}
    for title, (name, options) in strategies.items():
        generator = generator_for(cfg.seed, 0, "explore")
        hard = masks.sample(name, len(images), grid, cfg.mask_ratio, generator, None, images, method, **options)
        many[title] = _many(name, cfg, grid, images, method, options)
        shown[title] = hard[: cfg.images]
        guess = difficulty.linear(images, hard, grid)
        guessed[title] = guess[: cfg.images]
        row = {"strategy": title} | statistics.summary(many[title], grid)
        row |= difficulty.score(images, hard, grid, guess)
        numbers.append(row | (asked(method, images, hard) if method else {}))
    about = f"images of {cfg.data}; {cfg.samples:,} masks for statistics; seed {cfg.seed}"
    small = difficulty.small(images[: cfg.images], grid)
    return Explored(images[: cfg.images], grid, shown, many, numbers, small, guessed, about)


def _title(name):
    return getattr(name, "__name__", name)


def _many(name, cfg, grid, images, method, options):
    """Masks for the statistics; one that looks gets each of the images as often as the others."""
    generator, scores = generator_for(cfg.seed, 1, "explore"), None
    if masks.looks(name):
        scores = masks.score(name, images, grid, method, **options)
        scores = scores[torch.arange(cfg.samples) % len(images)]
    return masks.sample(name, cfg.samples, grid, cfg.mask_ratio, generator, scores, **options)


def first_batch(cfg, images=8):
    """Some images of a run's first step, as the encoder gets them, and their masks: `Explored` without numbers."""
    cfg = cfg.resolved()
    found = data.open(cfg.data, "train", size=cfg.cache_size, fraction=cfg.fraction, seed=cfg.seed, **cfg.data_args)
    generator = generator_for(cfg.seed, 0, "order")
    rows = torch.randperm(len(found), generator=generator)[:images]
    torch.manual_seed(cfg.seed)
    method = cfg.build(classes=len(found.classes) if found.classes else None)
    views = method.views(cfg.image_size, **cfg.augment)(found.get(rows), generator_for(cfg.seed, 0, "augment"))
    pixels = views[0] if isinstance(views, tuple) else views
    grid = (cfg.image_size // cfg.patch_size,) * 2
    if cfg.mask == "none":
        return Explored(
            pixels, grid, {f"{cfg.method} sees": torch.zeros(len(pixels), grid[0] * grid[1]).bool()}, {}, []
        )
    ratio = masks.ratio(0.0, cfg.mask_ratio, **cfg.mask_schedule)
    generator = generator_for(cfg.seed, 0, "mask")
    mask = masks.sample(cfg.mask, len(rows), grid, ratio, generator, None, pixels, method, **cfg.mask_args)
    return Explored(pixels, grid, {f"{cfg.method} sees": mask, "and hides": ~mask})


def pick(found, count, seed):
    """`count` images, float (B, 3, H, W) in [0, 1], chosen by `seed`."""
    order = torch.randperm(len(found), generator=generator_for(seed, 0, "pick"))
    return found.get(order[:count].numpy()).float() / 255
