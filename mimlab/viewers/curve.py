"""The live training curve: loss, k-NN accuracy and speed while a run goes on."""

import math
import os
import threading
import time
from pathlib import Path

import anywidget
import numpy as np
import traitlets

from mimlab.cores import shared
from mimlab.figures.curves import keep

MOST = 2000  # points drawn
PAUSE = 0.1  # s between two messages to the browser


def points(rows, most=MOST):
    """At most about `most` of the rows: the first, the last, each stretch's lowest and highest loss, all k-NN rows."""
    if len(rows) <= most:
        return rows
    losses = np.array([_finite(row.get("loss")) for row in rows], float)  # None becomes NaN
    steps = np.array([row["step"] for row in rows], float)
    measured = [k for k, row in enumerate(rows) if row.get("knn_top1") is not None]
    return [rows[k] for k in sorted({*keep(steps, losses, most).tolist(), *measured})]


def _finite(value):
    """The value as JSON can carry it: a float, or None for NaN and infinity."""
    return float(value) if value is not None and math.isfinite(value) else None


def columns(rows):
    """What the browser draws: {"step": [...], "loss": [...], "knn": [[step, value], ...]}."""
    logged = [row for row in rows if "loss" in row]
    return {
        "step": [int(row["step"]) for row in logged],
        "loss": [_finite(row["loss"]) for row in logged],
        "knn": [[int(row["step"]), float(row["knn_top1"])] for row in rows if _finite(row.get("knn_top1")) is not None],
    }


def status(row, per_step=None):
    """One line on the latest row: step, loss, speed, k-NN, and the time left.

    That is the row's own `seconds_left`, or what is left at `per_step` seconds a step.
    """
    steps = row.get("steps")
    parts = [f"step {row['step']:,}" + (f" of {steps:,}" if steps else "")]
    if "epoch" in row:
        parts.append(f"epoch {row['epoch']:.4g}")
    if row.get("loss") is not None:
        parts.append(f"loss {row['loss']:.4g}")
    if row.get("images_per_s") is not None:
        parts.append(f"{row['images_per_s']:,.0f} images/s")
    if row.get("knn_top1") is not None:
        parts.append(f"k-NN {row['knn_top1']:.4g}")
    if steps and row["step"] >= steps:
        parts.append("done")
    elif row.get("seconds_left") is not None or (steps and per_step):
        left = row.get("seconds_left")
        seconds = round((steps - row["step"]) * per_step if left is None else left)
        busy = shared(row.get("others_cores") or 0)
        parts.append(
            f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02} left" + (f" ({busy})" if busy else "")
        )
    return " · ".join(parts)


class Curve(anywidget.AnyWidget):
    """A widget that follows a run: `mimlab.pretrain(cfg, report=curve)` calls it with each row of metrics.jsonl.

    Rows need `step`; `loss`, `steps`, `epoch`, `images_per_s` and `knn_top1` are shown where given. Messages to
    the browser are at most ten a second. In batch execution (MIMLAB_BATCH=1) it is one line of text, because a
    saved widget without its state shows an error.
    """

    _esm = Path(__file__).with_suffix(".js")
    series = traitlets.Dict().tag(sync=True)
    text = traitlets.Unicode("").tag(sync=True)

    def __init__(self):
        self._rows, self._known, self._start = [], {}, None
        self._sent, self._timer, self._lock = 0.0, None, threading.Lock()
        super().__init__(series=columns([]))

    def __call__(self, row):
        self.add(row)

    def add(self, row):
        """Take one row; it is drawn at once, or together with its followers within a tenth of a second."""
        with self._lock:
            now = time.monotonic()
            self._start = self._start or (now, row["step"])
            self._rows.append(dict(row))
            self._known |= {name: value for name, value in row.items() if value is not None}
            if len(self._rows) > 2 * MOST:  # memory and messages stay bounded however long the run is
                self._rows = points(self._rows)
            if _batch() or self._timer is not None:
                return
            wait = self._sent + PAUSE - now
            if wait > 0:  # a timer, so that the last row of a burst is drawn though no other follows
                self._timer = threading.Timer(wait, self._late)
                self._timer.daemon = True
                self._timer.start()
                return
            self._show(now)

    def _late(self):
        with self._lock:
            self._timer = None
            self._show(time.monotonic())

    def _show(self, now):
        self._sent = now
        begun, first = self._start
        done = self._known["step"] - first
        with self.hold_sync():
            self.text = status(self._known, (now - begun) / done if done > 0 else None)
            self.series = columns(points(self._rows))

    def _repr_mimebundle_(self, **options):
        if _batch():
            return {"text/plain": "live curve: shown while the notebook is open; the figures below show the whole run"}
        return super()._repr_mimebundle_(**options)


def _batch():
    return os.environ.get("MIMLAB_BATCH") == "1"
