"""Matrix products of a step: which ones are dispatched, and their floating-point operations.

Counted one by one as torch dispatches them, in forward and backward, also inside functions with a gradient of their own
and with `out=`, which `torch.utils.flop_counter` misses in part. It has no formula for the CPU's fused attention either,
so steps are counted with the plain ("math") attention: two products forward, four backward. The fused kernel makes a
product of these anew in its backward; that is its own business and not counted.
"""

from typing import NamedTuple

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
# where the two factors stand among the arguments
FACTORS = {
    aten.mm: (0, 1), aten.bmm: (0, 1), aten.mv: (0, 1), aten.dot: (0, 1),
    aten.addmm: (1, 2), aten.addmm_: (1, 2), aten._addmm_activation: (1, 2), aten.addmv: (1, 2),
    aten.baddbmm: (1, 2), aten.baddbmm_: (1, 2), aten.addbmm: (1, 2), aten.addbmm_: (1, 2),
}  # fmt: skip
LINEAR = "_linear_pointwise"  # oneDNN's, of `mimlab/linear.py`: its second factor is transposed
CONVOLUTIONS = {aten.convolution, aten._convolution, aten.convolution_overrideable}


class Layout(NamedTuple):
    """A tensor without its numbers: shape and stride, in elements, and dtype."""

    shape: tuple
    stride: tuple
    dtype: torch.dtype

    @classmethod
    def of(cls, tensor):
        return cls(tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)


class Product(NamedTuple):
    """One product as it was dispatched. `name`: aten's, such as mm; `a`, `b`, `out`: layouts; `flops`: 2 a multiply-add.

    `rest`: for a convolution what else it was called with, tensors as `Layout`.
    """

    name: str
    a: Layout
    b: Layout
    out: Layout | None
    flops: int
    rest: tuple = ()


class Recorder(TorchDispatchMode):
    """Collects the `Product`s dispatched while it is entered, in order."""

    def __init__(self):
        super().__init__()
        self.products = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = function.overloadpacket
        known = packet in FACTORS or packet in CONVOLUTIONS or packet is aten.convolution_backward
        if not known and torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd"):
            with self:  # made of others, such as linear without a gradient
                found = function.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        result = function(*args, **kwargs)
        if packet in FACTORS:
            a, b = (args[place] for place in FACTORS[packet])
            flops = 2 * a.numel() * (b.shape[-1] if b.ndim > 1 else 1)
            self.products.append(Product(packet.__name__, Layout.of(a), Layout.of(b), Layout.of(result), flops))
        elif packet.__name__ == LINEAR:
            a, b = args[0], args[1].T
            flops = 2 * a.numel() * b.shape[1]
            self.products.append(Product(LINEAR, Layout.of(a), Layout.of(b), Layout.of(result), flops))
        elif packet in CONVOLUTIONS:
            flops = 2 * result.numel() * args[1][0].numel()
            self.products.append(convolution(packet, args[0], args[1], result, flops, args))
        elif packet is aten.convolution_backward:
            wanted = sum(args[-1][:2])  # gradients of the images, of the weights
            flops = wanted * 2 * args[0].numel() * args[2][0].numel()
            self.products.append(convolution(packet, args[1], args[2], None, flops, args))
        return result


def convolution(packet, images, weight, result, flops, args):
    rest = tuple(Layout.of(value) if isinstance(value, torch.Tensor) else value for value in args)
    out = None if result is None else Layout.of(result)
    return Product(packet.__name__, Layout.of(images), Layout.of(weight), out, flops, rest)


def products(case):
    """The products of one forward and backward of a case, attention as the plain one has it."""
    with sdpa_kernel(SDPBackend.MATH), Recorder() as found:
        case.forward().backward()
    case.optimiser.zero_grad()
    return found.products


def flops(found, images):
    """Floating-point operations an image."""
    return sum(product.flops for product in found) / images
