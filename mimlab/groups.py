"""Which runs belong together: those whose settings differ in nothing but the seed; and what to call them.

What does not change the result (the folder, the name, the device, ...) tells no runs apart.
"""

from mimlab import strict
from mimlab.config import Pretrain
from mimlab.run import finished

FIRST = (
    "method",
    "task",
    "init",
    "encoder",
    "data",
    "fraction",
    "mask",
    "mask_ratio",
    "tokenizer",
    "epochs",
)  # what labels prefer


def flat(settings):
    """Settings with each option of a component by itself: {"mask_args.unit": 2, ...}."""
    found = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            found |= {f"{name}.{option}": one for option, one in value.items()}
        else:
            found[name] = None if value == {} else value
    return found


def differ(told):
    """Names of the flat settings that are not the same in all of `told`, but for those that do not change the result."""
    names = dict.fromkeys(name for settings in told for name in settings)
    kept = [name for name in names if name not in (*Pretrain.FREE, "seed")]
    return [name for name in kept if len({_key(settings, [name]) for settings in told}) > 1]


def groups(runs):
    """{label: [Run, ...]}: runs that differ in the seed alone together, each label as short as tells them apart."""
    together = members(runs)
    told = [flat(some[0].config["settings"]) for some in together]
    used, names = ["method"], differ(told)
    for name in sorted(names, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST)):
        kinds = {_key(settings, used) for settings in told}
        if len(kinds) == len(told):
            break
        if len({_key(settings, [*used, name]) for settings in told}) > len(kinds):
            used.append(name)
    labels = [
        ", ".join(_said(name, settings.get(name)) for name in used if name in settings) or settings["task"]
        for settings in told
    ]
    labels = [
        some[0].config["settings"].get("run") or label if len(some) == 1 else label
        for some, label in zip(together, labels, strict=True)
    ]
    if len(set(labels)) < len(labels):  # the images differ, not the settings
        labels = [some[0].path.name for some in together]
    if len(set(labels)) < len(labels):
        labels = [str(some[0].path) for some in together]
    return dict(zip(labels, together, strict=True))


def members(runs):
    """The runs in lists of those that differ in the seed alone, in the order given."""
    found = {}
    for run in runs:
        config = run.config
        settings = {name: value for name, value in config["settings"].items() if name not in (*Pretrain.FREE, "seed")}
        # a share of the images is drawn with the seed, so that its fingerprint is another for each
        drawn = settings.get("fraction", 1.0) < 1
        images = [config["images"], config["classes"]] if drawn else config["data_fingerprint"]
        found.setdefault(strict.dumps([settings, images], sort_keys=True), []).append(run)
    together = []
    for some in found.values():
        prints = {}  # one seed draws one share of the same images: two shares are of other images
        for run in some:
            prints.setdefault(run.config["settings"]["seed"], set()).add(run.config["data_fingerprint"])
        together += [some] if all(len(one) == 1 for one in prints.values()) else [[run] for run in some]
    return together


def seeds_of(run):
    """The run, and the finished ones beside it in its folder that differ from it in the seed alone."""
    there = [one for one in finished(run.path.parent.resolve()) if one.path.resolve() != run.path.resolve()]
    there = sorted(there, key=lambda one: str(one.path))
    return next(some for some in members([run, *there]) if run in some)


def _key(settings, names):
    return strict.dumps([settings.get(name) for name in names], sort_keys=True)


def _said(name, value):
    if name in ("method", "task", "encoder", "data", "mask"):
        return str(value)
    return f"{name.split('.')[-1]} {value:.4g}" if isinstance(value, float) else f"{name.split('.')[-1]} {value}"
