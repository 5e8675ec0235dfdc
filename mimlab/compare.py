"""Runs side by side: which differ in what, what they logged, how fast they were, what their evaluations say.

Runs whose settings differ in nothing but the seed belong together: they are one label, and a band in the curves.
"""

import contextlib
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np

from mimlab.config import Pretrain
from mimlab.errors import Refused
from mimlab.find import closest
from mimlab.run import Run
from mimlab.settings import place

AXES = ("step", "epoch", "images", "hours")
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
PAUSE = 2.0  # s between two looks at runs that still train
SIDE = 112  # px of a picture in `views`


def select(names, out="runs"):
    """The runs that `names` says: a folder, its name in `out`, "newest", or a pattern; several separated by commas.

    A run counts however far it is. Raises Refused where there is none.
    """
    found = {}
    for name in filter(None, (part.strip() for part in names.split(","))):
        if any(sign in name for sign in "*?["):
            base = Path(name).parent if os.path.isabs(name) else place(out)
            pattern = Path(name).name if os.path.isabs(name) else name
            folders = sorted(path.parent for path in base.glob(f"{pattern}/config.json"))
            if not folders:
                raise Refused(f"runs = {name!r}: no run in {str(base)!r} fits; pre-train one with notebook 03 first")
            runs = [Run.open(folder) for folder in folders]
        else:
            there = sorted(path.parent.name for path in place(out).glob("*/config.json"))
            known = name == "newest" or any(
                (p / "config.json").is_file() for p in (Path(name), place(name), place(out) / name)
            )
            if not known:
                raise Refused(
                    f"runs: there is no run {name!r}{closest(name, there)}; in {out!r}: {', '.join(there) or 'none'}"
                )
            runs = [Run.find(name, out)]
        found |= {run.path.resolve(): run for run in runs}
    if not found:
        raise Refused("runs: nothing is named; give names separated by commas, newest, or a pattern such as *")
    return list(found.values())


def running(run):
    """Whether a process trains this run now: it holds the lock of its folder."""
    lock = run.path / "lock"
    if run.finished or not lock.exists():
        return False
    try:
        import fcntl
    except ImportError:  # no such locks on Windows: a file that grew a minute ago
        log = run.path / "metrics.jsonl"
        return log.exists() and time.time() - log.stat().st_mtime < 60
    with open(lock) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def rows(run):
    """The run's rows of metrics.jsonl, each with `images` (seen so far) and `hours`.

    Hours are those of training, summed from images/s, so that a resume counts no step twice; probes and the time in
    which nothing ran are left out.
    """
    batch, seconds, last, found = run.config["settings"]["batch_size"], 0.0, 0, []
    for row in run.metrics():
        if row.get("images_per_s"):
            seconds += (row["step"] - last) * batch / row["images_per_s"]
            last = row["step"]
        found.append(row | {"images": row["step"] * batch, "hours": seconds / 3600})
    return found


def flat(settings):
    """Settings with each option of a component by itself: {"mask_args.unit": 2, ...}."""
    found = {}
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            found |= {f"{name}.{option}": one for option, one in value.items()}
        else:
            found[name] = None if value == {} else value
    return found


def groups(runs):
    """{label: [Run, ...]}: runs that differ in the seed alone together, each label as short as tells them apart."""
    sets = {}
    for run in runs:
        settings = {
            name: value for name, value in run.config["settings"].items() if name not in (*Pretrain.FREE, "seed")
        }
        sets.setdefault(json.dumps([settings, run.config["data_fingerprint"]], sort_keys=True), []).append(run)
    members = list(sets.values())
    told = [flat(some[0].config["settings"]) for some in members]
    names = dict.fromkeys([*FIRST, *(name for settings in told for name in settings)])
    names = [name for name in names if name not in (*Pretrain.FREE, "seed")]
    used = ["method"]
    for name in names:
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
        for some, label in zip(members, labels, strict=True)
    ]
    if len(set(labels)) < len(labels):  # the images differ, not the settings
        labels = [some[0].path.name for some in members]
    return dict(zip(labels, members, strict=True))


def _key(settings, names):
    return json.dumps([settings.get(name) for name in names], sort_keys=True)


def _said(name, value):
    return str(value) if name in ("method", "task", "encoder", "data", "mask") else f"{name.split('.')[-1]} {value}"


def metrics(runs):
    """label -> rows, or label -> the rows of each seed, for `figures.curves`."""
    found = {}
    for label, some in groups(runs).items():
        found[label if len(some) == 1 else f"{label} ({len(some)} seeds)"] = [rows(run) for run in some]
    return {label: some[0] if len(some) == 1 else some for label, some in found.items()}


