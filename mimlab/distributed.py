"""Many processes: a gather that keeps gradients, and random numbers that do not depend on their number."""

import hashlib

import torch
import torch.distributed as dist


def rank():
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world():
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mine(batch, place=None):
    """This process's rows of a whole batch. `place`: (rank, world) as a loader's worker was told; None: as it is here."""
    own, all_ = place or (rank(), world())
    share = batch // all_
    return slice(own * share, (own + 1) * share)


class _Gather(torch.autograd.Function):
    """all_gather whose backward adds what every process sends back to the rows that are ours."""

    @staticmethod
    def forward(ctx, x):
        found = [torch.empty_like(x) for _ in range(world())]
        dist.all_gather(found, x.contiguous())
        ctx.rows = len(x)
        return torch.cat(found)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[rank() * ctx.rows : (rank() + 1) * ctx.rows]


def gather(x):
    """Rows of all processes, (world * B, ...), rank by rank, with gradient; identity on one process.

    The gradient of the sum of all processes' losses arrives at each row; DistributedDataParallel's mean
    then makes it that of the mean loss, so N processes with batch B / N train as one with batch B.
    (`Accelerator.gather` has no gradient.)
    """
    return x if world() == 1 else _Gather.apply(x)


def generator_for(seed, step, stream):
    """A CPU generator that depends on (seed, step, stream) alone; `stream` names what it is for.

    Every draw in training comes from one. Draws are made for the whole batch on every process, which
    keeps its rows, so neither resuming nor the number of processes or workers changes them.
    """
    digest = hashlib.blake2b(f"{seed}/{step}/{stream}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
