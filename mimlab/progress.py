"""Progress of a run: a bar in a notebook or terminal, plain lines where the output is piped."""

import os
import sys
import time

from mimlab.errors import one_line


class Bar:
    """`show(row)` with rows as in metrics.jsonl. In a batch-executed notebook the parent shows the bar."""

    def __init__(self, steps, start, title):
        live = not os.environ.get("MIMLAB_BATCH") and (sys.stderr.isatty() or in_notebook())
        self.bar, self.said, self.title = None, 0.0, title
        if live:
            from tqdm.auto import tqdm

            self.bar = tqdm(total=steps, initial=start, desc=one_line(title), unit="step")

    def show(self, row):
        text = {
            k: f"{row[k]:.4g}" for k in ("epoch", "loss", "images_per_s", "knn_top1", "top1") if row.get(k) is not None
        }
        if self.bar is not None:
            self.bar.update(row["step"] - self.bar.n)
            self.bar.set_postfix(text)
        elif time.monotonic() - self.said > 10 or row["step"] == row["steps"]:
            self.said = time.monotonic()
            line = "  ".join(f"{name} {value}" for name, value in text.items())
            say(f"{self.title}: step {row['step']} of {row['steps']}  {line}")

    def close(self):
        if self.bar is not None:
            self.bar.close()


def say(line):
    """One line for people: a notebook paints stderr red, so there it is stdout."""
    print(one_line(line), file=sys.stdout if in_notebook() else sys.stderr, flush=True)


def in_notebook():
    """Whether a Jupyter kernel runs this code."""
    module = sys.modules.get("IPython")
    shell = module.get_ipython() if module is not None else None
    return shell is not None and getattr(shell, "kernel", None) is not None
