"""The bare matrix products of a step, run anew on cold operands: what would remain if everything else were free.

Each product recorded from a step of mimlab (`products.py`: attention's as the plain attention has them) is made again with
the same shapes and strides. Operands lie in a ring of memory larger than the caches, each behind the last, so that
none is warm; results go to a second ring. Biases, sums to be added to and everything between the products are left out.
"""

import torch

from mimlab.bench.products import LINEAR
from mimlab.linear import pointwise

RING = 1 << 30  # bytes of operands before the first ones come again; results get half of it
LINE = 16  # elements, a cache line of float32
BLOCK = 1 << 20  # elements that are filled at a time


class Ring:
    """Memory that is handed out piece after piece, and from the start again when it ends."""

    def __init__(self, size, dtype, device):
        self.memory = torch.empty(size, dtype=dtype, device=device)
        if dtype.is_floating_point:  # the same block over and over: the speed of a product knows no numbers
            block = torch.randn(min(size, BLOCK), generator=torch.Generator(device).manual_seed(0), device=device) / 20
            for piece in self.memory.split(BLOCK):
                piece.copy_(block[: len(piece)])
        self.place = 0

    def take(self, shape, stride):
        numbers = extent(shape, stride)
        if self.place + numbers > len(self.memory):
            self.place = 0
        piece = self.memory.as_strided(shape, stride, self.place)
        self.place += -(-numbers // LINE) * LINE
        return piece


class Replay:
    """`run()` makes all `products` once. Their operands move on through the rings from call to call."""

    def __init__(self, products, device, ring=RING):
        self.products, self.device = products, device
        self.rings = {}
        for dtype in {layout.dtype for product in products for layout in layouts(product)}:
            sizes = [
                extent(x.shape, x.stride) + LINE for product in products for x in layouts(product) if x.dtype == dtype
            ]
            for part in (ring, ring // 2):  # where a whole step needs less, it need not be more
                size = max(min(part // dtype.itemsize, sum(sizes)), max(sizes))
                self.rings.setdefault(dtype, []).append(Ring(size, dtype, device))

    def run(self):
        for product in self.products:
            if product.rest:
                self.convolve(product)
                continue
            a, b = (self.rings[x.dtype][0].take(x.shape, x.stride) for x in (product.a, product.b))
            if product.name == LINEAR:  # by the library that the step takes; it makes its own result
                pointwise(a, b.T, None)
                continue
            out = self.rings[product.out.dtype][1].take(product.out.shape, product.out.stride)
            if a.ndim == 3 and out.ndim == 2:  # addbmm: a sum over the batch
                torch.addbmm(out, a, b, beta=0, out=out)
            else:
                torch.matmul(a, b, out=out)

    def convolve(self, product):
        """A convolution makes its own result: there is no way to say where."""
        values = [
            self.rings[x.dtype][0].take(x.shape, x.stride) if isinstance(x, type(product.a)) else x
            for x in product.rest
        ]
        getattr(torch.ops.aten, product.name)(*values)


def layouts(product):
    """Layouts of all tensors of a product."""
    rest = [value for value in product.rest if isinstance(value, type(product.a))]
    return [product.a, product.b, *([product.out] if product.out else []), *rest]


def extent(shape, stride):
    """Elements from the first to the last of a tensor."""
    return 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
