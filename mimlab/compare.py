"""Runs side by side: which differ in what, what they logged, how fast they were, what their evaluations say.

Runs whose settings differ in nothing but the seed are one label (`groups`), and a band in the curves.
"""

import contextlib
import os
import statistics
import time
from pathlib import Path

import numpy as np

from mimlab import files, remote
from mimlab.errors import Refused, shown
from mimlab.find import closest
from mimlab.groups import differ, flat, groups
from mimlab.run import Run, opened, runs_called
from mimlab.settings import place

AXES = ("step", "epoch", "images", "hours")
MOST = 5  # labels that stand above the columns of a table
PAUSE = 2.0  # s between two looks at runs that still train
SIDE = 112  # px of a picture in `views`


def select(names, out="runs"):
    """The runs that `names` says: a folder, its name in `out`, "newest", or a pattern; several separated by commas.

    A run counts however far it is. Raises Refused where there is none.
    """
    found = {}
    for name in filter(None, (part.strip() for part in names.split(","))):
        if not runs_called(name, out) and any(sign in name for sign in "*?["):
            base = Path(name).parent if os.path.isabs(name) else place(out)
            pattern = Path(name).name if os.path.isabs(name) else name
            folders = sorted(path.parent for path in base.glob(f"{pattern}/config.json"))
            runs = opened(folders)
            if not runs:
                raise Refused(
                    f"runs = {shown(name)}: no run in {shown(str(base))} fits; pre-train one with notebook 03 first"
                )
        else:
            there = sorted(path.parent.name for path in place(out).glob("*/config.json"))
            known = name == "newest" or remote.away(name) or runs_called(name, out)
            if not known:
                raise Refused(
                    f"runs: there is no run {shown(name)}{closest(name, there)}; in {shown(str(out))}: {', '.join(there) or 'none'}"
                )
            runs = [Run.find(name, out)]
        found |= {run.path.resolve(): run for run in runs}
    if not found:
        raise Refused(
            f"runs = {shown(names)}: nothing is named; give names separated by commas, newest, or a pattern such as *"
        )
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
    try:
        handle = os.open(lock, os.O_RDONLY | files.NONBLOCK | files.NOFOLLOW)
    except OSError:  # not ours to read
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
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


def metrics(runs):
    """label -> rows, or label -> the rows of each seed, for `figures.curves`."""
    found = {}
    for label, some in groups(runs).items():
        seeds = {run.config["settings"]["seed"] for run in some}
        many = f"{len(some)} seeds" if len(seeds) == len(some) else f"{len(some)} runs, seeds {_listed(seeds)}"
        found[label if len(some) == 1 else f"{label} ({many})"] = [rows(run) for run in some]
    return {label: some[0] if len(some) == 1 else some for label, some in found.items()}


def _listed(some):
    return ", ".join(map(str, sorted(some)))


def who(runs):
    """One row a label: its number, the run folders behind it, their seeds and states; images and commit where they differ."""
    found, several = [], groups(runs)
    for number, (label, some) in enumerate(several.items(), 1):
        row = {"#": number, "label": label, "run": ", ".join(run.path.name for run in some)}
        row |= {"seed": ", ".join(str(run.config["settings"]["seed"]) for run in some)}
        row |= {"state": ", ".join(dict.fromkeys(state(run) for run in some))}
        found.append(row | {name: some[0].config[name] for name in ("images", "commit")})
    same = [name for name in ("images", "commit") if len({row[name] for row in found}) == 1]
    return [{name: value for name, value in row.items() if name not in same} for row in found]


def settings(runs):
    """The settings that differ between labels: one row a setting.

    Beyond `MOST` labels the columns have the numbers of `who`; or a label is a row, where that is the smaller table.
    """
    about = {label: flat(some[0].config["settings"]) for label, some in groups(runs).items()}
    names = differ(about.values())
    if not names:
        return [{"settings": "the same for all"}]
    if len(about) > max(MOST, len(names)):
        return [
            {"#": number, "label": label} | {name: _text(one.get(name)) for name in names}
            for number, (label, one) in enumerate(about.items(), 1)
        ]
    heads = [label if len(about) <= MOST else str(number) for number, label in enumerate(about, 1)]
    return [
        {"setting": name} | {head: _text(one.get(name)) for head, one in zip(heads, about.values(), strict=True)}
        for name in names
    ]


def _text(value):
    """A value in few letters, with places where a narrow column may break it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "–" if value is None else str(value).replace(",", ", ").replace(",  ", ", ")


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
        found[f"{label}<br>hides {mask.float().mean():.0%}<br>seed {some[0].settings.seed}"] = np.stack(larger)
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
