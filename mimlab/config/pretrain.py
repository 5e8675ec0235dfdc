"""One pre-training run.

`None` means one thing: the method's published recipe (`RECIPE` of its file), written out in full by `resolved`.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from mimlab import preset, strict
from mimlab.config.device import check_compiler, check_device
from mimlab.errors import Refused, shown
from mimlab.find import check_options, closest, find, label, options
from mimlab.settings import Settings, check_seed, folder_of, place, setting, whole, within

IMAGENET = 1_281_167  # training images; "equal updates" counts 300 epochs of them (papers' Table 3)


@dataclass(frozen=True)
class Pretrain(Settings):
    """One pre-training run. Defaults are sized for a CPU and the embedded images; None is the paper's."""

    method: str = setting(
        "splitmask", "a file in mimlab/methods: beit, cae, cim, dino, mae, simmim, splitmask, supervised"
    )
    recipe: str = setting(
        "paper",
        "a published table of that file: paper; splitmask also has small (75 % random, strong augmentation), dino boosted",
    )
    encoder: str = setting(
        "vit", "vit (size it with encoder_args), vit_tiny, vit_small, vit_base, beit_base, or a timm name"
    )
    encoder_args: dict = setting({"dim": 96, "depth": 4, "heads": 3}, "dim, depth, heads, positions, ...")
    data: str = setting("fashion_mnist", "a file in mimlab/data: emoji, fashion_mnist, folder, hub, photographs")
    data_args: dict = setting({}, 'options of the data, such as {"path": "photos"}')
    fraction: float = setting(1.0, "share of the training images, class-balanced; 1 % lies inside 10 %")
    image_size: int = setting(28, "pixels, the side of the square that the encoder sees")
    cache_size: int | None = setting(
        None, "pixels of the cached images that crops are cut from; None: 8/7 of image_size, from 96 on"
    )
    patch_size: int = setting(4, "pixels; must divide image_size")
    mask: str | Callable | None = setting(
        None, "a file in mimlab/masks, your own module or function; None: the paper's, here and below"
    )
    mask_ratio: float | None = setting(None, "share of patches hidden, above 0 and below 1")
    mask_args: dict | None = setting(None, "options of the strategy")
    mask_schedule: dict = setting(
        {}, 'a ratio that changes over training: {"end": 0.9, "shape": "linear"}, or cosine, or steps'
    )
    preset: str | None = setting(
        None, "a YAML file saved by the mask explorer, in place of mask, mask_ratio and mask_args"
    )
    tokenizer: str | None = setting(None, "a file in mimlab/tokenizers, or none")
    tokenizer_args: dict | None = setting(None, "options of the tokenizer")
    vocab: int = setting(512, "size of the tokenizer's vocabulary; the paper has 8192")
    method_args: dict | None = setting(None, 'options of the method, such as {"match": False}')
    augment: dict | None = setting(None, "scale, flip, jitter, grey, blur, solarize; merged over the paper's")
    epochs: int | None = setting(20, "passes over the images; None: the paper's")
    updates: str | None = setting(
        None, "instead of epochs: a number of steps, or imagenet300 (as many images as 300 ImageNet epochs)"
    )
    batch_size: int = setting(64, "images a step, over all processes and accumulated parts")
    accumulate: int = setting(1, "parts a step is cut into; refused where the loss looks across the batch")
    lr: float | None = setting(None, "peak learning rate for 256 images a step; scaled by batch_size / 256")
    min_lr: float | None = setting(None, "last learning rate, likewise")
    schedule: str | None = setting(
        None, "fraction (MAE's cosine), table (BEiT's, DINO's) or step (SimMIM's: a tenth at 7/8)"
    )
    warmup_epochs: float | None = setting(None, "None: the paper's share of training")
    weight_decay: float | None = setting(None, "of AdamW; never on biases and norms")
    weight_decay_end: float | None = setting(None, "what it becomes along a cosine; None: it stays (DINO: 0.4)")
    no_decay: str | None = setting(None, "further parameter names that are never decayed, comma-separated", many=True)
    beta2: float | None = setting(None, "of AdamW; 0.95 in MAE, 0.999 in BEiT")
    clip: float | None = setting(None, "largest gradient norm; 0: no clipping")
    drop_path: float | None = setting(None, "stochastic depth in the encoder")
    precision: str = setting("no", "no, bf16 or fp16; bf16 is slower than no on most CPUs, fp16 needs a GPU")
    device: str = setting("auto", "auto, cpu, cuda or mps")
    processes: int = setting(1, "processes on a machine, one per GPU; batch_size is shared among them")
    nodes: int = setting(1, "machines, each with so many processes; more than one inside a SLURM job")
    parallel: str = setting(
        "ddp", "what each process holds: ddp, a whole copy; fsdp, its part of weights and optimiser, for large encoders"
    )
    recompute: bool = setting(
        False, "keep only the input of each block for the backward pass: a fraction of the memory, a third more time"
    )
    compile: bool = setting(
        False, "torch.compile of each block: a minute or more at first, then faster steps; for long runs"
    )
    workers: int = setting(0, "loader processes; with few cores 0 is fastest")
    seed: int = setting(0, "of everything that is drawn")
    knn_every: int = setting(5, "epochs between k-NN probes, where the data has labels; 0: never")
    checkpoint_every: int = setting(5, "epochs between checkpoints; 0: only at the end and when interrupted")
    keep_weights: bool = setting(False, "keep the weights of every checkpoint, to see how a run developed")
    film: int = setting(4, "images whose look is kept at each checkpoint, to see it form; 0: none")
    log_every: int = setting(10, "steps between lines of metrics.jsonl")
    out: str = setting("runs", "where run folders are made, under MIMLAB_ROOT if that is set")
    run: str | None = setting(None, "name of the run folder; None: method-encoder-data-seed-hash")

    FOLDERS = ("run",)
    # What may differ when a run goes on.
    FREE = (
        "out",
        "run",
        "workers",
        "log_every",
        "checkpoint_every",
        "keep_weights",
        "film",
        "device",
        "processes",
        "nodes",
        "parallel",
        "recompute",
        "compile",
    )

    def resolved(self):
        """Every None replaced by the recipe, every name and combination checked; reads no data."""
        method = find("methods", self.method)
        if self.recipe not in method.RECIPE:
            raise Refused(f"recipe = {shown(self.recipe)}: {self.method} has {', '.join(method.RECIPE)}")
        paper = method.RECIPE[self.recipe]
        if self.preset:
            return preset.apply(self).resolved()
        within("epochs", self.epochs or 1, 1, 1_000_000)  # before anything is computed with it
        filled = {name: paper[name] for name, value in self.dict().items() if value is None and name in paper}
        filled.pop("warmup_epochs", None)  # the paper's share of training, below
        if self.mask is not None and self.mask != paper["mask"] and self.mask_args is None:
            filled["mask_args"] = {}  # the paper's options belong to the paper's strategy
        if self.tokenizer is not None and self.tokenizer != paper["tokenizer"] and self.tokenizer_args is None:
            filled["tokenizer_args"] = {}
        filled["method_args"] = paper["method_args"] | (self.method_args or {})
        filled["augment"] = paper["augment"] | (self.augment or {})
        defaults = paper["encoder_args"] if self.encoder.startswith("vit") else {}
        filled["encoder_args"] = defaults | self.encoder_args
        cfg = self.replace(**filled)
        if self.lr is not None and self.min_lr is None and cfg.min_lr > cfg.lr:
            raise Refused(
                f"lr = {shown(cfg.lr)} is below the least one, min_lr = {cfg.min_lr} of the recipe; set min_lr too"
            )
        if cfg.warmup_epochs is None:
            cfg = cfg.replace(warmup_epochs=round(paper["warmup_epochs"] / paper["epochs"] * cfg.epochs, 6))
        if cfg.cache_size is None:
            cfg = cfg.replace(cache_size=cfg.image_size * 8 // 7 if cfg.image_size >= 96 else cfg.image_size)
        cfg = cfg.replace(updates=cfg.counted())
        if cfg.weight_decay_end is None:
            cfg = cfg.replace(weight_decay_end=cfg.weight_decay)
        cfg.check()
        return cfg

    def counted(self):
        """`updates` written out: "epochs", "imagenet300", or a number in plain digits."""
        if self.updates in (None, "", "epochs", "imagenet300"):
            return self.updates or "epochs"
        try:
            steps = whole(self.updates)
        except (ValueError, TypeError):
            raise Refused(f"updates = {shown(self.updates)}: a number of steps, imagenet300, or None") from None
        within("updates", steps, 1, 10**9)
        return str(steps)

    def check(self):
        """Refuse what cannot work, before any data is read."""
        import torch

        from mimlab import data, masks
        from mimlab.layers import SCHEDULES, weightless

        for name, low, high in (
            ("fraction", 1e-9, 1), ("image_size", 2, 4096), ("cache_size", self.image_size, 8192), ("batch_size", 1, 1_000_000), ("accumulate", 1, 10_000),
            ("epochs", 1, 1_000_000), ("vocab", 2, 1_000_000), ("lr", 0, 100), ("min_lr", 0, 100), ("weight_decay", 0, 10), ("weight_decay_end", 0, 10),
            ("beta2", 0.5, 0.99999), ("clip", 0, 1e6), ("drop_path", 0, 0.9), ("processes", 1, 1024), ("nodes", 1, 1024), ("workers", 0, 256),
            ("knn_every", 0, 1_000_000), ("checkpoint_every", 0, 1_000_000), ("log_every", 1, 1_000_000), ("film", 0, 64),
        ):  # fmt: skip
            within(name, getattr(self, name), low, high)
        within("warmup_epochs", self.warmup_epochs, 0, self.epochs, " (epochs)")
        if self.min_lr > self.lr:
            raise Refused(
                f"min_lr = {self.min_lr} is above lr = {self.lr}; the rate falls towards it, so use {self.lr} or less"
            )
        if 0 < self.clip < 1e-6:
            raise Refused(f"clip = {self.clip} leaves nothing of a gradient; use 0 for no clipping, or 1e-6 or more")
        masks.check_grid(self.image_size, self.patch_size)
        if self.schedule not in SCHEDULES:
            raise Refused(f"schedule = {shown(self.schedule)}; there are: {', '.join(SCHEDULES)}")
        check_seed(self.seed)
        parts = self.world * self.accumulate
        if self.batch_size % parts:
            raise Refused(
                f"batch_size = {self.batch_size} cannot be shared by {self.world} processes (processes = {self.processes}, nodes = {self.nodes}) in "
                f"accumulate = {self.accumulate} parts; use a multiple of {parts}"
            )
        check_device(self.device, self.precision, self.processes)
        self.check_parallel()
        if self.compile:
            check_compiler(self.device)
        data.check(self.data, self.data_args)
        if self.tokenizer == "none" and self.tokenizer_args:
            raise Refused(f"tokenizer_args = {shown(self.tokenizer_args)}: there is no tokenizer; leave them out")
        if "drop_path" in self.encoder_args:
            raise Refused("encoder_args: drop_path is a setting of the run itself; give it as drop_path")
        if self.tokenizer != "none":
            check_options("tokenizer_args", self.tokenizer_args, find("tokenizers", self.tokenizer).Tokenizer)
        with weightless():
            model = self.build()
        if model.tokenizer is not None:
            model.tokenizer.ready()
        check_options("augment", self.augment, model.views)
        model.views(self.image_size, **self.augment)
        if model.masked != (self.mask != "none"):
            what = "hides patches; choose a strategy" if model.masked else "sees whole images; use mask = none"
            raise Refused(f"mask = {shown(self.mask)}: {self.method} {what}")
        if not model.masked and (self.mask_args or self.mask_ratio or self.mask_schedule):
            name = next(name for name in ("mask_args", "mask_ratio", "mask_schedule") if getattr(self, name))
            raise Refused(f"{name} = {shown(getattr(self, name))}: {self.method} hides nothing; leave it out")
        self.check_spared(model)
        if model.masked:
            n = model.encoder.grid[0] * model.encoder.grid[1]
            check_options("mask_schedule", self.mask_schedule, masks.ratio)
            for progress in (0.0, 1.0):
                masks.count(n, masks.ratio(progress, self.mask_ratio, **self.mask_schedule))
            masks.check(self.mask, model.encoder.grid, self.mask_ratio, self.mask_args)
        if callable(self.mask) and self.world > 1:
            raise Refused(
                f"processes = {self.world}: mask = {label(self.mask)} lives in this kernel only; put it into a module of "
                "yours and give its dotted name, or use processes = 1"
            )
        if self.accumulate > 1 and model.couples_images:
            raise Refused(
                f"accumulate = {self.accumulate}: {self.method}'s loss compares the images of a step with each other, so parts "
                "would have fewer negatives than the whole; use accumulate = 1 with a smaller batch_size, or more processes"
            )

        norms = torch.nn.modules.batchnorm._BatchNorm
        if self.accumulate > 1 and any(isinstance(part, norms) for part in model.modules()):
            raise Refused(
                f"accumulate = {self.accumulate}: encoder = {self.encoder} has BatchNorm, whose statistics of a part are not those of the "
                "whole; use accumulate = 1 with a smaller batch_size, or more processes, or an encoder of the vit or beit family"
            )

    def spared(self):
        """The names in `no_decay`."""
        return tuple(name.strip() for name in self.no_decay.split(",") if name.strip())

    def check_spared(self, model):
        """Refuse names in `no_decay` that no parameter of `model` has, but for the recipe's own."""
        own = find("methods", self.method).RECIPE[self.recipe]["no_decay"].split(",")
        there = {name.split(".")[-1] for name, parameter in model.named_parameters() if parameter.ndim > 1}
        for name in self.spared():
            if name not in own and name not in {part.split(".")[-1] for part, _ in model.named_parameters()}:
                raise Refused(
                    f"no_decay = {shown(name)} is the name of no parameter{closest(name, sorted(there))}; there are: "
                    f"{', '.join(sorted(there))}"
                )

    def check_parallel(self):
        """Refuse what cannot be cut."""
        from mimlab import masks

        if self.parallel not in ("ddp", "fsdp"):
            raise Refused(f"parallel = {shown(self.parallel)}; there are: ddp, fsdp")
        if self.parallel == "ddp":
            return
        if self.world == 1:
            raise Refused(
                "parallel = 'fsdp' cuts a method among processes, and there is one; use processes = 2 or more"
            )
        if self.precision == "fp16":
            raise Refused("parallel = 'fsdp': precision = fp16 scales gradients that are whole; use bf16")
        if self.mask != "none" and masks.asks(self.mask):
            raise Refused(f"parallel = 'fsdp': mask = {label(self.mask)} asks the whole method at each step; use ddp")

    @property
    def world(self):
        """All processes of the run."""
        return self.nodes * self.processes

    def build(self, tokenizer=None, classes=None):
        """The method with fresh weights; without a fitted `tokenizer`, with an empty one of the right size.

        `classes` is the number of labels, for a method that learns from them.
        """
        from mimlab import encoders, methods

        encoder_args = self.encoder_args | {"drop_path": self.drop_path}
        encoder = encoders.create(self.encoder, self.image_size, self.patch_size, **encoder_args)
        if tokenizer is None and self.tokenizer != "none":
            kind = find("tokenizers", self.tokenizer).Tokenizer
            tokenizer = kind(self.vocab, self.token_patch, **self.tokenizer_args)
        module = find("methods", self.method)
        found = (
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, methods.Method) and value.__module__ == module.__name__
        )
        cls = next(found, None)
        if cls is None:
            raise Refused(f"method = {shown(self.method)}: the module defines no class of mimlab.methods.Method")
        check_options("method_args", self.method_args, cls.__init__, reserved=("classes",))
        told = {"classes": classes} if "classes" in options(cls.__init__) else {}
        return cls(encoder, tokenizer, **told, **self.method_args)

    def build_to_train(self, tokenizer=None, classes=None):
        """The same, with its blocks compiled and recomputed as the settings say."""
        from mimlab.blocks import compile_blocks, recompute

        method = self.build(tokenizer, classes)
        if self.compile:
            compile_blocks(method, changing=bool(self.mask_schedule))
        if self.recompute:
            recompute(method)
        return method

    @property
    def token_patch(self):
        """Pixels of a patch as the tokenizer sees it: 8 as in the paper (section 3.3), or the whole small patch."""
        return min(8, self.patch_size)

    def steps(self, images):
        """Optimiser steps of the run, and of one epoch, for a training set of `images`."""
        each = images // self.batch_size
        if each == 0:
            raise Refused(f"batch_size = {self.batch_size}: the training set has only {images} images")
        if self.updates == "epochs":
            return self.epochs * each, each
        if self.updates == "imagenet300":
            return round(300 * IMAGENET / self.batch_size), each
        return int(self.updates), each

    @property
    def fingerprint(self):
        """16 hex digits of everything that the result depends on."""
        kept = {name: value for name, value in self.dict().items() if name not in self.FREE}
        return hashlib.blake2b(strict.dumps(kept, sort_keys=True).encode(), digest_size=8).hexdigest()

    def folder(self):
        """Where the run lives: `out` / method-encoder-data-seed-hash, or `out` / `run`.

        A run of the earlier format, whose name has six digits of the hash, is found by its settings.
        """
        return self.resolved().resolved_folder()

    def resolved_folder(self):
        """The same of settings that are resolved already, which are not checked again."""
        if self.run:
            return place(self.out) / self.run
        share = "" if self.fraction == 1 else f"_{self.fraction:g}"
        return folder_of(self, f"{self.method}-{self.encoder}-{self.data}{share}-s{self.seed}")

    def log(self):
        """Where progress is written, a line every so many steps."""
        return self.folder() / "metrics.jsonl"
