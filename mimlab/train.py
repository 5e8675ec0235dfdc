"""`pretrain(cfg)`: the one loop, blind to methods. Data, model, optimiser, resume, steps, finish."""

import contextlib
import math
import os
import resource
import signal
import sys
import time

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch.utils.data import DataLoader, Dataset

from mimlab import data, masks, tokenizers
from mimlab.data.augment import Augment
from mimlab.distributed import generator_for, rank, world
from mimlab.errors import Refused
from mimlab.evals import knn
from mimlab.layers import decay_groups, schedule
from mimlab.methods import Batch, Progress
from mimlab.progress import Bar
from mimlab.run import Run

PROBE = 5000  # training images that a k-NN probe in training looks at


def pretrain(cfg, report=None):
    """Pre-train as `cfg` (a `Pretrain`) says and return the `Run`; goes on where its folder stopped.

    `report(row)` is called with each line of metrics.jsonl. With `processes` > 1 the work is done by
    child processes and followed here. Ctrl-C and SIGTERM save a checkpoint first. Raises `Refused`.
    """
    cfg = cfg.resolved()
    run = Run(cfg.folder())
    if cfg.processes > 1 and "LOCAL_RANK" not in os.environ:
        from mimlab.launch import launch

        return launch(cfg, run, report)
    lock = run.lock() if int(os.environ.get("RANK", 0)) == 0 else contextlib.nullcontext()
    with lock:
        return _train(cfg, run, report)


class Batches(Dataset):
    """Item `step`: this process's augmented images, in its accumulated parts, and their rows.

    A pure function of (seed, step), so neither workers nor a restart change anything.
    """

    def __init__(self, images, augment, cfg, each):
        self.images, self.augment, self.cfg, self.each = images, augment, cfg, each

    def rows(self, step):
        """Rows of the whole batch of `step`: a permutation an epoch, its tail dropped."""
        epoch, place = divmod(step, self.each)
        order = torch.randperm(len(self.images), generator=generator_for(self.cfg.seed, epoch, "order"))
        return order[place * self.cfg.batch_size : (place + 1) * self.cfg.batch_size]

    def __getitem__(self, step):
        rows = self.rows(step)
        draws = self.augment.draw(len(rows), generator_for(self.cfg.seed, step, "augment"))
        here = mine(len(rows))
        draws = {name: value[here] for name, value in draws.items()}
        return self.augment.apply(self.images.get(rows[here]), draws), rows


def mine(batch):
    """This process's rows of a whole batch."""
    share = batch // world()
    return slice(rank() * share, (rank() + 1) * share)


