"""What each of many processes holds: a whole copy (`parallel = "ddp"`), or its part of everything ("fsdp").

Either way the losses are those of one process. Checkpoints are the same, whole, in Accelerate's format, so a run may go
on with the other, or with another number of processes.
"""

import copy
import inspect
from dataclasses import dataclass

import torch
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from mimlab.distributed import world

MODEL, OPTIMISER = "model.safetensors", "optimizer.bin"  # Accelerate's names


@dataclass
class Unsynced(DistributedDataParallelKwargs):
    """Accelerate's options of DistributedDataParallel, with the one that torch 2.13 brought."""

    forward_sync_buffers: bool | None = None


def unsynced():
    """Options with which buffers are not sent at each step: all processes compute the same."""
    if "forward_sync_buffers" in inspect.signature(nn.parallel.DistributedDataParallel).parameters:
        return Unsynced(forward_sync_buffers=False)
    return DistributedDataParallelKwargs(broadcast_buffers=False)


class Copies:
    """Every process has the whole method; DistributedDataParallel averages gradients. Also what one process does.

    `method` and `optimiser` are those to train with; `shown` is the method to look at and to keep, whole on the first
    process once `gather` was called by all.
    """

    def __init__(self, accelerator, plain, optimiser):
        self.accelerator, self.shown = accelerator, plain
        self.method, self.optimiser = accelerator.prepare(plain, optimiser(plain))

    def clip(self, most):
        """Limit the gradients' norm; returns what it was, a tensor."""
        return self.accelerator.clip_grad_norm_(self.method.parameters(), most)

    def gather(self):
        """Bring `shown` up to date."""

    def save(self, folder):
        """Write a checkpoint, after `gather`; called on the first process alone."""
        self.accelerator.save_state(str(folder))

    def not_finite(self):
        """How many numbers of weights and optimiser are not finite, on any process, after `gather`; all must call it."""
        return counted(self.accelerator, self.shown.state_dict(), self.optimiser.state_dict())

    def load(self, folder):
        """Read a checkpoint; every process does."""
        self.accelerator.load_state(str(folder))


class Shards:
    """The same with torch's FSDP2: a transformer's block is together only while it works.

    What is never trained (a tokenizer) stays whole. Weights travel in float32; autocast is as in `Copies`.
    """

    def __init__(self, accelerator, plain, optimiser):
        self.accelerator, self.first = accelerator, accelerator.is_main_process
        self.shown = copy.deepcopy(plain).to(accelerator.device) if self.first else None
        self.method = accelerator.prepare_model(plain, evaluation_mode=True)  # places it and adds autocast, no more
        shard(self.method)
        self.optimiser = accelerator.prepare_optimizer(optimiser(self.method))
        self.state = None

    def clip(self, most):
        return self.accelerator.clip_grad_norm_(self.method.parameters(), most).full_tensor()

    def gather(self):
        self.state = whole(self.method.state_dict()), whole(self.optimiser.state_dict())
        if self.first:
            fill(self.shown, self.state[0])

    def save(self, folder):
        from safetensors.torch import save_file

        weights, optimiser = self.state
        weights = {name: value.contiguous().clone() for name, value in weights.items()}
        save_file(weights, folder / MODEL, metadata={"format": "pt"})
        torch.save(optimiser, folder / OPTIMISER)

    def not_finite(self):
        return counted(self.accelerator, *self.state)

    def load(self, folder):
        from safetensors.torch import load_file

        fill(self.method, load_file(folder / MODEL))
        state = torch.load(folder / OPTIMISER, map_location="cpu", weights_only=True)
        parameters = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        for number, values in state["state"].items():
            state["state"][number] = {name: cut(value, parameters[number]) for name, value in values.items()}
        self.optimiser.load_state_dict(state)


def counted(accelerator, *states):
    """`run.not_finite` of all processes together, as a number."""
    from mimlab.run import not_finite

    count = not_finite(*states).to(accelerator.device)
    return int(accelerator.reduce(count, "sum"))


def shard(method):
    """Cut a method's parameters among the processes, in place: each block of its transformers, then the rest."""
    mesh = init_device_mesh(next(method.parameters()).device.type, (world(),))
    kept = set(method.tokenizer.parameters()) if method.tokenizer is not None else set()
    named = [module for name, module in method.named_modules() if name.endswith("blocks")]
    for blocks in named:
        if isinstance(blocks, (nn.ModuleList, nn.Sequential)):
            for block in blocks:
                fully_shard(block, mesh=mesh)
    fully_shard(method, mesh=mesh, ignored_params=kept)


def whole(state):
    """A state with every cut tensor put together, on the CPU; all processes must call it."""
    if isinstance(state, DTensor):
        return state.full_tensor().cpu()
    if isinstance(state, dict):
        return {name: whole(value) for name, value in state.items()}
    return state


def cut(value, like):
    """A whole tensor cut as the parameter `like` is; anything else, such as the number of a step, as it is."""
    if not isinstance(like, DTensor) or not torch.is_tensor(value) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


@torch.no_grad()
def fill(method, state):
    """Copy whole weights and buffers into a method, cut or not. Raises ValueError where the names differ."""
    own = method.state_dict()
    if own.keys() != state.keys():
        raise ValueError(f"other weights than the method's: {', '.join(sorted(own.keys() ^ state.keys())[:3])}")
    for name, value in own.items():
        value.copy_(cut(state[name], value))
