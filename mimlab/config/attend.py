"""What a model looks at."""

import re
from dataclasses import dataclass
from pathlib import Path

from mimlab.errors import Refused, shown
from mimlab.settings import Settings, check_seed, place, setting, within


@dataclass(frozen=True)
class Attend(Settings):
    """What a run, or a file of weights, looks at; beside another if there are two."""

    run: str = setting("newest", "a run folder, a file of weights, or newest: the newest finished run in `out`")
    other: str | None = setting(None, "a second run or file, on the same images; None: none")
    step: int | None = setting(None, "a kept checkpoint of `run`; None: the last")
    load: dict = setting({}, 'of files: what they do not tell, such as {"heads": 6}')
    images: int = setting(6, "how many images")
    data: str | None = setting(None, "a file in mimlab/data; None: the run's own, photographs for a file")
    data_args: dict = setting({}, 'options of the data, such as {"path": "photos"}')
    split: str = setting("test", "which images: train or test")
    image_size: int | None = setting(None, "pixels, a multiple of the patch; None: what the encoder was built for")
    layer: str = setting("last", "the layer shown first: a number from 0, or last")
    query: str = setting("cls", "who looks: cls, or a patch as row,column from 0")
    threshold: float = setting(0.6, "share of the attention that is kept as mass, above 0, at most 1")
    discard: float = setting(
        0.9, "share of the smallest weights that one of the rollouts leaves out; 0: no such rollout"
    )
    seed: int = setting(0, "of the images")
    out: str = setting("runs", "where `newest` looks; a file's notebook goes to `out`/looked")

    def resolved(self):
        """The runs' folders written out; whatever needs no weights to be checked is."""
        from mimlab import data

        within("images", self.images, 1, 64)
        if not 0 < self.threshold <= 1:
            raise Refused(f"threshold = {self.threshold} must lie above 0 and be at most 1")
        if not 0 <= self.discard < 1:
            raise Refused(f"discard = {self.discard} must be 0 or more and below 1")
        if self.split not in ("train", "test"):
            raise Refused(f"split = {shown(self.split)}; there are: train, test")
        check_seed(self.seed)
        if self.layer != "last" and not re.fullmatch(r"[0-9]{1,4}", self.layer):
            raise Refused(f"layer = {shown(self.layer)} is neither a number from 0 nor last")
        self.place_of_query()
        if self.data is not None:
            data.check(self.data, self.data_args)
        elif self.data_args:
            raise Refused(f"data_args = {shown(self.data_args)} belong to a source; give data too")
        if self.image_size is not None:
            within("image_size", self.image_size, 2, 4096)
        found = self.replace(run=self._found(self.run, self.step))
        return found if self.other is None else found.replace(other=self._found(self.other, None))

    def place_of_query(self):
        """The query as "cls" or (row, column)."""
        text = self.query.replace(" ", "").lower()
        if text == "cls":
            return "cls"
        if not re.fullmatch(r"[0-9]{1,5},[0-9]{1,5}", text):
            raise Refused(f'query = {shown(self.query)} is neither cls nor a patch such as "7,7" (row, column)')
        return tuple(map(int, text.split(",")))

    def is_file(self, name):
        """Whether `name` is a file of weights, and no run."""
        from mimlab.looking.opened import SUFFIXES

        return Path(name).is_file() or place(name).is_file() or Path(name).suffix in SUFFIXES

    def _found(self, name, step):
        """The name of a file, or the path of a run in which the settings have their place."""
        from mimlab.masks import check_grid
        from mimlab.run import Run

        if self.is_file(name):
            if not (Path(name).is_file() or place(name).is_file()):
                raise Refused(f"run = {shown(name)}: there is no such file")
            return name
        run = Run.find(name, self.out)
        if step is not None and step not in run.weights():
            raise Refused(f"step = {step}: {run.path.name} has kept the weights of: {list(run.weights()) or 'none'}")
        patch, size = run.settings.patch_size, self.image_size or run.settings.image_size
        check_grid(size, patch)
        if size % patch:
            near = max(1, round(size / patch)) * patch
            raise Refused(
                f"image_size = {size} is no multiple of the {patch}-pixel patches of {run.path.name}; try {near}"
            )
        return str(run.path)

    def folder(self):
        run = self.resolved().run
        return place(self.out) / "looked" / Path(run).stem if self.is_file(run) else Path(run)
