"""Linear layers as they are trained on a CPU in one precision, by whichever of torch's two libraries is faster there.

torch multiplies with MKL, which is made for Intel's processors. On AMD's with AVX-512, oneDNN takes 0.8 to 0.95 of the time
for the same product, with the bias added on the way: a step takes 0.92 to 0.97 (README, "Speed"). torch has it too, but
calls it in full precision only in what it compiles. The numbers are the same up to the order of sums.
"""

import platform
import sys
from functools import cache
from pathlib import Path

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.nn.modules import module as hooks


def plain(x):
    """Whether `x` is trained on a CPU in one precision; elsewhere torch has a fused kernel."""
    return x.device.type == "cpu" and torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu") and not torch.compiler.is_compiling()  # fmt: skip


def exactly(layer, kind=nn.Linear):
    """Whether `layer` is of torch's own class `kind`, none that wraps or replaces it, with weights of plain numbers.

    Only such a layer's weights may be read in its place: adapters (LoRA), `torch.nn.utils.parametrize`, quantised weights
    and another `forward` compute something else.
    """
    weights = [one for one in layer._parameters.values() if one is not None] if type(layer) is kind else ()
    own = type(layer) is kind and "forward" not in vars(layer) and layer._compiled_call_impl is None
    return own and all(type(one) in (nn.Parameter, torch.Tensor) for one in weights)


def watched(module):
    """Whether a hook would see `module` or a part of it: then each is called, as torch has promised it.

    The hooks by which FSDP gathers a block's weights do not count: they are the block's own, which is called anyway.
    """
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return hooks._has_any_global_hook() or any(
        part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
        for part in module.modules()
        if fsdp is None or not isinstance(part, fsdp.FSDPModule)
    )


def untouched(layer, kind=nn.Linear):
    """Whether its weights may be read in place of a call: `exactly` of the class, and not `watched`."""
    return torch.compiler.is_compiling() or (exactly(layer, kind) and not watched(layer))


@cache
def onednn():
    """Whether this is a processor of AMD's with AVX-512, and torch's oneDNN has a linear layer that is called as here.

    Kept to AVX2 (`ONEDNN_MAX_CPU_ISA`), oneDNN's products took 0.95 to 1.2 times as long as MKL's. Where nothing is
    trained, features of a ViT-Ti took 1.01 to 1.13 times as long with it, so `linear` leaves that to torch.
    """
    told = Path("/proc/cpuinfo")
    maker = told.read_text() if told.exists() else platform.processor()
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or "AuthenticAMD" not in maker:
        return False
    try:  # it is of torch's compiler, and no promise of torch's
        return torch.equal(pointwise(torch.ones(2, 1), torch.ones(1, 1), torch.ones(1)), torch.full((2, 1), 2.0))
    except (AttributeError, RuntimeError, TypeError):
        return False


def pointwise(x, weight, bias):
    """oneDNN's linear layer of rows x (M, D)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def linear(x, weight, bias=None):
    """`F.linear`: x (..., D), weight (E, D), bias (E,) or None -> (..., E)."""
    if plain(x) and x.dtype == torch.float and onednn():
        return Linear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def product(x, weight, bias=None, out=None):
    """The same of rows x (M, D), without gradients; into `out` (M, E) if given."""
    if x.dtype == torch.float and x.device.type == "cpu" and onednn():
        found = pointwise(x, weight, bias)
        return found if out is None else out.copy_(found)
    return torch.mm(x, weight.T, out=out) if bias is None else torch.addmm(bias, x, weight.T, out=out)


class Linear(torch.autograd.Function):
    """See `linear`, by `product`."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return product(x.flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        given, rows = gradient.flatten(0, -2), x.flatten(0, -2)
        return (
            product(given, weight.T).view_as(x) if to_x else None,
            given.T @ rows if to_weight else None,
            given.sum(dim=0) if to_bias else None,
        )
