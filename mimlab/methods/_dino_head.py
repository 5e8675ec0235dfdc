"""DINO's projection head (Caron et al. 2021, arXiv 2104.14294, section 3.1), under the official code's names."""

import torch
import torch.nn.functional as F
from torch import nn

from mimlab.distributed import gather


class Head(nn.Module):
    """MLP with GELU, L2 normalisation, weight-normalised layer: (rows, dim) -> (rows, out_dim).

    Source: vision_transformer.py, DINOHead; its names.
    """

    def __init__(self, dim, out_dim, layers=3, hidden=2048, bottleneck=256, bn=False, norm_last=True):
        super().__init__()
        parts = []
        for width in [dim] + [hidden] * (layers - 2) if layers > 1 else []:
            parts += [nn.Linear(width, hidden), *([BatchNorm(hidden)] if bn else []), nn.GELU()]
        last = nn.Linear(hidden if parts else dim, bottleneck)
        self.mlp = nn.Sequential(*parts, last) if parts else last
        self.last_layer = WeightNormed(bottleneck, out_dim, norm_last)

    def forward(self, x):
        return self.last_layer(F.normalize(self.mlp(x).float(), dim=1))


class WeightNormed(nn.Module):
    """Linear without bias with rows g * v / |v|, under the names of torch's older weight_norm; `fixed`: g stays 1."""

    def __init__(self, dim, out_dim, fixed):
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(out_dim, 1), requires_grad=not fixed)
        self.weight_v = nn.Parameter(torch.empty(out_dim, dim).uniform_(-(dim**-0.5), dim**-0.5))

    def forward(self, x):
        return F.linear(x, self.weight_g * F.normalize(self.weight_v, dim=1))


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm over the rows of all processes; running statistics move in `take_in`: `forward` changes no buffer."""

    seen = None  # mean and unbiased variance of the step at hand, (D,) each

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        rows = gather(x.float())
        mean, var = rows.mean(dim=0), rows.var(dim=0, unbiased=False)
        self.seen = mean.detach(), var.detach() * len(rows) / (len(rows) - 1)
        return (x - mean) * (var + self.eps).rsqrt() * self.weight + self.bias

    def take_in(self):
        """Take the last batch's statistics into the running ones."""
        if self.seen is not None:
            for running, value in zip((self.running_mean, self.running_var), self.seen, strict=True):
                running.lerp_(value, self.momentum)
            self.num_batches_tracked += 1
            self.seen = None
