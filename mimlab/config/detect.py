"""One transfer to detection or segmentation."""

import hashlib
from dataclasses import dataclass

from mimlab import strict
from mimlab.config.device import check_device
from mimlab.errors import Refused, shown
from mimlab.find import check_options, closest, find
from mimlab.settings import Settings, check_seed, folder_of, place, setting, within

TASKS = ("detect", "segment")


@dataclass(frozen=True)
class Detect(Settings):
    """An encoder trained to detect or to segment. Defaults are sized for a CPU and drawn scenes; None is the recipe's."""

    task: str = setting(
        "detect", "detect (Mask R-CNN: boxes and masks of objects), or segment (the class of each pixel)"
    )
    init: str = setting("scratch", "scratch, a run (folder, name in `out`, newest), a file of weights, or a timm name")
    load: dict = setting({}, 'of a file of weights, what it does not tell, such as {"heads": 3}')
    recipe: str = setting("small", "small (minutes on a CPU), or paper (3x: 36 epochs of COCO)")
    encoder: str = setting("vit", "from scratch: vit, vit_small, xcit, xcit_small, ...; else the init has its own")
    encoder_args: dict = setting({"dim": 128, "depth": 6, "heads": 4}, "dim, depth, heads, ...")
    patch_size: int = setting(8, "pixels: 2, 4, 8 or 16")
    data: str = setting("scenes", "a file in mimlab/detection/data: scenes (drawn), coco (a folder or zip)")
    data_args: dict = setting(
        {"classes": "any", "train": 600}, 'its options, such as {"layout": "object"}, or {"path": "coco.zip"}'
    )
    image_size: int | None = setting(None, "pixels of the shorter side; None: the recipe's, here and below")
    long_side: int | None = setting(None, "pixels that the longer side has at most")
    multi_scale: bool | None = setting(None, "train on shorter sides from 60 % to 100 %; detect: and on cut-outs")
    channels: int | None = setting(None, "of the feature pyramid and the heads")
    hidden: int | None = setting(None, "detect: width of the box head")
    regions: int | None = setting(None, "detect: regions an image that the heads train on")
    proposals: int | None = setting(None, "detect: regions an image that are proposed")
    anchor_scale: int | None = setting(None, "detect: side of an anchor in cells of its level")
    head: str = setting("uper", "segment: uper (pyramid), or linear (one 1 x 1 convolution on the last map)")
    frozen: bool = setting(False, "train the head only")
    epochs: int | None = setting(None, "passes over the training images")
    batch_size: int | None = setting(None, "images a step")
    lr: float | None = setting(None, "peak learning rate of AdamW; a tenth after 3/4, again after 11/12")
    warmup_steps: int | None = setting(None, "of a linear rise; at most a tenth of all")
    weight_decay: float = setting(0.05, "never on norms, biases and positions")
    layer_decay: float = setting(1.0, "factor of the learning rate from block to block, downwards")
    drop_path: float | None = setting(None, "stochastic depth in the encoder")
    clip: float = setting(0.0, "largest gradient norm; 0: no clipping")
    precision: str = setting("no", "no, bf16 or fp16")
    device: str = setting("auto", "auto, cpu or cuda")
    workers: int = setting(0, "loader processes")
    seed: int = setting(0, "of everything that is drawn")
    evaluate_every: int = setting(0, "epochs between evaluations on the test images; 0: at the end only")
    checkpoint_every: int = setting(1, "epochs between checkpoints; 0: when interrupted only")
    log_every: int = setting(10, "steps between lines of metrics.jsonl")
    out: str = setting("runs", "where folders are made, and where runs are looked for")
    run: str | None = setting(None, "name of the folder; None: task-init-data-seed-hash")

    # What may differ when training goes on.
    FOLDERS = ("run",)
    FREE = ("out", "run", "workers", "log_every", "checkpoint_every", "evaluate_every", "device")
    # What may differ between two transfers that are compared: where the encoder comes from, and the seed.
    STARTS = ("init", "load", "encoder", "encoder_args", "patch_size", "seed")

    def resolved(self):
        """Every None replaced by the recipe; names and combinations checked without reading images."""
        from mimlab.detection.neck import PATCHES
        from mimlab.detection.recipes import RECIPES

        if self.task not in TASKS:
            raise Refused(f"task = {shown(self.task)}{closest(self.task, TASKS)}; there are: {', '.join(TASKS)}")
        if self.recipe not in RECIPES:
            raise Refused(
                f"recipe = {shown(self.recipe)}{closest(self.recipe, RECIPES)}; there are: {', '.join(RECIPES)}"
            )
        known = RECIPES[self.recipe]
        cfg = self.replace(**{name: known[name] for name in known if getattr(self, name) is None})
        for name, low, high in (
            ("image_size", 16, 4096), ("channels", 1, 4096), ("hidden", 1, 65536),
            ("regions", 1, 4096), ("proposals", 1, 10_000), ("anchor_scale", 1, 64), ("epochs", 1, 100_000), ("batch_size", 1, 4096),
            ("lr", 0, 10), ("warmup_steps", 0, 1_000_000), ("weight_decay", 0, 10), ("layer_decay", 0.01, 1), ("drop_path", 0, 0.9),
            ("clip", 0, 1e6), ("workers", 0, 256), ("evaluate_every", 0, 100_000), ("checkpoint_every", 0, 100_000), ("log_every", 1, 100_000),
        ):  # fmt: skip
            within(name, getattr(cfg, name), low, high)
        within("long_side", cfg.long_side, cfg.image_size, 8192, ", the least being image_size")
        if cfg.patch_size not in PATCHES:
            raise Refused(f"patch_size = {cfg.patch_size}; the pyramid is for patches of 2, 4, 8 or 16 pixels")
        if cfg.head not in ("uper", "linear"):
            raise Refused(f"head = {shown(cfg.head)}{closest(cfg.head, ('uper', 'linear'))}; there are: uper, linear")
        check_device(cfg.device, cfg.precision)
        check_seed(self.seed)
        if cfg.init == "scratch":
            self.check_encoder(cfg)
        check_options("data_args", cfg.data_args, find("detection.data", cfg.data).open)
        return cfg

    @staticmethod
    def check_encoder(cfg):
        """Refuse an encoder that there is not, and options that it has not, before any images are opened."""
        from mimlab.encoders import family

        try:
            module = find("encoders", family(cfg.encoder))
        except Refused as error:
            raise Refused(f"encoder = {shown(cfg.encoder)}: {error}") from None
        check_options("encoder_args", cfg.encoder_args, module.create)

    @property
    def fingerprint(self):
        """16 hex digits of everything that the result depends on."""
        return self._digest(self.FREE, 8)

    @property
    def schedule(self):
        """Six hex digits of what two transfers must share to be compared: data, model and schedule."""
        return self._digest((*self.FREE, *self.STARTS))

    def _digest(self, left_out, bytes=3):
        kept = {name: value for name, value in self.dict().items() if name not in left_out}
        return hashlib.blake2b(strict.dumps(kept, sort_keys=True).encode(), digest_size=bytes).hexdigest()

    def folder(self):
        """Where results are: `out` / task-init-data-seed-hash, or `out` / `run`."""
        cfg = self.resolved()
        init = cfg.init.rstrip("/").split("/")[-1].removesuffix(".safetensors").removesuffix(".pth")
        if cfg.run:
            return place(cfg.out) / cfg.run
        return folder_of(cfg, f"{cfg.task}-{init}-{cfg.data}-s{cfg.seed}")

    def log(self):
        """Where progress is written, a line every so many steps."""
        return self.folder() / "metrics.jsonl"
