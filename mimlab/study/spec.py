"""The YAML file of a study, read and checked."""

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from mimlab import remote, trusted, yaml_text
from mimlab.errors import Refused, shown
from mimlab.find import closest
from mimlab.settings import SEEDS, coerce, data_only, place, within

MOST = 10_000  # combinations

KEYS = {
    "name": str, "about": str, "notebook": str, "base": dict, "axes": dict, "zip": list, "exclude": list, "seeds": (list, int), "presets": list,
    "evaluations": list, "scratch": bool, "slurm": dict, "scale": dict,
}  # fmt: skip
SCALED = [name for name in KEYS if name not in ("name", "about", "notebook", "scale")]
PRETRAIN, EVALUATE = "03_pretrain.ipynb", "06_evaluate.ipynb"


@dataclass(frozen=True)
class Spec:
    """A study as its file says it, at one scale.

    `axes` name -> values, all combined; `zip` groups of such lists, moved together; `exclude` partial settings;
    `presets` paths of masks saved by the explorer; `evaluations` settings of `Evaluate`; `scratch` also the encoder
    without pre-training; `config` the settings class of its notebook, or None.
    """

    name: str
    about: str
    notebook: Path
    config: type | None
    base: dict
    axes: dict
    zip: list
    exclude: list
    seeds: list
    presets: list
    evaluations: list
    scratch: bool
    slurm: dict
    scale: str | None

    @property
    def evaluator(self):
        """The notebook that evaluates: beside the study's own one, or the clone's."""
        beside = self.notebook.with_name(EVALUATE)
        return beside if beside.is_file() else _notebook(EVALUATE, EVALUATE)

    @property
    def folder(self):
        """Where grid.json, results.csv and report.html lie: studies/<name>, or studies/<name>_<scale>."""
        return place("studies") / (f"{self.name}_{self.scale}" if self.scale else self.name)

    @property
    def out(self):
        return coerce("out", self.base.get("out", "runs"), str)


def read(path, scale=None, given=None):
    """The `Spec` of a YAML file; `scale` is one of its scales (None: the first), `given` settings over its `base`.

    The path may be an address that fsspec opens. Raises Refused for whatever has no place in it.
    """
    content = _yaml(path)
    if remote.away(path):
        trusted.check_all(content, f"the study '{path}'")
    for name, value in content.items():
        _check_key(path, name, value, KEYS)
    scales = content.pop("scale", {})
    if scales:
        for name, value in scales.items():
            if not isinstance(name, str) or not isinstance(value or {}, dict):
                raise Refused(
                    f"{path}: scale {shown(name)} = {shown(value)} should be a name with names and values below it"
                )
        scale = scale or next(iter(scales))
        if scale not in scales:
            raise Refused(f"scale = {shown(scale)}{closest(scale, scales)}; {path} has: {', '.join(scales)}")
        for name, value in (scales[scale] or {}).items():
            _check_key(f"{path}, scale {scale}", name, value, SCALED)
            merged = name in ("base", "slurm")  # the rest stands in place of what the study has
            content[name] = content.get(name, {}) | value if merged else value
    elif scale:
        raise Refused(f"scale = {shown(scale)}: {path} has no scales")
    name = content.get("name") or Path(str(path)).stem
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name):
        raise Refused(f"name = {shown(name)} of {path}: at most 100 letters, digits, - and _, since it names a folder")
    spec = Spec(
        name=name,
        about=content.get("about", ""),
        notebook=_notebook(path, coerce("notebook", content.get("notebook", PRETRAIN), str)),
        config=None,
        base=content.get("base", {}) | data_only("parameters", dict(given or {})),
        axes=content.get("axes", {}),
        zip=content.get("zip", []),
        exclude=content.get("exclude", []),
        seeds=_seeds(content.get("seeds", [])),
        presets=[_beside(path, coerce(f"{path}: presets", one, str)) for one in content.get("presets", [])],
        evaluations=content.get("evaluations", []),
        scratch=content.get("scratch", False),
        slurm=content.get("slurm", {}),
        scale=scale,
    )
    spec = Spec(**{**vars(spec), "config": _config(spec.notebook)})
    _check(path, spec, given or {})
    return spec


def fields(spec):
    """All names that a combination sets, in order: axes, zipped ones, preset, seed."""
    names = [*spec.axes, *(name for group in spec.zip for name in group)]
    return names + (["preset"] if spec.presets else []) + (["seed"] if spec.seeds else [])


def _yaml(path):
    try:
        content = yaml_text.read(path, "study")
    except Refused as error:
        if remote.away(path) or "cannot be read" not in str(error):
            raise
        beside = sorted(one.name for one in Path(path).parent.glob("*.yaml"))
        there = f"{closest(Path(path).name, beside)}; there are: {', '.join(beside)}" if beside else ""
        raise Refused(f"{error}{there}") from None
    if not isinstance(content, dict):
        raise Refused(f"study: '{path}' should hold names with values; there are: {', '.join(KEYS)}")
    return data_only(f"study '{path}'", content)


