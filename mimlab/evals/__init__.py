"""`evaluate(cfg)`: transfer protocols on a run's encoder, and on the same encoder with fresh weights.

A protocol is one file here, with `evaluate(encoder, train, test, **options) -> dict`: labelled `Images` in, percent out. The
dict has `metric`, the name of its main number; that number; `hits`, numpy (Q,) in [0, 1], what each test image adds to it;
`protocol`, a text that is equal only where numbers are comparable; `frozen`, whether the encoder was; `chance`;
`train_images`, `test_images`; and what else it has to tell. Options that the file may have are filled in here: `seed`,
`device`, `pool` (the method's) and `cache` (a folder for features).
"""

import math
import time

import numpy as np

from mimlab import data, files, strict
from mimlab.config import Evaluate
from mimlab.cores import threads
from mimlab.data.cache import digest
from mimlab.errors import Refused, reason
from mimlab.evals._result import summary
from mimlab.evals._seeds import Seeds
from mimlab.evals._table import side_by_side
from mimlab.find import find, options
from mimlab.progress import Bar, say
from mimlab.run import Run, versions, write

__all__ = ["evaluate", "side_by_side"]


@threads()
def evaluate(cfg, report=None):
    """{"after <method>": {...}, "random features": {...}}, or "from scratch" where the encoder is trained; see `summary`.

    `cfg` is an `Evaluate`. The result is also written to evals/<cfg.name>.json of the run folder. Baseline and run share
    labels, epochs and seeds. With `evaluation` = "all": {name: such a dict}, or {"refused": reason} for what this run cannot
    do. `report(row)` is called after each seed and start. What an interrupted evaluation had finished is not done again.
    Raises `Refused`, before any work where it can be known.
    """
    cfg = cfg.resolved()
    run, each = Run.open(cfg.run), cfg.each()
    progress = Progress(cfg, len(each) * cfg.seeds * (1 + cfg.baseline), report)
    results = {}
    for one in each:
        try:
            results[one.name] = _one(one, run, progress)
        except (Refused, FloatingPointError) as error:
            if cfg.evaluation != "all":
                raise
            results[one.name] = {"refused": str(error)}
            say(f"{one.name}: refused: {error}")
    progress.bar.close()
    return results if cfg.evaluation == "all" else results[cfg.name]


class Progress:
    """Counts seeds and starts, shows them, and writes a row of each to the log, which it begins anew."""

    def __init__(self, cfg, steps, report):
        self.step, self.steps, self.report = 0, steps, report
        self.bar, self.log = Bar(steps, 0, cfg.evaluation), cfg.log()
        try:
            self.log.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise Refused(f"cannot make {self.log.parent}: {reason(error)}") from None
        files.unlinked(self.log.parent.parent)  # the run folder
        write(self.log, "")

    def add(self, name, start, found):
        self.step += 1
        row = {"step": self.step, "steps": self.steps, found["metric"]: found[found["metric"]], "start": start}
        row |= {"evaluation": name}
        self.bar.show(row)
        files.append(self.log, strict.dumps(row) + "\n")
        if self.report is not None:
            self.report(row)


