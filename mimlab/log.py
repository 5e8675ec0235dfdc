"""What a run writes while it trains: a line of metrics.jsonl every so often, k-NN probes, the state of the tokens."""

import math
import sys
import time

import torch

from mimlab import peak, tokenizers
from mimlab.cores import moment, since
from mimlab.evals import knn
from mimlab.progress import Bar

DIVERGED = 3  # times the first step's loss, from which on a line says so
TOKENISED, AT_ONCE = 1000, 100  # images whose tokens are counted before the first step, and how many at a time


def diverged(loss, first, step, quiet=False):
    """{"diverged": 1} for a line whose mean loss is far above the first loss, which is also said unless `quiet`; else {}."""
    if loss <= DIVERGED * abs(first) + 1:
        return {}
    if not quiet:
        said = f"loss = {loss:.4g} at step {step}, far above the first, {first:.4g}: training diverges"
        print(f"warning: {said}; a smaller lr or clip = 1 often helps", file=sys.stderr)
    return {"diverged": 1}


class Log:
    """Collects what the steps report and writes a line of metrics.jsonl every so often."""

    def __init__(self, cfg, run, accelerator, steps, each, start, report, probed):
        self.probed = probed
        self.cfg, self.run, self.accelerator = cfg, run, accelerator
        self.steps, self.each, self.report = steps, each, report
        self.bar = Bar(steps, start, cfg.method) if accelerator.is_main_process else None
        self.pending, self.began, self.done = [], time.perf_counter(), start
        peak.begin(accelerator.device)
        self.alone = cfg.world == 1 and not cfg.workers  # else work of our own would be taken for others'
        self.clocks = moment()
        self.first, self.warned = next((row["loss"] for row in run.metrics() if "loss" in row), None), False
        if report is not None and accelerator.is_main_process:
            for row in run.metrics():  # a curve that goes on shows what came before
                report(row)

    def add(self, step, rows, output, norm):
        """Tensors only: nothing waits for the device here."""
        values = {"loss": output.loss.detach()} | output.logs
        if norm is not None:
            values["grad_norm"] = norm
        self.pending.append((step, rows, values))

    def write(self, step, rate, last_good):
        """Means since the last line, over all processes. A loss that is not finite ends the run."""
        if not self.pending:
            return
        losses = torch.stack([values["loss"].float() for _, _, values in self.pending])
        losses = self.accelerator.reduce(losses, "mean").cpu()
        bad = [i for i, loss in enumerate(losses.tolist()) if not math.isfinite(loss)]
        if bad:
            where, rows, _ = self.pending[bad[0]]
            good = f"step {last_good}, in {self.run.path / 'checkpoint'}" if last_good is not None else "none yet"
            raise FloatingPointError(
                f"loss = {losses[bad[0]]} at step {where}, on images {rows.tolist()}; last good checkpoint: {good}. "
                "A smaller lr, clip = 1, or precision = 'no' often helps"
            )
        if self.first is None:
            self.first = float(losses[0])
        names = [n for n in self.pending[0][2] if n != "grad_norm"]
        means = torch.stack([torch.stack([v[n].float() for _, _, v in self.pending]).mean() for n in names])
        means = dict(zip(names, self.accelerator.reduce(means, "mean").tolist(), strict=True))
        norms = [v["grad_norm"] for _, _, v in self.pending if "grad_norm" in v]
        if norms:
            means["grad_norm"] = float(torch.stack(norms).mean())
        seconds = time.perf_counter() - self.began
        speed = (step - self.done) * self.cfg.batch_size / seconds
        sample, self.clocks = since(self.clocks), moment()
        told = self.alone and sample.other is not None and sample.wall > 0
        self.row(
            {"step": step, "steps": self.steps, "epoch": round(step / self.each, 4)}
            | {name: float(f"{value:.7g}") for name, value in means.items()}
            | {
                "lr": float(f"{rate:.6g}"),
                "images_per_s": round(speed, 1),
                "seconds_left": round((self.steps - step) * self.cfg.batch_size / speed, 1),
                "memory_mb": self.memory_mb(),
            }
            | self.judged(step, means["loss"])
            | ({"others_cores": round(sample.other / sample.wall, 2)} if told else {})
        )
        self.pending, self.done = [], step
        self.began = time.perf_counter()

    def judged(self, step, loss):
        """See `diverged`; said once, by the first process."""
        found = diverged(loss, self.first, step, self.warned or not self.accelerator.is_main_process)
        self.warned = self.warned or bool(found)
        return found

    def memory_mb(self):
        """Peak memory of the run since it began or went on, of the process that has the largest."""
        device = self.accelerator.device
        own = torch.tensor(float(peak.peak(device)), device=device)
        return round(float(self.accelerator.gather(own).max()))

    def row(self, row):
        if self.accelerator.is_main_process:
            self.run.append(row)
            self.bar.show(row)
            if self.report is not None:
                self.report(row)

    def tokens(self, tokenizer, images, grid):
        """How the tokenizer sees the images: tokens used, entropy, share of the most frequent one."""
        device = self.accelerator.device  # where the tokenizer of a prepared method is
        rows = torch.arange(min(len(images), TOKENISED)).split(AT_ONCE)
        with torch.no_grad():
            ids = [tokenizer(images.get(some.numpy()).to(device).float() / 255, grid).cpu() for some in rows]
        found = tokenizers.usage(torch.cat(ids), tokenizer.vocab)
        warning = tokenizers.collapsed(found, tokenizer.vocab)
        if warning:
            print(f"warning: {warning}", file=sys.stderr)
        found = {"dead": tokenizer.vocab - found["used"]} | found
        self.row({"step": 0, "steps": self.steps, "epoch": 0} | {f"tokenizer_{k}": v for k, v in found.items()})

    def probe(self, step, method):
        """k-NN accuracy of the encoder on the test images, where there are labels."""
        if self.probed is None:
            return
        paused = time.perf_counter()
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            bank, test = self.probed
            found = knn.evaluate(method.deployed, bank, test, k=min(20, len(bank)), pool=method.pool)
            row = {"step": step, "steps": self.steps, "epoch": round(step / self.each, 4)}
            self.row(row | {f"knn_{name}": found[name] for name in ("top1", "chance", "majority", "balanced")})
        self.accelerator.wait_for_everyone()
        self.began += time.perf_counter() - paused

    def close(self):
        if self.bar is not None:
            self.bar.close()
