"""`evaluate(cfg)`: one protocol on a run's encoder, and on the same encoder from scratch."""

import json
import statistics
import time

from mimlab import data
from mimlab.config import Evaluate
from mimlab.find import find, options
from mimlab.progress import Bar
from mimlab.run import Run, versions, write


def evaluate(cfg, report=None):
    """{"after <method>": {...}, "from scratch": {...}}; each with `top1` (mean over seeds), `values`, `spread`.

    `cfg` is an `Evaluate`. The result is also written to evals/<evaluation>.json of the run folder. Baseline
    and run share labels, epochs and seeds. Raises `Refused`, before any work where it can be known.
    """
    cfg = cfg.resolved()
    run, module = Run.open(cfg.run), find("evals", cfg.evaluation)
    settings = run.settings
    test = run.data("test")
    test.require_labels()
    pool = run.method().pool
    starts = {f"after {settings.method}": True} | ({"from scratch": False} if cfg.baseline else {})
    found, began = {name: [] for name in starts}, time.perf_counter()
    bar, log = Bar(cfg.seeds * len(starts), 0, cfg.evaluation), cfg.log()
    log.parent.mkdir(exist_ok=True)
    write(log, "")
    for seed in range(cfg.seeds):
        train = data.open(
            settings.data, "train", size=settings.cache_size, fraction=cfg.fraction, seed=seed, **settings.data_args
        )
        for name, trained in starts.items():
            encoder = run.encoder() if trained else scratch(settings, seed)
            told = {"seed": seed, "device": device(cfg), "pool": pool}
            told = {name: value for name, value in told.items() if name in options(module.evaluate)}
            found[name].append(module.evaluate(encoder, train, test, **(told | cfg.evaluation_args)))
            done = sum(len(values) for values in found.values())
            row = {"step": done, "steps": cfg.seeds * len(starts), "top1": found[name][-1]["top1"], "start": name}
            bar.show(row)
            with open(log, "a") as handle:
                handle.write(json.dumps(row) + "\n")
            if report is not None:
                report(row)
    bar.close()
    results = {name: summary(values) for name, values in found.items()}
    about = {"config": cfg.dict(), "seconds": round(time.perf_counter() - began, 1), "versions": versions()}
    write(run.path / "evals" / f"{cfg.evaluation}.json", json.dumps({"results": results} | about, indent=1))
    return results


def summary(found):
    """Mean top-1 over seeds, its sample deviation, each value, and what all seeds share."""
    values = [one["top1"] for one in found]
    shared = {name: value for name, value in found[-1].items() if all(one[name] == value for one in found)}
    spread = statistics.stdev(values) if len(values) > 1 else None
    return shared | {"top1": statistics.mean(values), "spread": spread, "values": values}


def scratch(settings, seed):
    """The run's encoder with fresh weights, as the method starts it."""
    import torch

    torch.manual_seed(seed)
    return settings.build().deployed


def device(cfg: Evaluate):
    import torch

    if cfg.device != "auto":
        return cfg.device
    return "cuda" if torch.cuda.is_available() else "cpu"
