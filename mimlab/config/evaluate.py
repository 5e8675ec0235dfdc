"""One evaluation of a run, or all of them."""

from dataclasses import dataclass
from pathlib import Path

from mimlab.config.device import check_device
from mimlab.errors import Refused, shown
from mimlab.find import check_options, closest, find, names, ranges
from mimlab.settings import Settings, setting, within

FILLED = ("seed", "device", "cache")  # options that `mimlab.evals` gives
VARIANTS = ("protocol", "recipe")  # options whose value, where it is not the default, is part of the result's name


@dataclass(frozen=True)
class Evaluate(Settings):
    """One evaluation of a run's encoder, beside the same encoder with random weights."""

    run: str = setting("newest", "a run folder; newest: the newest finished one in `out`")
    evaluation: str = setting(
        "finetune", "all, or a file in mimlab/evals: attentive, fewshot, finetune, knn, linear, retrieval"
    )
    evaluation_args: dict = setting({}, 'its options, such as {"epochs": 20}; for all, by name: {"knn": {"k": 10}}')
    baseline: bool = setting(True, "also the same encoder with fresh weights, with the same labels, epochs and seeds")
    data: str | None = setting(None, "a file in mimlab/data to learn labels from and to test on; None: the run's")
    data_args: dict = setting({}, 'options of `data`, such as {"path": "photos"}')
    fraction: float | None = setting(
        None, "share of the labelled training images, class-balanced; None: the run's, or all of other `data`"
    )
    validation: float = setting(
        0.0, "share of those labels to test on instead of the test images, to choose settings with; 0: the test images"
    )
    seeds: int = setting(2, "repetitions, each with another seed")
    name: str | None = setting(None, "of the result's file in evals/; None: the evaluation, its protocol or recipe")
    device: str = setting("auto", "auto, cpu, cuda or mps")
    out: str = setting("runs", "where `newest` looks")

    FOLDERS = ("name",)

    def resolved(self):
        """The run's folder in place of `newest`, the result's name, every other name checked."""
        from mimlab.run import Run

        within("seeds", self.seeds, 1, 1000)
        within("fraction", 1.0 if self.fraction is None else self.fraction, 1e-9, 1)
        within("validation", self.validation, 0, 0.9)
        check_device(self.device, "no")
        self.check_data()
        if self.name not in (None, self.plain_name()) and self.evaluation == "all":
            raise Refused(f"name = {shown(self.name)}: evaluation = 'all' writes a file for each, by its own name")
        cfg = self.replace(name=self.name or self.plain_name())
        cfg.check_args()
        run = Run.find(self.run, self.out)
        whole = 1.0 if self.data else run.settings.fraction
        fraction = whole if self.fraction is None else self.fraction
        return cfg.replace(run=str(run.path), fraction=fraction)

    def check_args(self):
        """Refuse options that an evaluation has not or that do not agree, before weights or images are read."""
        for one in self.each():
            module = find("evals", one.evaluation)
            check_options("evaluation_args", one.evaluation_args, module.evaluate, reserved=FILLED)
            if hasattr(module, "agreed"):
                module.agreed(**one.evaluation_args)

    def check_data(self):
        """Refuse options that `data` has not, or that belong to nothing."""
        from mimlab import data

        if self.data is not None:
            data.check(self.data, self.data_args)
        elif self.data_args:
            raise Refused(f"data_args = {shown(self.data_args)} belong to a source; give data too")

    def plain_name(self):
        """The evaluation, then its protocol or recipe where it is not the default, then `validation` where that is used."""
        parts = [self.evaluation]
        if self.evaluation != "all":
            try:
                known = ranges(find("evals", self.evaluation).evaluate)
            except Refused as error:
                raise Refused(f"evaluation: {error}") from None
            given = {name: self.evaluation_args.get(name) for name in VARIANTS if name in known}
            parts += [str(value) for name, value in given.items() if value not in (None, known[name].default)]
        return "-".join(parts + ["validation"] * bool(self.validation))

    def each(self):
        """Single evaluations: itself, or for "all" every file, in each of its protocols unless one is given."""
        if self.evaluation != "all":
            return [self]
        there, found = names("evals"), []
        for name, options in self.evaluation_args.items():
            if name not in there or not isinstance(options, dict):
                raise Refused(
                    f"evaluation_args: {shown(name)}{closest(name, there)} is no evaluation with a dict of options; evaluation = 'all' "
                    f"takes them by name: {', '.join(there)}"
                )
        for name in there:
            args = self.evaluation_args.get(name, {})
            known = ranges(find("evals", name).evaluate)
            choices = known["protocol"].choices if "protocol" in known and "protocol" not in args else (None,)
            for choice in choices:
                one = self.replace(
                    evaluation=name, evaluation_args=args | ({} if choice is None else {"protocol": choice})
                )
                found.append(one.replace(name=one.plain_name()))
        return found

    def folder(self):
        return Path(self.resolved().run)

    def log(self):
        """Where progress is written, a line for each seed and start."""
        cfg = self.resolved()
        return Path(cfg.run) / "evals" / f"{cfg.name}.jsonl"
