"""LARS: two steps by hand."""

import torch
from oracle_cases import assert_close

from mimlab.evals._lars import LARS


def test_two_steps_by_hand():
    weight, bias = torch.nn.Parameter(torch.tensor([[3.0, 4.0]])), torch.nn.Parameter(torch.tensor([1.0]))
    idle = torch.nn.Parameter(torch.ones(2, 2))
    solver = LARS([weight, bias, idle], lr=2.0, weight_decay=0.5, momentum=0.9, trust=0.1)
    weight.grad, bias.grad = torch.tensor([[0.0, 1.0]]), torch.tensor([0.25])
    solver.step()
    # decayed: (1.5, 3), norm sqrt(11.25); the weight's norm is 5; scaled to 0.1 * 5 = 0.5 long
    moved = torch.tensor([[1.5, 3.0]]) * (0.5 / 11.25**0.5)
    assert_close(weight, torch.tensor([[3.0, 4.0]]) - 2 * moved, 1e-6, 1e-6)
    assert_close(bias, [0.5], 1e-6, 0)  # neither scaled nor decayed: 1 - 2 * 0.25
    solver.param_groups[0]["lr"] = 1.0
    solver.step()
    assert_close(bias, [0.5 - (0.9 * 0.25 + 0.25)], 1e-6, 0)  # the rate multiplies the momentum
    assert torch.equal(idle, torch.ones(2, 2))


def test_a_weight_at_zero_is_not_scaled():
    weight = torch.nn.Parameter(torch.zeros(1, 2))
    weight.grad = torch.tensor([[3.0, 4.0]])
    LARS([weight], lr=1.0).step()
    assert_close(weight, [[-3.0, -4.0]], 1e-6, 0)
