"""Two processes are one: InfoNCE over gathered rows, and whole training runs."""

import pickle

import pytest
import torch
import torch.multiprocessing as mp
from oracle_cases import assert_close, cases, load

from mimlab.distributed import gather, generator_for
from mimlab.methods.splitmask import info_nce

KINDS = {
    "other_branch_sym": {},
    "other_branch_a_to_b": {"symmetric": False},
    "both_branches_sym": {"negatives": "both"},
    "other_branch_sym_raw": {"normalise": False},
}


def worker(rank, world, port, arrays, temperature, folder):
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    rows, found = len(arrays["z_a"]) // world, {}
    here = slice(rank * rows, (rank + 1) * rows)
    for kind, options in KINDS.items():
        a, b = (torch.as_tensor(arrays[name])[here].requires_grad_() for name in ("z_a", "z_b"))
        loss, _ = info_nce(a, b, temperature, **options)
        loss.backward()
        found[kind] = loss.item(), a.grad, b.grad
    linear = torch.nn.Linear(arrays["encoder_weight"].shape[1], arrays["encoder_weight"].shape[0], bias=False)
    linear.weight.data = torch.as_tensor(arrays["encoder_weight"]).clone()
    model = torch.nn.parallel.DistributedDataParallel(linear)
    both = torch.cat([torch.as_tensor(arrays[name])[here] for name in ("x_a", "x_b")])
    loss, _ = info_nce(*model(both).chunk(2), temperature)
    loss.backward()
    found["encoder"] = loss.item(), linear.weight.grad
    with open(f"{folder}/{rank}.pkl", "wb") as handle:
        pickle.dump(found, handle)
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("name", cases("infonce_gather"))
def test_gathered_infonce_is_that_of_the_whole_batch(name, tmp_path, free_port):
    _, arrays, about = load(name)
    world = about["world_size"]
    mp.spawn(worker, (world, free_port, arrays, about["temperature"], str(tmp_path)), nprocs=world)
    ranks = [pickle.loads((tmp_path / f"{rank}.pkl").read_bytes()) for rank in range(world)]
    for kind in KINDS:
        losses = [found[kind][0] for found in ranks]
        assert_close(losses, arrays[f"{kind}/rank_losses"], 1e-5, 1e-6)
        assert_close(sum(losses) / world, arrays[f"{kind}/loss"], 1e-5, 0)
        for place, side in ((1, "a"), (2, "b")):  # DDP's mean: divided by the number of processes
            gradient = torch.cat([found[kind][place] for found in ranks]) / world
            assert_close(gradient, arrays[f"{kind}/grad_{side}"], 1e-4, 1e-7)
    assert_close(sum(found["encoder"][0] for found in ranks) / world, arrays["encoder/loss"], 1e-5, 0)
    assert_close(ranks[0]["encoder"][1], arrays["encoder/grad_weight"], 1e-4, 1e-7)


@pytest.mark.parametrize("name", cases("infonce_gather"))
def test_on_one_process_gather_is_the_identity(name):
    _, arrays, about = load(name)
    x = torch.rand(3, 2)
    assert gather(x) is x
    for kind, options in KINDS.items():
        a, b = (torch.as_tensor(arrays[key]).requires_grad_() for key in ("z_a", "z_b"))
        loss, accuracy = info_nce(a, b, about["temperature"], **options)
        loss.backward()
        assert_close(loss, arrays[f"{kind}/loss"], 1e-5, 0)
        assert_close(a.grad, arrays[f"{kind}/grad_a"], 1e-4, 1e-7)
        assert 0 <= float(accuracy) <= 1


def test_a_generator_depends_on_seed_step_and_purpose_alone():
    def draw(*key):
        return torch.rand(4, generator=generator_for(*key)).tolist()

    assert draw(0, 5, "mask") == draw(0, 5, "mask")
    assert len({tuple(draw(*key)) for key in ((0, 5, "mask"), (1, 5, "mask"), (0, 6, "mask"), (0, 5, "order"))}) == 4
