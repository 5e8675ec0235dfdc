"""Masking strategies side by side."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mimlab import preset
from mimlab.errors import Refused, shown
from mimlab.find import find, names
from mimlab.settings import Settings, check_seed, place, setting, within


@dataclass(frozen=True)
class Explore(Settings):
    """Masking strategies side by side on the same images, and the live explorer."""

    data: str = setting("photographs", "a file in mimlab/data: emoji, fashion_mnist, folder, hub, photographs")
    data_args: dict = setting({}, 'options of the data, such as {"path": "photos"}')
    image_size: int = setting(224, "pixels")
    patch_size: int = setting(16, "pixels; must divide image_size")
    mask: str | Callable = setting(
        "blockwise", "the strategy whose options are set below: a file in mimlab/masks, or yours"
    )
    mask_ratio: float = setting(0.5, "share of patches hidden, above 0 and below 1")
    mask_args: dict = setting({}, "options of that strategy; all others have their defaults")
    preset: str | None = setting(None, "a YAML file saved by the explorer, in place of the three above it")
    strategies: str = setting("all", "what to compare: all, or names separated by commas", many=True)
    run: str | None = setting(None, "a run folder, or newest: its images, and what it fills in; None: no model")
    images: int = setting(4, "how many images")
    samples: int = setting(500, "masks drawn for the statistics")
    seed: int = setting(0, "of images and masks")
    out: str = setting("runs", "the executed notebook goes into `out`/masks, or into the run's folder")

    def resolved(self):
        """The run's images and sizes if there is one; every strategy checked."""
        from mimlab import data, masks
        from mimlab.run import Run

        if self.preset:
            return preset.apply(self).resolved()
        cfg = self
        if self.run:
            run = Run.find(self.run, self.out)
            own = {name: getattr(run.settings, name) for name in ("data", "data_args", "image_size", "patch_size")}
            cfg = self.replace(run=str(run.path), **own)
        within("images", cfg.images, 1, 64)
        within("samples", cfg.samples, 2, 1_000_000)
        check_seed(self.seed)
        within("image_size", cfg.image_size, 2, 4096)
        within("patch_size", cfg.patch_size, 1, cfg.image_size, ", which is image_size")
        if cfg.image_size % cfg.patch_size:
            good = [str(p) for p in range(2, cfg.image_size) if cfg.image_size % p == 0]
            raise Refused(
                f"patch_size = {cfg.patch_size} does not divide image_size = {cfg.image_size}; try one of: {', '.join(good)}"
            )
        masks.check_grid(cfg.image_size, cfg.patch_size)
        data.check(cfg.data, cfg.data_args)
        grid = (cfg.image_size // cfg.patch_size,) * 2
        for name in cfg.compared():
            masks.check(name, grid, cfg.mask_ratio, cfg.mask_args if name == cfg.mask else {})
        return cfg

    def compared(self):
        """The strategies to compare, the chosen one last if it is not among them; without a run, none that asks one."""
        from mimlab import masks

        if self.strategies == "all":
            found = [name for name in names("masks") if self.run or not masks.asks(name)]
        else:
            found = [name.strip() for name in self.strategies.split(",") if name.strip()]
            for name in found:
                try:
                    find("masks", name)
                except Refused as error:
                    raise Refused(f"strategies: {error}") from None
        for name in (*found, self.mask):
            if masks.asks(name) and not self.run:
                raise Refused(f"mask = {shown(name)} asks a model; give run = a run folder, or newest")
        return found if self.mask in found else [*found, self.mask]

    def folder(self):
        cfg = self.resolved()
        return Path(cfg.run) if cfg.run else place(cfg.out) / "masks"
