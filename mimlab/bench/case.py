"""What takes turns: something that makes a training step on ready inputs, told apart into parts."""

import time

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from mimlab import environment, tokenizers
from mimlab.batches import Batches
from mimlab.bench.ready import CLASSES, Known, inputs
from mimlab.methods import Batch, Progress
from mimlab.train import adamw, draw, open_data

RATE = 1e-4  # of all cases: nothing is to be learned, and nothing to diverge
PROGRESS = Progress(500, 1000)  # in the middle of training: nothing is warmed up or frozen any more


def accelerator(cfg):
    """As the settings say; an earlier run in this process may have had another precision or device."""
    AcceleratorState._reset_state(reset_partial_state=True)
    with environment.settings_alone(1):
        return Accelerator(cpu=cfg.device == "cpu", mixed_precision=cfg.precision)


class Clock:
    """Seconds between marks: `clock("forward")` ends the part called so, and notes it under that name.

    `kind`: "wall", or "cpu" for this process's processor seconds.
    """

    def __init__(self, device, kind="wall"):
        self.device, self.kind, self.parts = device, kind, {}
        self.start()

    def start(self):
        """Begin a part here: what was done since the last mark counts nowhere."""
        self.last = self.now()

    def now(self):
        if self.device.type == "cuda":  # a call returns before its work is done
            torch.cuda.synchronize(self.device)
        return time.process_time() if self.kind == "cpu" else time.perf_counter()

    def __call__(self, name):
        now = self.now()
        self.parts.setdefault(name, []).append(now - self.last)
        self.last = now


class Case:
    """One training step after another. `who` makes them; `note` says what a reader of the ratio has to know.

    model: an nn.Module. loss(): scalar of the ready batch. optimiser: over its trainable parameters. after(): what
    follows the optimiser, such as a moving average. images: a step's. precision: "no" or "bf16", of forward.
    """

    def __init__(self, who, model, loss, optimiser, images, device, precision="no", before=None, after=None, note=""):
        self.who, self.model, self.loss, self.optimiser, self.images = who, model, loss, optimiser, images
        self.device, self.precision, self.note = device, precision, note
        self.before, self.after = before, after

    def forward(self):
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return self.loss()

    def step(self, clock):
        clock.start()
        loss = self.forward()
        clock("forward")
        loss.backward()
        clock("backward")
        if self.before:
            self.before()
        self.optimiser.step()
        self.optimiser.zero_grad()
        if self.after:
            self.after()
        clock("optimiser")

    @property
    def parameters(self):
        """Trainable numbers."""
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


class Ours(Case):
    """A method of mimlab, with its optimiser; the tokenizer's answer is ready.

    `extra(index, clock)` times what a run does around it for another batch: data, mask, tokenizer.
    """

    def __init__(self, cfg, accelerator, real=True):
        """`real`: open the data and fit the tokenizer for `extra`; without, only steps can be made."""
        device = accelerator.device
        self.cfg, self.accelerator, self.tokenizer = cfg, accelerator, None
        grid = (cfg.image_size // cfg.patch_size,) * 2
        if real:
            images = open_data(cfg, "train")
            if cfg.tokenizer != "none":
                self.tokenizer = tokenizers.fitted(
                    cfg.tokenizer,
                    images,
                    grid,
                    cfg.image_size,
                    cfg.vocab,
                    cfg.token_patch,
                    cfg.seed,
                    **cfg.tokenizer_args,
                ).to(device)
        torch.manual_seed(cfg.seed)
        known = None
        if cfg.tokenizer != "none":
            known = Known(self.tokenizer or cfg.build().tokenizer)
        method = cfg.build_to_train(known, CLASSES).to(device).train()
        ready = inputs(cfg, method, device)
        if known is not None:
            known.ids = ready.ids
        batch = Batch(ready.views[0], ready.noise, ready.visible, ready.views[1:], ready.labels)
        super().__init__(
            "mimlab",
            method,
            lambda: method(batch, ready.mask, PROGRESS).loss,
            adamw(cfg, method, RATE, device),
            cfg.batch_size,
            device,
            cfg.precision,
            before=self.clip,
            after=lambda: method.after_step(PROGRESS),
        )
        self.ready = ready
        if real:
            augment = method.views(cfg.image_size, **cfg.augment)
            self.batches = Batches(images, augment, cfg, cfg.steps(len(images))[1])

    def clip(self):
        """What `pretrain` does between gradients and optimiser."""
        if self.cfg.clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.cfg.clip)
        self.model.before_step(PROGRESS)

    def extra(self, index, clock):
        clock.start()
        views = [view.to(self.device) for view in self.batches[index][0]]
        clock("data")
        if self.cfg.mask != "none":
            progress = Progress(index, self.batches.each)
            draw(self.cfg, progress, self.model.encoder.grid, views[0], self.model, self.accelerator)
            clock("mask")
        if self.tokenizer is not None:
            clock.start()
            self.tokenize(views[0])
            clock("tokenizer")

    def tokenize(self, images):
        """Ask the tokenizer, if there is one."""
        if self.tokenizer is not None:
            with self.accelerator.autocast():
                self.tokenizer(images, self.model.encoder.grid)