def _check_key(where, name, value, known):
    if name not in known:
        raise Refused(f"{where}: no key {shown(name)}{closest(name, known)}; there are: {', '.join(known)}")
    if not isinstance(value, KEYS[name]) or (KEYS[name] is not bool and isinstance(value, bool)):
        kinds = {str: "text", dict: "names with values", list: "a list", bool: "true or false"}
        raise Refused(f"{where}: {name} = {shown(value)} should be {kinds.get(KEYS[name], 'a list, or how many')}")


def _seeds(seeds):
    if isinstance(seeds, int):
        within("seeds", seeds, 1, MOST)
        return list(range(seeds))
    if any(not isinstance(seed, int) or isinstance(seed, bool) for seed in seeds) or len(set(seeds)) < len(seeds):
        raise Refused(f"seeds = {shown(seeds)}: whole numbers, each once")
    for seed in seeds:
        within("seeds", seed, 0, SEEDS)
    return seeds


def _beside(path, name):
    """A path that the study's file names: from that file's folder."""
    if remote.away(name) or Path(str(name)).is_absolute():
        return str(name)
    return f"{str(path).rpartition('/')[0]}/{name}" if remote.away(path) else str(Path(path).parent / str(name))


def _notebook(path, name):
    """A notebook by its path or address, or one of the clone's own notebooks by its name."""
    import mimlab

    if remote.away(name):
        return remote.here(name)

    ours = Path(mimlab.__file__).parent.parent / "notebooks"
    found = [place for place in (Path(_beside(path, name)), Path(name), ours / name) if place.is_file()]
    if not found:
        there = sorted(place.name for place in ours.glob("*.ipynb"))
        raise Refused(f"notebook = {shown(name)}{closest(name, there)}: no such file; there are: {', '.join(there)}")
    return found[0].resolve()


def _config(notebook):
    """The settings class that the notebook's metadata names, or None."""
    from mimlab import config

    try:
        name = json.loads(notebook.read_text(encoding="utf-8"))["metadata"].get("mimlab", {}).get("config")
    except (ValueError, KeyError, AttributeError):
        raise Refused(f"notebook: '{notebook}' is not a Jupyter notebook (.ipynb)") from None
    return getattr(config, name, None) if name else None


def _check(path, spec, given):
    """Refuse what no combination of the file could mean."""
    names = fields(spec)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise Refused(f"{path}: {', '.join(twice)} set twice among axes, zip, presets and seeds")
    for where, group in (("axes", spec.axes), *((f"zip {k}", group) for k, group in enumerate(spec.zip, 1))):
        if (
            not isinstance(group, dict)
            or not all(isinstance(values, list) and values for values in group.values())
            or (where != "axes" and not group)
        ):
            raise Refused(f"{path}: {where} should be names, each with a list of values")
        if where != "axes" and len({len(values) for values in group.values()}) != 1:
            raise Refused(f"{path}: {where} moves {', '.join(group)} together, so their lists must be equally long")
    for name in given:
        if name in names:
            raise Refused(f"parameter {name}: the study varies it; change {path}")
    for one in spec.exclude:
        if not isinstance(one, dict) or not one:
            raise Refused(f"{path}: exclude has {shown(one)}; expected names with values, such as {{method: mae}}")
        for name in one:
            if name not in names:
                raise Refused(
                    f"{path}: exclude has {shown(name)}{closest(name, names)}; the study varies: {', '.join(names)}"
                )
    _check_names(path, spec, names)
    sizes = [len(values) for values in spec.axes.values()] + [len(next(iter(group.values()))) for group in spec.zip]
    total = math.prod([*sizes, len(spec.presets) or 1, len(spec.seeds) or 1])
    if total > MOST:
        raise Refused(
            f"{path}: its axes, zip, presets and seeds give {total:,} combinations, at most {MOST:,} are planned"
        )
    if "run" in spec.base:
        raise Refused(f"{path}: run = {shown(spec.base['run'])}: a study names the folders of its runs itself")
    pretrains = spec.config is not None and spec.config.__name__ == "Pretrain"
    for name in ("evaluations", "scratch", "presets"):
        if getattr(spec, name) and not pretrains:
            raise Refused(f"{path}: {name} belong to pre-training, and {spec.notebook.name} does none")


def _check_names(path, spec, varied):
    """Refuse what is no setting of the notebook, among `base` and what is varied, before any combination is made."""
    from mimlab.notebook import parameters

    known = [f.name for f in dataclasses.fields(spec.config)] if spec.config else list(parameters(spec.notebook))
    for name in (*spec.base, *varied):
        if name.partition(".")[0] not in known:
            raise Refused(
                f"{path}: {spec.notebook.name} has no parameter {shown(name)}{closest(name, known)}; there are: {', '.join(known)}"
            )
