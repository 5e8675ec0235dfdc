"""The live view of a study in a notebook: what is queued, running, done and failed, while it runs elsewhere."""

import contextlib
import os
import time

from mimlab import page
from mimlab.study import results
from mimlab.study.state import STATES

PAUSE = 2.0  # s between two looks
MOST = 60  # runs shown; the table of results has all


def view(jobs):
    """The state of a study as HTML: counts, then a table, running and failed ones first."""
    if not jobs:
        return "<p>Not started yet.</p>"
    order = ("running", "failed", "stopped", "queued", "done")
    rows = sorted(results.status(jobs), key=lambda row: order.index(row["state"]))
    counts = {state: sum(row["state"] == state for row in rows) for state in STATES}
    said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    more = page.note(f"{len(rows) - MOST} more runs are not shown.") if len(rows) > MOST else ""
    return f"<p>{said}</p>{page.table(rows[:MOST])}{more}"


def follow(folder, seconds=None):
    """Show the state in a notebook's cell, each in the place of the last, while something runs.

    Ends after `seconds`, if given, or when the cell is interrupted; at once where nobody watches (MIMLAB_BATCH=1).
    """
    from IPython.display import HTML, display

    began, shown, before = time.monotonic(), None, None
    if os.environ.get("MIMLAB_BATCH") == "1":
        seconds = 0.0
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            _, jobs = results.planned(folder)
            now = view(jobs)
            if shown is None:
                shown = display(HTML(now), display_id=True)
            elif now != before:
                shown.update(HTML(now))
            before = now
            running = any(row["state"] == "running" for row in results.status(jobs))
            if not running or (seconds is not None and time.monotonic() - began >= seconds):
                return
            time.sleep(PAUSE)
