"""Features of an encoder."""

from dataclasses import dataclass
from pathlib import Path

from mimlab.errors import Refused, shown
from mimlab.settings import Settings, check_seed, place, setting, within


@dataclass(frozen=True)
class Features(Settings):
    """Features of an encoder: components, neighbours, maps, and numbers for each layer."""

    run: str = setting("newest", "a run folder, or a file of weights; newest: the newest finished one in `out`")
    other: str | None = setting(None, "a second run or file, for CKA between the two; None: none")
    step: int | None = setting(None, "a kept checkpoint of the run; None: the finished weights")
    load: dict = setting({}, 'what a file of weights does not tell itself, such as {"heads": 6}')
    images: int = setting(6, "how many are shown, at most 32")
    data: str | None = setting(None, "a file in mimlab/data; None: the run's, or photographs for a file")
    data_args: dict = setting({}, 'options of the data, such as {"path": "photos"}')
    split: str = setting("test", "which images: train or test; accuracies are always fitted to train, and of test")
    image_size: int | None = setting(None, "pixels, a multiple of the patch; None: the encoder's")
    pool: str = setting("mean", "one vector an image: mean (of its patches) or cls")
    layer: int | None = setting(None, "a block, from 0; None: the output, after the final norm")
    project: str = setting("pca", "the map: pca, tsne (at most 2000 samples) or umap (needs umap-learn)")
    samples: int = setting(500, "how many images the map and the numbers are of")
    seed: int = setting(0, "of the choice of images, and of the map")
    out: str = setting("runs", "where `newest` looks; a file's notebook goes into `out`/looked")

    def resolved(self):
        """The folder of the run, or the path of the file, in place of its name; every value checked."""
        from mimlab import data
        from mimlab.encoders import POOLS
        from mimlab.looking import geometry

        within("images", self.images, 1, 32)
        within("samples", self.samples, 1, 20_000)
        check_seed(self.seed)
        if self.pool not in POOLS:
            raise Refused(f"pool = {shown(self.pool)}; there are: {', '.join(POOLS)}")
        if self.layer is not None and self.layer < 0:
            raise Refused(f"layer = {self.layer}: blocks count from 0; use None for the output")
        if self.image_size is not None:
            within("image_size", self.image_size, 1, 4096)
        if self.split not in ("train", "test"):
            raise Refused(f"split = {shown(self.split)}; there are: train, test")
        geometry.check_projection(self.project, self.samples)
        if self.data is not None:
            data.check(self.data, self.data_args)
        elif self.data_args:
            raise Refused(f"data_args = {shown(self.data_args)}: options of what data? Give `data` too")
        found = {"run": self._found(self.run), "other": None if self.other is None else self._found(self.other)}
        files = [path for path in found.values() if path and Path(path).is_file()]
        if self.load and not files:
            raise Refused(f"load = {shown(self.load)}: it is for files of weights; a run has settings of its own")
        if self.step is not None and Path(found["run"]).is_file():
            raise Refused(f"step = {self.step}: a file of weights has no checkpoints; only runs have")
        return self.replace(**found)

    def _found(self, name):
        from mimlab.looking.opened import SUFFIXES
        from mimlab.run import Run

        file = next((path for path in (Path(name), place(name)) if path.is_file()), None)
        if file is None and Path(name).suffix in SUFFIXES:
            raise Refused(f"run = {shown(name)}: there is no such file")
        return str(file or Run.find(name, self.out).path)

    def folder(self):
        path = Path(self.resolved().run)
        return path if path.is_dir() else place(self.out) / "looked" / path.stem