def settings(runs):
    """What differs, one row a setting and one column a label; of several seeds the seeds are listed."""
    found = groups(runs)
    about = {label: _about(some) for label, some in found.items()}
    names = dict.fromkeys(name for one in about.values() for name in one)
    differ = [
        n
        for n in names
        if n in ("run", "state") or len({json.dumps(one.get(n), sort_keys=True) for one in about.values()}) > 1
    ]
    return [{"setting": name} | {label: _text(one.get(name)) for label, one in about.items()} for name in differ]


def _about(some):
    config, seeds = some[0].config, [run.config["settings"]["seed"] for run in some]
    told = {name: value for name, value in flat(config["settings"]).items() if name not in (*Pretrain.FREE, "seed")}
    states = [state(run) for run in some]
    about = {"run": ", ".join(run.path.name for run in some), "state": ", ".join(dict.fromkeys(states))}
    return about | {"seed": ", ".join(map(str, seeds)), "images": config["images"], "commit": config["commit"]} | told


def _text(value):
    return "–" if value is None else str(value)


def state(run):
    """finished, training now, or stopped, with the step."""
    if run.finished:
        return "finished"
    last = next((row for row in reversed(run.metrics()) if "step" in row), {"step": 0})
    return f"{'training' if running(run) else 'stopped'} at step {last['step']:,} of {last.get('steps', 0):,}"


def speeds(runs):
    """One row a run: images/s (median of its rows), hours of training, steps, most memory."""
    found = []
    for label, some in groups(runs).items():
        for run in some:
            logged = [row for row in rows(run) if row.get("images_per_s")]
            row = {"run": label if len(some) == 1 else f"{label}, seed {run.config['settings']['seed']}"}
            if logged:
                row |= {"images/s": statistics.median(one["images_per_s"] for one in logged)}
                row |= {"hours": logged[-1]["hours"], "steps": logged[-1]["step"]}
                row |= {"memory (MB)": max(one.get("memory_mb", 0) for one in logged)}
            found.append(row)
    return found


def views(runs, images=4):
    """What the first step of each label sees, hidden patches grey: title -> uint8 (B, SIDE, SIDE, 3)."""
    from PIL import Image

    from mimlab.figures.masks import hide
    from mimlab.figures.pictures import colours
    from mimlab.looking.look import first_batch

    found = {}
    for label, some in groups(runs).items():
        try:
            if "task" in some[0].config["settings"]:
                raise Refused("a transfer; notebook 10 shows it")
            seen = first_batch(some[0].settings, images)
        except Refused as error:  # a mask that lived in a notebook, data that has gone
            blank = np.full((images, SIDE, SIDE, 3), 235, np.uint8)
            found[f"{label}<br>{str(error)[:40]}"] = blank
            continue
        mask = next(iter(seen.shown.values()))
        shown = colours(hide(seen.images, mask, seen.grid))
        larger = [np.asarray(Image.fromarray(one).resize((SIDE, SIDE), Image.Resampling.NEAREST)) for one in shown]
        found[f"{label}<br>hides {mask.float().mean():.0%}"] = np.stack(larger)
    return found


def frames(cfg):
    """The curves of a `Compare` whenever a run has logged more, while any still trains, or for `follow` seconds.

    Without an end where `follow` is None. Nothing where no run trains.
    """
    from mimlab.figures import curves

    runs, began, before = select(cfg.runs, cfg.out), time.monotonic(), None
    live = any(running(run) for run in runs)
    while live:
        live = any(running(run) for run in runs)  # before the rows, so that the last ones are drawn
        now = metrics(runs)
        if now != before:
            yield curves.curves(now, cfg.quantity, cfg.x, cfg.smoothing)
            before = now
        if cfg.follow is not None and time.monotonic() - began >= cfg.follow:
            return
        if live:
            time.sleep(PAUSE)


def follow(cfg):
    """Show `frames` in a notebook's cell, each in the place of the last; interrupting the cell goes on with the next.

    Where nobody watches (MIMLAB_BATCH=1) nothing is waited for.
    """
    from IPython.display import clear_output, display

    if os.environ.get("MIMLAB_BATCH") == "1":
        cfg = cfg.replace(follow=0.0)
    shown = False
    with contextlib.suppress(KeyboardInterrupt):
        for figure in frames(cfg):
            clear_output(
                wait=True
            )  # an update by display_id is not drawn: plotly's renderer in JupyterLab leaves it out
            display(figure)
            shown = True
    if not shown:
        print("no run is training now; the curves above are complete")
