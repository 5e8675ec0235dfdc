"""Combinations -> jobs. A job is one folder and the tasks to be done in it, in order, each an executed notebook.

A pre-training has the folder of its fingerprint, an evaluation one inside it by a hash of its settings: whatever is
configured alike is one task, in this study and in every other with the same `out`.
"""

import dataclasses
import glob
import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from mimlab import files, remote, strict
from mimlab.config import Evaluate, Pretrain
from mimlab.errors import Refused, shown
from mimlab.settings import place
from mimlab.study import grid

# A run that takes one step with a learning rate of zero has the encoder that training would begin with.
UNTRAINED = {
    "method": "splitmask", "tokenizer": "random_projection", "vocab": 16, "updates": "1", "epochs": 1, "batch_size": 2, "fraction": 1.0,
    "lr": 0.0, "min_lr": 0.0, "weight_decay": 0.0, "warmup_epochs": 0.0, "knn_every": 0, "film": 0,
}  # fmt: skip
KEPT = (
    "encoder",
    "encoder_args",
    "image_size",
    "patch_size",
    "cache_size",
    "data",
    "data_args",
    "seed",
    "device",
    "out",
)

DATA = "data", "data_args"


@dataclass(frozen=True)
class Task:
    """One notebook to execute. `kind`: pretrain, evaluate or notebook; `folder` is under MIMLAB_ROOT, as `out` is."""

    kind: str
    name: str
    folder: str
    notebook: str
    parameters: dict

    @property
    def path(self):
        return place(self.folder)

    @property
    def output(self):
        """The executed copy: the notebook's name without its number."""
        return self.path / f"{re.sub(r'^[0-9]+[_-]*', '', Path(self.notebook).stem)}.ipynb"


@dataclass
class Job:
    """One folder. `varied`: every combination that it stands for; `settings` of its first task."""

    name: str
    folder: str
    settings: dict
    varied: list = field(default_factory=list)
    tasks: list = field(default_factory=list)

    @property
    def path(self):
        return place(self.folder)

    def dict(self):
        return dataclasses.asdict(self)

    @classmethod
    def read(cls, content):
        return cls(**content | {"tasks": [Task(**task) for task in content["tasks"]]})


def plan(spec):
    """The jobs of a study, alike ones once. Every combination is resolved and checked; Refused says which cannot work."""
    combined = grid.combinations(spec)
    if spec.config is Pretrain:
        evaluations = [evaluation(spec, one) for one in spec.evaluations]
        if spec.scratch:  # what all is read against comes first
            combined = untrained(combined, evaluations) + combined
    jobs, refused, known = {}, [], {}
    for settings, varied in combined:
        try:
            job = (
                _pretrain(spec, settings, evaluations, known) if spec.config is Pretrain else _notebook(spec, settings)
            )
        except Refused as error:
            refused.append((varied, error))
            continue
        jobs.setdefault(job.folder, job).varied.append(_plain(varied))
    if refused:
        varied, error = refused[0]
        raise Refused(f"{len(refused)} of {len(combined)} combinations cannot work, first {_said(varied)}: {error}")
    return list(jobs.values())


def untrained(combined, evaluations):
    """One more combination for each encoder and seed: method "none", the encoder as training begins.

    And for each of the data, unless every evaluation brings its own: then the images change nothing.
    """
    found, free = {}, DATA if evaluations and all(one.get("data") for one in evaluations) else ()
    for settings, varied in combined:
        kept = {name: settings[name] for name in KEPT if name in settings}
        matters = {name: value for name, value in kept.items() if name not in free}
        said = {name: value for name, value in varied.items() if name.partition(".")[0] in {*KEPT} - {*free}}
        found.setdefault(strict.dumps(matters, sort_keys=True), (kept | UNTRAINED, {"method": "none"} | said))
    return list(found.values())


def evaluation(spec, given):
    """The settings of one evaluation, checked as far as they can be without a run: {name: value}."""
    if not isinstance(given, dict):
        raise Refused(
            f"evaluations of {spec.name}: {shown(given)} should be names with values, such as evaluation: knn"
        )
    for name in ("run", "out", "name"):
        if name in given:
            raise Refused(f"evaluations of {spec.name}: {name} is the study's own business")
    given = {"baseline": False} | given  # `scratch` has the baseline once, as runs of its own
    cfg = Evaluate.read(given)
    if cfg.evaluation == "all":
        raise Refused(f"evaluations of {spec.name}: name each one, since 'all' has no single result")
    cfg.check_args()
    cfg.check_data()
    return given


