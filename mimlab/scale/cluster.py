"""On paper: a training step on many GPUs, communication against compute. Nothing here is measured but the FLOPs.

Gradients are averaged in buckets while the backward pass still runs, as DistributedDataParallel does it: a bucket can go
when its last gradient is there, and buckets go one after another. An average over n GPUs is a ring inside each node and
one between the nodes (Patarasuk and Yuan 2009): each sends and receives 2 (n - 1) / n of the bytes. A forward pass is
a third of the compute, a backward pass two thirds. Letters: P trained numbers, n GPUs.
"""

from typing import NamedTuple

BUCKET = 25 * 2**20  # bytes, DistributedDataParallel's default
LATENCY = 20e-6  # s a bucket and ring, an assumption


class Machine(NamedTuple):
    """Assumptions: `tflops` that training reaches on a GPU, GPUs in a node, GB/s each way between GPUs of a node (for each
    GPU) and between nodes (for each node), bytes a gradient number is sent as."""

    tflops: float = 100.0
    node: int = 8
    inside: float = 200.0
    between: float = 25.0
    bytes: int = 4


def ring(size, n, machine):
    """Seconds to sum `size` bytes over n GPUs: a ring in each node, then one between the nodes."""
    if n == 1:
        return 0.0
    inner, nodes = min(n, machine.node), -(-n // machine.node)
    time = 2 * (inner - 1) / inner * size / (machine.inside * 1e9) + LATENCY
    if nodes > 1:
        time += 2 * (nodes - 1) / nodes * size / (machine.between * 1e9) + LATENCY
    return time


def gathered(numbers, n, machine):
    """Seconds that an all-gather of `numbers` float32 from each of n GPUs takes: each receives those of all others."""
    if n == 1:
        return 0.0
    inner, nodes = min(n, machine.node), -(-n // machine.node)
    time = (inner - 1) * numbers * 4 / (machine.inside * 1e9) + LATENCY
    if nodes > 1:  # those of the other nodes come in through the node's link
        time += (n - inner) * numbers * 4 / (machine.between * 1e9) + LATENCY
    return time


def step(flops, parameters, batch, n, machine, extra=0, returned=False):
    """{"gpus", "compute_ms", "sent_ms", "waits_ms", "efficiency", "sent_mb"} of a step of `batch` images on each of n GPUs.

    flops: of an image, forward and backward; extra: float32 numbers that each GPU gives to all others for the loss, and
    gets the gradient of if `returned`. `waits_ms`: what the overlap with the backward pass does not hide.
    """
    compute, size = flops * batch / (machine.tflops * 1e12), parameters * machine.bytes
    buckets = max(1, int(-(-size // BUCKET)))
    end, sent = 0.0, buckets * ring(size / buckets, n, machine)
    for k in range(buckets):  # the backward pass fills one bucket after the other
        ready = compute / 3 + (k + 1) / buckets * compute * 2 / 3
        end = max(end, ready) + sent / buckets
    loss = (gathered(extra, n, machine) + returned * ring(extra * n * 4, n, machine)) if extra else 0.0
    waits = max(0.0, end - compute) + loss  # between forward and backward nothing hides the loss's share
    return {
        "gpus": n,
        "compute_ms": 1e3 * compute,
        "sent_ms": 1e3 * (sent + loss),
        "waits_ms": 1e3 * waits,
        "efficiency": compute / (compute + waits),
        "sent_mb": (2 * (n - 1) / n * size + (n - 1) * extra * 4 * (1 + 2 * returned)) / 1e6,
    }


def shared(cfg, method, batch):
    """(numbers, returned) that the loss of `batch` images shares: SplitMask's InfoNCE two vectors an image, with their
    gradient; DINO's centre one mean output."""
    if cfg.method == "splitmask" and method.couples_images:
        return 2 * batch * method.encoder.dim, True
    if cfg.method == "dino":
        return cfg.method_args["out_dim"], False
    return 0, False
