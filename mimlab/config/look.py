"""What a run fills in."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mimlab.settings import Settings, setting, within


@dataclass(frozen=True)
class Look(Settings):
    """What a run fills in, for any mask."""

    run: str = setting("newest", "a run folder; newest: the newest finished one in `out`")
    mask: str | Callable | None = setting(None, "a file in mimlab/masks; None: the run's own, here and below")
    mask_ratio: float | None = setting(None, "share of patches hidden")
    mask_args: dict | None = setting(None, "options of the strategy")
    split: str = setting("test", "which images: train or test")
    images: int = setting(6, "how many")
    seed: int = setting(0, "of images and masks")
    out: str = setting("runs", "where `newest` looks")

    def resolved(self):
        from mimlab import masks
        from mimlab.run import Run

        within("images", self.images, 1, 64)
        run = Run.find(self.run, self.out)
        cfg = run.settings
        own = self.mask is None or self.mask == cfg.mask
        filled = {"run": str(run.path), "mask": self.mask or cfg.mask, "mask_ratio": self.mask_ratio or cfg.mask_ratio}
        filled["mask_args"] = self.mask_args if self.mask_args is not None else (cfg.mask_args if own else {})
        look = self.replace(**filled)
        masks.check(look.mask, (cfg.image_size // cfg.patch_size,) * 2, look.mask_ratio, look.mask_args)
        return look

    def folder(self):
        return Path(self.resolved().run)
