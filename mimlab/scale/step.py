"""A training step on noise: what it costs in processor time, in bytes kept for the backward pass, and in FLOPs."""

import time

import torch

from mimlab import masks
from mimlab.distributed import generator_for
from mimlab.methods import Batch, Progress

MIDDLE = Progress(500, 1000)
CLASSES = 10


class Step:
    """One step after another of the settings `cfg` (a resolved `Pretrain`) on one batch of noise; no data is read.

    The tokenizer, where there is one, is not fitted: its cost does not depend on what is in its vocabulary.
    """

    def __init__(self, cfg, zeros=False):
        """`zeros`: all weights are 0, where only the shapes matter: drawing a ViT-B's takes longer than its step."""
        torch.manual_seed(cfg.seed)
        self.method = (empty(cfg) if zeros else cfg.build_to_train(classes=CLASSES)).train()
        generator, n = generator_for(cfg.seed, 0, "scale"), self.method.encoder.grid[0] * self.method.encoder.grid[1]
        raw = torch.randint(256, (cfg.batch_size, 3, cfg.cache_size, cfg.cache_size), generator=generator).byte()
        views = self.method.views(cfg.image_size, **cfg.augment)(raw, generator)
        first, *crops = views if isinstance(views, tuple) else (views,)
        self.mask, noise, visible = None, None, None
        if cfg.mask != "none":
            ratio = masks.ratio(0.0, cfg.mask_ratio, **cfg.mask_schedule)
            scores = torch.rand(cfg.batch_size, n, generator=generator) if masks.looks(cfg.mask) else None
            grid = self.method.encoder.grid
            self.mask = masks.sample(cfg.mask, cfg.batch_size, grid, ratio, generator, scores, **cfg.mask_args)
            noise, visible = torch.rand(self.mask.shape, generator=generator), n - masks.count(n, ratio)
        labels = torch.randint(CLASSES, (cfg.batch_size,), generator=generator)
        self.batch = Batch(first, noise, visible, tuple(crops), labels)
        trained = [p for p in self.method.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(trained, lr=1e-5, fused=True)

    def loss(self):
        return self.method(self.batch, self.mask, MIDDLE).loss

    def __call__(self):
        self.loss().backward()
        self.optimiser.step()
        self.optimiser.zero_grad()


def empty(cfg):
    """The method of `cfg` with zeros for weights and buffers."""
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        method = cfg.build(classes=CLASSES)
    method.to_empty(device="cpu")
    for tensor in (*method.parameters(), *method.buffers()):
        tensor.detach().zero_()
    return method


def cost(cfg, rounds=3):
    """{"ms", "mb"} of a step: processor time, the least of `rounds`, and MiB kept for the backward pass (`kept`)."""
    step, spent = Step(cfg), []
    mb = kept(step) / 2**20  # warms up as well
    for _ in range(rounds):
        began = time.process_time()
        step()
        spent.append(time.process_time() - began)
    return {"ms": 1000 * min(spent), "mb": mb}


def kept(step):
    """Bytes that a step's forward pass keeps for its backward pass, weights left out, each piece of memory counted once."""
    weights = {p.untyped_storage().data_ptr() for p in step.method.parameters()}
    pieces = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            pieces[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = step.loss()
    total = sum(pieces.values())
    loss.backward()
    step.optimiser.step()
    step.optimiser.zero_grad()
    return total


def flops(cfg):
    """FLOPs of forward and backward of one image, counted by torch on one batch (a product counts 2 a multiplication)."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    step = Step(cfg, zeros=True)
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:  # torch has no formula for the fused operation on a CPU
        step.loss().backward()
    return counter.get_total_flops() / cfg.batch_size