def _one(cfg, run, progress):
    """The result of one evaluation, written to its file."""
    from mimlab.evals import _cache
    from mimlab.evals._labels import overlap

    settings, module, began = run.settings, find("evals", cfg.evaluation), time.perf_counter()
    method = run.method()
    about = cfg.replace(seeds=1, run="", out="", name=cfg.name, baseline=True).dict()
    about |= {"weights": _cache.weights(method.deployed), "versions": versions()}
    found, earlier, spent = {True: [], False: []}, 0.0, {True: 0.0, False: 0.0}  # s
    for seed in range(cfg.seeds):
        train, test = sets(cfg, run, seed)
        if seed == 0:  # other seeds' fractions are of the same images
            about |= {"data_args": placeless(cfg.data, cfg.data_args) if cfg.data else {}}
            about |= {"data": [run.config["data_fingerprint"], train.fingerprint, test.fingerprint]}
            kept = Seeds(run.path / "evals" / f"{cfg.name}.part", about)
        same = overlap(train, test)
        if same and seed == 0:
            say(f"note: {same} of {len(test)} {test.split} images are also training images, pixel for pixel")
        for trained in (True, False) if cfg.baseline else (True,):
            one, since = kept.get(seed, trained), time.perf_counter()
            if one is not None:
                earlier += one["seconds"]
            else:
                encoder = run.encoder() if trained else scratch(settings, seed)
                told = {"seed": seed, "device": device(cfg), "pool": method.pool, "cache": _cache.folder()}
                told = {name: value for name, value in told.items() if name in options(module.evaluate)}
                one = module.evaluate(encoder, train, test, **(told | cfg.evaluation_args))
                check_finite(one)
                one |= {"protocol": f"{one['protocol']}; {described(cfg, settings, train, test)}", "duplicates": same}
                one["seconds"] = time.perf_counter() - since
                kept.put(seed, trained, one)
            spent[trained] += one.pop("seconds")
            found[trained].append(one)
            progress.add(cfg.name, start(settings, trained, one["frozen"]), one)
    names = {trained: start(settings, trained, some[0]["frozen"]) for trained, some in found.items() if some}
    results = {name: summary(found[trained]) for trained, name in names.items()}
    first = next(iter(results.values()))
    whole = {"results": results} | {name: first[name] for name in ("metric", "protocol", "duplicates")}
    whole |= {
        "seeds": list(range(cfg.seeds)),
        "train_images": len(train),
        "test_images": len(test),
        "split": test.split,
    }
    whole["seconds"] = round(earlier + time.perf_counter() - began, 2)  # of all that the result is made of
    whole["seconds_each"] = {name: round(spent[trained], 2) for trained, name in names.items()}
    whole |= {"config": cfg.dict(), "versions": versions()}
    write(run.path / "evals" / f"{cfg.name}.json", strict.dumps(whole, indent=1))
    kept.done()
    return results


def check_finite(found):
    """FloatingPointError for a result with a number that is none."""
    for name, value in found.items():
        some = value if isinstance(value, (list, np.ndarray)) else [value]
        if any(isinstance(one, (float, np.floating)) and not math.isfinite(one) for one in some):
            raise FloatingPointError(
                f"{name} = {value} of {found['protocol']}: what was trained has diverged; try a smaller lr"
            )


def sets(cfg, run, seed):
    """(training images, images to test on): the test split, or with `validation` a share of the training labels."""
    from mimlab.evals._labels import hold_out

    settings = run.settings
    name, options = source(cfg, settings)
    where = {"size": settings.cache_size, "seed": seed, **options}
    if not cfg.validation:
        test = data.open(name, "test", **where) if cfg.data else run.data("test")
        test.require_labels()
    train = data.open(name, "train", fraction=cfg.fraction, **where)
    train.require_labels()
    return hold_out(train, cfg.validation, seed) if cfg.validation else (train, test)


def source(cfg, settings):
    """Name and options of the images that labels are learnt from: other ones than the run's where `cfg` says so."""
    return (cfg.data, cfg.data_args) if cfg.data else (settings.data, settings.data_args)


def placeless(name, options):
    """A source's options but for those that say where its images lie."""
    where = data.location(name, options)
    return {key: value for key, value in options.items() if key not in where}


def described(cfg, settings, train, test):
    """What was learnt from and tested on, so that numbers on other images or labels are not taken for the same."""
    name, options = source(cfg, settings)
    where = data.location(name, options)
    if where:  # what the images are counts, not where they lie
        split = "train" if cfg.validation else "test"
        options = placeless(name, options) | {"images": data.content(name, split, options)}
    options = f"-{digest(options)[:16]}" if options else ""
    return f"{name}{options}, {len(train)} labels, {len(test)} {test.split} images"


def start(settings, trained, frozen):
    if trained:
        return f"after {settings.method}"
    return "random features" if frozen else "from scratch"


def scratch(settings, seed):
    """The run's encoder with fresh weights, as the method starts it."""
    import torch

    torch.manual_seed(seed)
    return settings.build().deployed


def device(cfg: Evaluate):
    from mimlab.config.device import best

    return best() if cfg.device == "auto" else cfg.device