def _pretrain(spec, settings, evaluations, known):
    key = strict.dumps({name: value for name, value in settings.items() if name != "seed"}, sort_keys=True)
    if key not in known:  # a seed changes nothing that is checked
        known[key] = Pretrain.read(settings).resolved()
    cfg = known[key].replace(seed=Pretrain.read(settings).seed)
    name = cfg.resolved_folder().name
    folder = os.path.join(cfg.out, name)
    job = Job(name, folder, cfg.dict())
    job.tasks.append(Task("pretrain", "pretrain", folder, str(spec.notebook), settings))
    for given in evaluations:
        cfg = Evaluate.read(given)
        kept = {key: value for key, value in cfg.dict().items() if key not in ("run", "out", "device", "name")}
        inside = earlier(place(folder) / "evals", cfg, kept)
        if inside is None:
            told = strict.dumps(kept, sort_keys=True)
            if told not in known:
                known[told] = digest(kept | images(cfg))
            inside = f"{cfg.plain_name()}-{known[told]}"
        parameters = given | {"run": str(place(folder)), "out": spec.out, "name": inside}
        job.tasks.append(
            Task("evaluate", inside, os.path.join(folder, "evals", inside), str(spec.evaluator), parameters)
        )
    return job


def images(cfg):
    """{"data_args": ...} of an evaluation's own images with what they are in place of where they lie; {} where they cannot be read here."""
    from mimlab import data

    try:
        where = data.location(cfg.data, cfg.data_args) if cfg.data else ()
        if not where or any(remote.away(cfg.data_args.get(name, "")) for name in where):  # nothing is fetched to plan
            return {}
        what = [
            data.content(cfg.data, split, cfg.data_args) for split in ("train", "train" if cfg.validation else "test")
        ]
    except Refused:
        return {}
    return {"data_args": {name: value for name, value in cfg.data_args.items() if name not in where} | {"images": what}}


def earlier(folder, cfg, kept):
    """The name of a result with the settings `kept`, from when names held six digits, or where images lay; None if there is none."""
    plain = glob.escape(cfg.plain_name())
    for path in sorted([*folder.glob(f"{plain}-??????.json"), *folder.glob(f"{plain}-{digest(kept)}.json")]):
        try:
            about = files.load(path).get("config")
        except (OSError, Refused):
            continue
        if isinstance(about, dict) and {name: about.get(name) for name in kept} == kept:
            return path.stem
    return None


def _notebook(spec, settings):
    """A notebook that is no pre-training: its folder is found by a hash of all its parameters."""
    from mimlab import notebook

    known = {name: one["default"] for name, one in notebook.parameters(spec.notebook).items()}
    for name in settings:
        if name not in known:
            raise Refused(f"{spec.notebook.name}: no parameter {shown(name)}; there are: {', '.join(known) or 'none'}")
    whole = known | settings
    if spec.config is not None:
        whole = spec.config.read(whole).dict()
    name = f"{spec.notebook.stem}-{digest(whole)}"
    before = f"{spec.notebook.stem}-{digest(whole, 3)}"
    if not place(os.path.join(spec.out, name)).exists() and told(place(os.path.join(spec.out, before))) == settings:
        name = before
    folder = os.path.join(spec.out, name)
    return Job(name, folder, whole, tasks=[Task("notebook", "notebook", folder, str(spec.notebook), settings)])


def told(folder):
    """The parameters of a notebook that was executed in `folder`, whether it failed or not; None if there are none."""
    for name in ("result.json", "failed.json"):
        try:
            return files.load(folder / name).get("parameters")
        except (OSError, Refused):
            continue
    return None


def digest(content, size=8):
    """Hex digits, two for each of `size` bytes, of anything that JSON can hold; folders of earlier formats have six."""
    return hashlib.blake2b(strict.dumps(content, sort_keys=True).encode(), digest_size=size).hexdigest()


def _plain(varied):
    """Values as a table shows them: a preset by its name."""
    return {name: Path(value).stem if name == "preset" else value for name, value in varied.items()}


def _said(varied):
    return ", ".join(f"{name} = {_short(value)}" for name, value in _plain(varied).items()) or "the only one"


def _short(value):
    return value if isinstance(value, str) and len(value) < 100 else shown(value)
