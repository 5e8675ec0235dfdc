"""Two processes with half of the images each make the step of one with all of them, for every method in every form."""

import pickle
import socket
from functools import cache

import pytest
import torch
import torch.multiprocessing as mp
from methods.method_cases import CASES, LONG, SOME, built, inputs, said

from mimlab.methods import Progress


def step(case, rows=slice(None)):
    """The loss of one step on those rows, gradients, and the buffers after it."""
    method = built(*case)
    batch, mask = inputs(method, 8)
    here = [None if x is None else x[rows] for x in (batch.images, batch.noise, batch.labels, mask)]
    crops = tuple(crop[rows] for crop in batch.crops)
    output = method(batch._replace(images=here[0], noise=here[1], crops=crops, labels=here[2]), here[3], Progress(0, 9))
    output.loss.backward()
    gradients = {n: p.grad for n, p in method.named_parameters() if p.grad is not None}
    method.after_step(Progress(1, 9))
    return float(output.loss.detach()), gradients, dict(method.named_buffers())


def worker(rank, world, port, folder, cases):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    share = 8 // world
    found = {said(case): step(case, slice(rank * share, (rank + 1) * share)) for case in cases}
    with open(f"{folder}/{rank}.pkl", "wb") as handle:
        pickle.dump(found, handle)
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory, home):
    """case -> what each of two processes found; those of the default tests in one start, the others in another."""

    @cache
    def started(some):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        folder = tmp_path_factory.mktemp("ranks")
        cases = [case for case in CASES if (case in SOME) == some]
        mp.spawn(worker, (2, port, str(folder), cases), nprocs=2)
        return [pickle.loads((folder / f"{rank}.pkl").read_bytes()) for rank in range(2)]

    return lambda case: [found[said(case)] for found in started(case in SOME)]


@pytest.mark.parametrize("case", LONG, ids=said)
def test_two_halves_are_the_whole(case, ranks):
    loss, gradients, buffers = step(case)
    (loss_a, own_a, kept_a), (loss_b, own_b, kept_b) = ranks(case)
    assert (loss_a + loss_b) / 2 == pytest.approx(loss, rel=1e-5)
    assert own_a.keys() == own_b.keys() == gradients.keys()
    whole = float(torch.cat([want.flatten() for want in gradients.values()]).norm())
    for name, want in gradients.items():  # DistributedDataParallel's mean
        mean = (own_a[name] + own_b[name]) / 2
        # Biases before a BatchNorm, and of keys, have no gradient: what they get is rounding, up to 5e-7 of the whole;
        # of all others a fifth of 1e-4 is the most, behind BatchNorm, else 1e-5.
        assert float((mean - want).norm()) <= 1e-4 * float(want.norm()) + 2e-6 * whole, name
    for name, want in buffers.items():
        assert torch.equal(kept_a[name], kept_b[name]), name
        assert torch.allclose(kept_a[name].double(), want.double(), rtol=1e-4, atol=1e-5), name
