"""Runs side by side."""

from dataclasses import dataclass

from mimlab.errors import Refused, shown
from mimlab.find import closest
from mimlab.settings import Settings, place, setting, within


@dataclass(frozen=True)
class Compare(Settings):
    """Runs side by side: settings that differ, curves, speed, evaluations, and what each run sees."""

    runs: str = setting(
        "*", "names separated by commas, newest, or a pattern such as mae-*; all in `out` with *", many=True
    )
    quantity: str = setting("loss", "what is drawn against x: loss, knn_top1, token_accuracy, lr, ... as logged")
    x: str = setting("step", "step, epoch, images, or hours (of training, without probes)")
    smoothing: float = setting(0.6, "weight of the past in the moving average, below 1; 0: raw")
    follow: float | None = setting(
        None, "seconds to follow runs that still train; None: until they end or the cell is interrupted"
    )
    images: int = setting(4, "how many images of each run's first step")
    out: str = setting("runs", "where run folders are")

    def resolved(self):
        """The folders of the runs in place of their names; a quantity that no run has logged is refused."""
        from mimlab import compare

        within("smoothing", self.smoothing, 0, 0.9999)
        within("follow", self.follow or 0, 0, 1e7, " seconds")
        within("images", self.images, 1, 16)
        if self.x not in compare.AXES:
            raise Refused(f"x = {shown(self.x)}{closest(self.x, compare.AXES)}; there are: {', '.join(compare.AXES)}")
        found = compare.select(self.runs, self.out)
        logged = {name for run in found for row in run.metrics() for name in row}
        if logged and self.quantity not in logged:
            there = ", ".join(sorted(logged - {"step", "steps", "epoch"}))
            raise Refused(
                f"quantity = {shown(self.quantity)} was logged by none of these runs{closest(self.quantity, logged)}; there are: {there}"
            )
        return self.replace(runs=",".join(str(run.path) for run in found))

    def folder(self):
        self.resolved()
        return place(self.out) / "compared"
