"""What a study has found."""

from dataclasses import dataclass

from mimlab.errors import Refused, shown
from mimlab.find import closest
from mimlab.settings import Settings, place, setting, within


@dataclass(frozen=True)
class Study(Settings):
    """The results of a study and how they are drawn."""

    study: str = setting("data_size_cpu", "its folder in `out`: the study's name and scale")
    evaluation: str | None = setting("finetune", "which of its evaluations is drawn; None: all of them together")
    quantity: str = setting("top1", "what is drawn: a number of that evaluation")
    follow: float | None = setting(
        0.0, "seconds to follow runs that are going on; None: until none is, or the cell is interrupted"
    )
    out: str = setting("studies", "where studies are, under MIMLAB_ROOT if that is set")

    FOLDERS = ("study",)

    def resolved(self):
        """Refuses a name that none of the studies there has; the default one is shown as empty until it is started."""
        within("follow", self.follow or 0, 0, 1e7, " seconds")
        there = sorted(path.parent.name for path in place(self.out).glob("*/grid.json"))
        if self.study not in there and self.study != type(self)().study:
            raise Refused(
                f"study = {shown(self.study)}{closest(self.study, there)}; there are: {', '.join(there) or 'none'}"
            )
        return self

    def folder(self):
        return place(self.out) / self.study


@dataclass(frozen=True)
class Scenes(Study):
    """The same, of the paper's second question."""

    study: str = setting("scenes_cpu", "its folder in `out`: the study's name and scale")
    column: str = setting("data_args.layout", "what is compared: a column of results.csv")
