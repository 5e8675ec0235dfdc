"""DINO: student and teacher in loops as the official code has them (main_dino.py, utils.MultiCropWrapper)."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from mimlab.bench.plain import vit


class Head(nn.Module):
    def __init__(self, dim, hidden, bottleneck, out):
        super().__init__()
        layers = [
            nn.Linear(dim, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        ]
        self.mlp = nn.Sequential(*layers)
        self.last = nn.utils.parametrizations.weight_norm(nn.Linear(bottleneck, out, bias=False))
        self.last.parametrizations.weight.original0.requires_grad_(False)

    def forward(self, x):
        return self.last(F.normalize(self.mlp(x), dim=-1))


class Plain(nn.Module):
    def __init__(self, shape, options):
        super().__init__()
        sizes = (options["head_dim"], options["bottleneck_dim"], options["out_dim"])
        self.student = nn.ModuleList([vit(shape, dynamic_img_size=True), Head(shape.dim, *sizes)])
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("centre", torch.zeros(1, options["out_dim"]))

    def outputs(self, model, views):
        """Head of every view's class token, (views * B, K), the views of one size at once."""
        sizes = sorted({view.shape[-1] for view in views}, reverse=True)
        groups = [torch.cat([view for view in views if view.shape[-1] == size]) for size in sizes]
        return model[1](torch.cat([model[0](group) for group in groups]))

    def loss(self, ready):
        student = (self.outputs(self.student, ready.seen) / 0.1).chunk(len(ready.seen))
        with torch.no_grad():
            found = self.outputs(self.teacher, ready.seen[:2])
        teacher = F.softmax((found - self.centre) / 0.04, dim=-1).detach().chunk(2)
        terms = [
            torch.sum(-t * F.log_softmax(s, dim=-1), dim=-1).mean()
            for i, t in enumerate(teacher)
            for j, s in enumerate(student)
            if i != j
        ]
        self.centre.mul_(0.9).add_(found.mean(dim=0, keepdim=True), alpha=0.1)
        return sum(terms) / len(terms)

    @torch.no_grad()
    def after(self):
        for own, theirs in zip(self.student.parameters(), self.teacher.parameters(), strict=True):
            theirs.data.mul_(0.996).add_(0.004 * own.detach().data)
