"""LARS (You et al. 2017, arXiv 1708.03888) as MAE's linear probe uses it: facebookresearch/mae, util/lars.py.

The gradient of a matrix is scaled to `trust` times the matrix's own norm before it enters the momentum; vectors (biases)
are neither scaled nor decayed. The learning rate multiplies the momentum, not what enters it.
"""

import torch


class LARS(torch.optim.Optimizer):
    """Options of a group: `lr`, `weight_decay`, `momentum`, `trust`."""

    def __init__(self, params, lr, weight_decay=0.0, momentum=0.9, trust=0.001):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "trust": trust})

    @torch.no_grad()
    def step(self):
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                change = parameter.grad
                if parameter.ndim > 1:
                    change = change + group["weight_decay"] * parameter
                    own, size = parameter.norm(), change.norm()
                    scale = torch.where(
                        (own > 0) & (size > 0), group["trust"] * own / size, 1.0
                    )  # 0 / 0: left as it is
                    change = change * scale
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                state["momentum"].mul_(group["momentum"]).add_(change)
                parameter.sub_(group["lr"] * state["momentum"])
