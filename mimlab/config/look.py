"""What a model fills in."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mimlab.errors import Refused, shown
from mimlab.find import closest
from mimlab.settings import Settings, check_seed, place, setting, within

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Look(Settings):
    """What a run, or a file of official weights with its decoder, fills in under any mask."""

    run: str = setting("newest", "a run folder, or a file of weights; newest: the newest finished run in `out`")
    step: int | None = setting(None, "a kept checkpoint of the run; None: the end")
    load: dict = setting({}, 'of a file, what it does not tell, such as {"norm_pix": False}')
    mask: str | Callable | None = setting(
        None, "a file in mimlab/masks; None: the run's own, or the paper's, here and below"
    )
    mask_ratio: float | None = setting(None, "share of patches hidden")
    mask_args: dict | None = setting(None, "options of the strategy")
    split: str = setting("test", "which images: train or test")
    data: str | None = setting(None, "a file in mimlab/data; None: the run's, for a file photographs")
    data_args: dict = setting({}, 'options of `data`, such as {"path": "photos"}')
    images: int = setting(6, "how many are shown")
    samples: int = setting(256, "how many the numbers are measured on")
    seed: int = setting(0, "of images and masks")
    out: str = setting("runs", "where `newest` looks")

    def resolved(self):
        """The run's folder and mask filled in, everything checked; the model is opened for it."""
        return self.opened()[0]

    def folder(self):
        """The run's folder; for a file that is of no run `out`/looked/<its name>."""
        cfg, found = self.opened()
        return found.run.path if found.run else place(cfg.out) / "looked" / Path(cfg.run).stem

    def opened(self):
        """These settings resolved, and the `Opened` that they ask for."""
        from mimlab import data, masks
        from mimlab.looking.opened import open_model

        within("images", self.images, 1, 64)
        within("samples", self.samples, 1, 1_000_000)
        check_seed(self.seed)
        if self.split not in SPLITS:
            raise Refused(f"split = {shown(self.split)}{closest(self.split, SPLITS)}; there are: train, test")
        if self.data is not None:
            data.check(self.data, self.data_args)
        elif self.data_args:
            raise Refused(f"data_args = {shown(self.data_args)}: options of `data`, which is None; name the data too")
        found = open_model(self.run, self.out, step=self.step, load=self.load)
        method = found.method
        if method is None:
            raise Refused(
                f"run = {shown(self.run)} ({found.note}) is an encoder alone and fills in nothing; what does: MAE's file with its "
                "decoder (mae_visualize_*), BEiT's and CAE's pre-training files with load = {'dalle': ...}, SimMIM's, or a run"
            )
        look = self.replace(run=str(found.run.path)) if found.run and not Path(self.run).is_file() else self
        if not method.masked:
            if self.mask not in (None, "none") or self.mask_ratio:
                raise Refused(
                    f"mask = {shown(self.mask)}: {found.title} hides no patches, so it fills in nothing under a mask"
                )
            return look.replace(mask="none", mask_ratio=0.0, mask_args={}), found
        if found.run:
            own = found.run.settings.dict()
        else:
            own = sys.modules[type(method).__module__].RECIPE["paper"]
        args = own["mask_args"] if self.mask in (None, own["mask"]) else {}
        look = look.replace(
            mask=self.mask or own["mask"],
            mask_ratio=own["mask_ratio"] if self.mask_ratio is None else self.mask_ratio,
            mask_args=args if self.mask_args is None else self.mask_args,
        )
        masks.check(look.mask, method.encoder.grid, look.mask_ratio, look.mask_args)
        return look, found
