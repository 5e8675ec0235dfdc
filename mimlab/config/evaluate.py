"""One evaluation of a run."""

from dataclasses import dataclass
from pathlib import Path

from mimlab.config.device import check_device
from mimlab.find import check_options, find
from mimlab.settings import Settings, setting, within


@dataclass(frozen=True)
class Evaluate(Settings):
    """One evaluation of a run's encoder, beside the same encoder with random weights."""

    run: str = setting("newest", "a run folder; newest: the newest finished one in `out`")
    evaluation: str = setting("finetune", "a file in mimlab/evals: finetune, knn")
    evaluation_args: dict = setting({}, 'its options, such as {"epochs": 20}')
    baseline: bool = setting(True, "also the same encoder from scratch, with the same labels, epochs and seeds")
    fraction: float | None = setting(None, "share of the labelled training images, class-balanced; None: the run's")
    seeds: int = setting(2, "repetitions, each with another seed")
    device: str = setting("auto", "auto, cpu, cuda or mps")
    out: str = setting("runs", "where `newest` looks")

    def resolved(self):
        """The run's folder in place of `newest`, every name checked."""
        from mimlab.run import Run

        within("seeds", self.seeds, 1, 1000)
        within("fraction", 1.0 if self.fraction is None else self.fraction, 1e-9, 1)
        check_device(self.device, "no")
        module = find("evals", self.evaluation)
        check_options("evaluation_args", self.evaluation_args, module.evaluate, reserved=("seed", "device"))
        run = Run.find(self.run, self.out)
        fraction = run.settings.fraction if self.fraction is None else self.fraction
        return self.replace(run=str(run.path), fraction=fraction)

    def folder(self):
        return Path(self.resolved().run)

    def log(self):
        """Where progress is written, a line for each seed and start."""
        return self.folder() / "evals" / f"{self.evaluation}.jsonl"
