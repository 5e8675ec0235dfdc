"""A training step of mimlab on ready inputs, as `mimlab.bench.case` makes it: processor time, bytes kept for the backward
pass, FLOPs, and peak memory."""

import torch

from mimlab.bench.case import Clock, Ours, accelerator
from mimlab.bench.memory import ask
from mimlab.bench.products import flops as counted
from mimlab.bench.products import products

CPU = torch.device("cpu")


def step(cfg):
    """The `Case` of settings, a resolved `Pretrain`, on the CPU. No data is read, and no tokenizer fitted or asked."""
    return Ours(cfg, accelerator(cfg.replace(device="cpu")), real=False)


def cost(cfg, rounds=3):
    """{"ms", "mb"} of a step: processor time, the least of `rounds`, and MiB kept for the backward pass (`kept`)."""
    case, clock = step(cfg), Clock(CPU, "cpu")
    mb = kept(case) / 2**20  # warms up as well
    for _ in range(rounds):
        case.step(clock)
    return {"ms": 1000 * min(map(sum, zip(*clock.parts.values(), strict=True))), "mb": mb}


def kept(case):
    """Bytes that a step's forward pass keeps for its backward pass, weights left out, each piece of memory counted once."""
    weights = {p.untyped_storage().data_ptr() for p in case.model.parameters()}
    pieces = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            pieces[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = case.forward()
    total = sum(pieces.values())
    loss.backward()
    case.optimiser.step()
    case.optimiser.zero_grad()
    return total


def flops(cfg):
    """FLOPs of the matrix products of forward and backward of one image (a product counts 2 a multiplication)."""
    return counted(products(step(cfg)), cfg.batch_size)


def peaks(cfg, batches):
    """Peak resident MiB of steps at each of `batches`, each in a fresh process of one thread. `Failed` where one dies."""
    found = [ask(cfg.replace(batch_size=batch), "mimlab", 1) for batch in batches]
    return [row["imports_mb"] + row["peak_mb"] for row in found]
