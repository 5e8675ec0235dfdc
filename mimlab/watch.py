"""How far a notebook is, while papermill executes it: cells done, and what its run says in metrics.jsonl."""

import contextlib
import threading
import time

from mimlab import files
from mimlab.cores import shared
from mimlab.run import logged

SPEAK = 10  # s between progress lines where there is no terminal


class Silent:
    """Counts cells, says nothing."""

    started = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def cell_starts(self, cell, cell_index):
        self.started += cell.cell_type == "code" and bool(cell.source.strip())

    def cell_ends(self, cell, cell_index, execute_reply):
        pass


class Cells(Silent):
    """Cells done, and the run's step, loss and time left while its metrics.jsonl grows.

    One bar on a terminal; elsewhere a line every ten seconds in which something changed.
    """

    def __init__(self, title, node, metrics, stream):
        self.title, self.stream = title, stream
        self.cells = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in node.cells)
        self.metrics = Tail(metrics) if metrics else None
        self.ended, self.said, self.stop = 0, "", threading.Event()

    def __enter__(self):
        from tqdm import tqdm

        self.bar = tqdm(
            total=self.cells,
            desc=self.title,
            unit="cell",
            file=self.stream,
            disable=not self.stream.isatty(),
            bar_format="{desc}: {n_fmt} of {total_fmt} cells |{bar:20}| {elapsed}{postfix}",
        )
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        self.bar.close()

    def cell_ends(self, cell, cell_index, execute_reply):
        if cell.metadata.get("tags") != ["injected-parameters"]:  # papermill's own cell is not in the total
            self.ended += 1
            self.bar.update()

    def _watch(self):
        spoke = time.monotonic()
        while not self.stop.wait(1):
            news = self.metrics.news() if self.metrics else ""
            if not self.bar.disable:
                self.bar.set_postfix_str(news)
            elif time.monotonic() - spoke >= SPEAK:
                spoke = time.monotonic()
                line = f"{self.title}: {self.ended} of {self.cells} cells" + (f", {news}" if news else "")
                if line != self.said:
                    print(line, file=self.stream, flush=True)
                    self.said = line


class Tail:
    """Follows metrics.jsonl from where it ends now."""

    def __init__(self, path):
        self.path, self.latest, self.first = path, None, None
        self.at = path.stat().st_size if path.exists() else 0

    def news(self):
        """Step, loss and time left of the newest whole line, or '' while nothing was added."""
        if self.path.exists():
            with contextlib.suppress(OSError):
                if self.path.stat().st_size < self.at:  # a resumed run cuts the rows after its checkpoint
                    self.at = 0
                whole, self.at = files.lines(self.path, self.at)
                rows = logged(whole.rpartition(b"\n")[2])
                if rows:
                    self.latest = rows[-1]
                    self.first = self.first or (time.monotonic(), self.latest["step"])
        return self._text(self.latest) if self.latest else ""

    def _text(self, row):
        step, steps = row.get("step", 0), row.get("steps")
        parts = [f"step {step:,}" + (f"/{steps:,}" if steps else "")]
        if isinstance(row.get("loss"), (int, float)):
            parts.append(f"loss {row['loss']:.4g}")
        left, (begun, first) = row.get("seconds_left"), self.first
        if left is None and steps and step > first:
            left = (time.monotonic() - begun) / (step - first) * (steps - step)
        if left is not None:
            left = round(left)
            busy = shared(row.get("others_cores", 0))
            parts.append(f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left" + (f" ({busy})" if busy else ""))
        return ", ".join(parts)