def _train(cfg, run, report):
    # -- data ---------------------------------------------------------------------------------------
    if world() == 1:  # in a notebook an earlier run may have had another precision or device
        AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(
        cpu=cfg.device == "cpu",
        mixed_precision=cfg.precision,
        gradient_accumulation_steps=cfg.accumulate,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    device, first = accelerator.device, accelerator.is_main_process
    with accelerator.main_process_first():  # one process decodes and fits, the others read
        images = open_data(cfg, "train")
        test = probed(cfg, images)
        steps, each = cfg.steps(len(images))
        grid = (cfg.image_size // cfg.patch_size,) * 2
        torch.manual_seed(cfg.seed)
        tokenizer = None
        if cfg.tokenizer != "none":
            tokenizer = tokenizers.fitted(
                cfg.tokenizer, images, grid, cfg.image_size, cfg.vocab, cfg.token_patch, cfg.seed, **cfg.tokenizer_args
            )

    # -- model --------------------------------------------------------------------------------------
    torch.manual_seed(cfg.seed)
    plain = cfg.build(tokenizer)
    if first:
        run.start(cfg, images, plain.encoder.spec)
    if run.finished:
        return run

    # -- optimiser ----------------------------------------------------------------------------------
    spared = tuple(name for name in cfg.no_decay.split(",") if name)
    peak, floor = (rate * cfg.batch_size / 256 for rate in (cfg.lr, cfg.min_lr))
    groups = decay_groups(plain, cfg.weight_decay, spared)
    optimiser = torch.optim.AdamW(groups, lr=peak, betas=(0.9, cfg.beta2), fused=device.type in ("cpu", "cuda"))
    method, optimiser = accelerator.prepare(plain, optimiser)
    warmup = round(steps * cfg.warmup_epochs / cfg.epochs)

    # -- resume -------------------------------------------------------------------------------------
    saved = run.checkpoints()
    start = max(saved, default=0)
    if saved:
        try:
            accelerator.load_state(str(saved[start]))
        except Exception as error:  # safetensors, zip and pickle each have their own
            raise Refused(
                f"checkpoint {saved[start]} is truncated or damaged ({str(error).splitlines()[0]}); delete that folder to begin anew"
            ) from None
    if first:
        run.forget_after(start)
    log = Log(cfg, run, accelerator, steps, each, start, report, test)
    if first and start == 0 and tokenizer is not None:
        log.tokens(tokenizer, images, grid)

    # -- steps --------------------------------------------------------------------------------------
    batches = Batches(images, Augment(cfg.image_size, **cfg.augment), cfg, each)
    loader = DataLoader(batches, batch_size=None, sampler=range(start, steps), num_workers=cfg.workers)
    visible = grid[0] * grid[1] - masks.count(grid[0] * grid[1], cfg.mask_ratio)
    method.train()
    last_good = start if saved else None

    def save(step):
        accelerator.wait_for_everyone()
        if first:
            run.save(step, lambda folder: accelerator.save_state(str(folder)))
        accelerator.wait_for_everyone()

    with stopping() as stop, contextlib.closing(log):
        for step, (pixels, rows) in enumerate(loader, start):
            progress = Progress(step, steps)
            rate = schedule(step, steps, warmup, peak, end=floor, table=cfg.schedule == "table")
            for group in optimiser.param_groups:
                group["lr"] = rate
            generator = generator_for(cfg.seed, step, "mask")
            mask = masks.sample(cfg.mask, cfg.batch_size, grid, cfg.mask_ratio, generator, **cfg.mask_args)
            noise = torch.rand(mask.shape, generator=generator)
            here = mine(cfg.batch_size)
            parts = [x.chunk(cfg.accumulate) for x in (pixels, noise[here], mask[here])]
            torch.manual_seed(int(generator_for(cfg.seed, step, f"model {rank()}").initial_seed()))  # stochastic depth
            plain.before_step(progress)
            for pixels, noise, mask in zip(*parts, strict=True):
                with accelerator.accumulate(method):
                    batch = Batch(pixels.to(device), noise.to(device), visible)
                    output = method(batch, mask.to(device), progress)  # autocast is in the prepared method
                    accelerator.backward(output.loss)
                    norm = None
                    if accelerator.sync_gradients and cfg.clip:
                        norm = accelerator.clip_grad_norm_(method.parameters(), cfg.clip)
                    optimiser.step()
                    optimiser.zero_grad()
                log.add(step, rows, output, norm)
            plain.after_step(Progress(step + 1, steps))

            done = step + 1
            epoch_ends = done % each == 0 or done == steps
            save_now = done == steps or (
                epoch_ends and cfg.checkpoint_every and (done // each) % cfg.checkpoint_every == 0
            )
            leave = agreed(stop, done, cfg.log_every, accelerator)
            if done % cfg.log_every == 0 or save_now or leave:
                log.write(done, rate, last_good)
            if epoch_ends and cfg.knn_every and ((done // each) % cfg.knn_every == 0 or done == steps):
                log.probe(done, plain)
            if save_now or leave:
                save(done)
                last_good = done
            if leave and done < steps:
                raise KeyboardInterrupt(f"stopped at step {done} of {steps}; start the same run again to go on")

    # -- finish -------------------------------------------------------------------------------------
    if first:
        run.write_weights("method", plain)
        run.write_weights("encoder", plain.deployed.trunk)
    accelerator.wait_for_everyone()
    return run


def probed(cfg, images):
    """(bank, test) of the k-NN probe, or None without labels; the bank is about `PROBE` training images at most."""
    if images.labels is None or not cfg.knn_every:
        return None
    share = cfg.fraction * min(1.0, PROBE / len(images))
    bank = data.open(cfg.data, "train", size=cfg.cache_size, fraction=share, seed=cfg.seed, **cfg.data_args)
    try:
        return bank, open_data(cfg, "test")
    except Refused as error:
        raise Refused(f"{error}; knn_every = 0 trains without probes") from None


def open_data(cfg, split):
    share = cfg.fraction if split == "train" else 1.0
    return data.open(cfg.data, split, size=cfg.cache_size, fraction=share, seed=cfg.seed, **cfg.data_args)


@contextlib.contextmanager
def stopping():
    """A list that becomes non-empty on Ctrl-C or SIGTERM, so that the step at hand ends and is saved.

    A second Ctrl-C interrupts at once (a second SIGTERM does not: launchers repeat it). Signals can be
    watched in the main thread only.
    """
    stop, before = [], {}

    def ask(number, frame):
        if signal.SIGINT in stop:
            raise KeyboardInterrupt
        stop.append(number)

    with contextlib.suppress(ValueError):
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def agreed(stop, done, every, accelerator):
    """Whether to stop after this step; many processes decide together, at the steps that are logged."""
    if world() == 1:
        return bool(stop)
    if done % every:
        return False
    return bool(accelerator.reduce(torch.tensor(float(bool(stop)), device=accelerator.device)) > 0)


class Log:
    """Collects what the steps report and writes a line of metrics.jsonl every so often."""

    def __init__(self, cfg, run, accelerator, steps, each, start, report, probed):
        self.probed = probed
        self.cfg, self.run, self.accelerator = cfg, run, accelerator
        self.steps, self.each, self.report = steps, each, report
        self.bar = Bar(steps, start, cfg.method) if accelerator.is_main_process else None
        self.pending, self.began, self.done = [], time.perf_counter(), start
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
        names = [n for n in self.pending[0][2] if n != "grad_norm"]
        means = torch.stack([torch.stack([v[n].float() for _, _, v in self.pending]).mean() for n in names])
        means = dict(zip(names, self.accelerator.reduce(means, "mean").tolist(), strict=True))
        norms = [v["grad_norm"] for _, _, v in self.pending if "grad_norm" in v]
        if norms:
            means["grad_norm"] = float(torch.stack(norms).mean())
        seconds = time.perf_counter() - self.began
        speed = (step - self.done) * self.cfg.batch_size / seconds
        self.row(
            {"step": step, "steps": self.steps, "epoch": round(step / self.each, 4)}
            | {name: float(f"{value:.7g}") for name, value in means.items()}
            | {
                "lr": float(f"{rate:.6g}"),
                "images_per_s": round(speed, 1),
                "seconds_left": round((self.steps - step) * self.cfg.batch_size / speed, 1),
                "memory_mb": memory_mb(),
            }
        )
        self.pending, self.done = [], step
        self.began = time.perf_counter()

    def row(self, row):
        if self.accelerator.is_main_process:
            self.run.append(row)
            self.bar.show(row)
            if self.report is not None:
                self.report(row)

    def tokens(self, tokenizer, images, grid):
        """How the tokenizer sees the images: tokens used, entropy, share of the most frequent one."""
        some = images.get(torch.arange(min(len(images), 1000)).numpy())
        found = tokenizers.usage(tokenizer(some.float() / 255, grid), tokenizer.vocab)
        warning = tokenizers.collapsed(found, tokenizer.vocab)
        if warning:
            print(f"warning: {warning}", file=sys.stderr)
        self.row({"step": 0, "steps": self.steps, "epoch": 0} | {f"tokenizer_{k}": v for k, v in found.items()})

    def probe(self, step, method):
        """k-NN accuracy of the encoder on the test images, where there are labels."""
        if self.probed is None:
            return
        paused = time.perf_counter()
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            bank, test = self.probed
            found = knn.evaluate(method.deployed, bank, test, k=min(20, len(bank)))
            row = {"step": step, "steps": self.steps, "epoch": round(step / self.each, 4)}
            self.row(row | {"knn_top1": found["top1"], "knn_chance": found["chance"]})
        self.accelerator.wait_for_everyone()
        self.began += time.perf_counter() - paused

    def close(self):
        if self.bar is not None:
            self.bar.close()


def memory_mb():
    """Peak memory: of the GPU where there is one, else of the process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return round(torch.cuda.max_memory_allocated() / 2**20)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20)
