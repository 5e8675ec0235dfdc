"""Matrix products are counted as dispatched, wherever they are made, and replayed one for one."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mimlab import linear
from mimlab.bench.machine import Square
from mimlab.bench.products import Recorder, flops
from mimlab.bench.replay import Replay

CPU = torch.device("cpu")


def recorded(run):
    with sdpa_kernel(SDPBackend.MATH), Recorder() as found:
        run()
    return found.products


def shapes(found):
    return [(product.name, product.a.shape, product.b.shape) for product in found]


def test_a_linear_layer_makes_three_products_with_their_strides():
    layer, x = nn.Linear(3, 5), torch.randn(2, 4, 3, requires_grad=True)
    found = recorded(lambda: layer(x).sum().backward())
    assert sorted(shapes(found)) == [("addmm", (8, 3), (3, 5)), ("mm", (5, 8), (8, 3)), ("mm", (8, 5), (5, 3))]
    assert found[0].b.stride == (1, 3)  # the weight, transposed
    assert flops(found, 1) == 3 * 2 * 8 * 3 * 5


def test_onednns_linear_layer_counts_as_torchs(monkeypatch):
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        pytest.skip("torch was built without oneDNN")
    monkeypatch.setattr(linear, "onednn", lambda: True)
    weight, x = torch.randn(5, 3, requires_grad=True), torch.randn(2, 4, 3, requires_grad=True)
    found = recorded(lambda: linear.linear(x, weight).sum().backward())
    own = "_linear_pointwise"
    assert sorted(shapes(found)) == [(own, (8, 3), (3, 5)), (own, (8, 5), (5, 3)), ("mm", (5, 8), (8, 3))]
    assert found[0].b.stride == (1, 3) and flops(found, 1) == 3 * 2 * 8 * 3 * 5
    with Recorder() as again:
        Replay(found, CPU).run()
    assert shapes(again.products) == shapes(found)


def test_flops_of_a_small_vit_are_those_on_paper():
    from timm.models.vision_transformer import VisionTransformer

    b, side, patch, d, depth, classes = 2, 16, 4, 24, 2, 7
    model = VisionTransformer(
        img_size=side, patch_size=patch, embed_dim=d, depth=depth, num_heads=3, num_classes=classes, global_pool="token"
    )
    images = torch.randn(b, 3, side, side)
    n = (side // patch) ** 2
    t = n + 1
    embed = 2 * n * (3 * patch * patch) * d  # forward; backward has the weight's gradient alone
    block = 2 * t * d * (3 * d + d + 4 * d + 4 * d) + 2 * 2 * t * t * d
    head = 2 * d * classes
    by_hand = 2 * embed + 3 * (depth * block + head)
    found = recorded(lambda: model(images).sum().backward())
    assert flops(found, b) == by_hand
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(images).sum().backward()
    assert counter.get_total_flops() == b * by_hand


class Own(torch.autograd.Function):
    """A linear layer by hand, with `out=` in both directions."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        out = x.new_empty(len(x), len(w))
        return torch.mm(x, w.t(), out=out)

    @staticmethod
    def backward(ctx, g):
        x, w = ctx.saved_tensors
        dw, dx = torch.zeros_like(w), torch.empty_like(x)
        torch.addmm(dw, g.t(), x, out=dw)
        torch.addmm(dx, g, w, beta=0, out=dx)
        return dx, dw


def test_products_inside_own_functions_with_out_are_counted():
    x, w = torch.randn(6, 3, requires_grad=True), torch.randn(5, 3, requires_grad=True)
    found = recorded(lambda: Own.apply(x, w).sum().backward())
    assert shapes(found) == [("mm", (6, 3), (3, 5)), ("addmm", (5, 6), (6, 3)), ("addmm", (6, 5), (5, 3))]
    assert flops(found, 1) == 3 * 2 * 6 * 3 * 5


@pytest.mark.parametrize(
    ("run", "count"),
    [
        (lambda x: torch.baddbmm(torch.zeros(2, 4, 4), x, x.mT), 2 * 2 * 4 * 3 * 4),
        (lambda x: torch.addbmm(torch.zeros(4, 4), x, x.mT), 2 * 2 * 4 * 3 * 4),
        (lambda x: torch.zeros(2, 4, 4).baddbmm_(x, x.mT), 2 * 2 * 4 * 3 * 4),
        (lambda x: torch.einsum("bij,bkj->bik", x, x), 2 * 2 * 4 * 3 * 4),
        (lambda x: x[0] @ x[0, 0], 2 * 4 * 3),
        (lambda x: F.conv2d(x.expand(3, 2, 4, 3), torch.ones(5, 2, 2, 3)), 2 * (3 * 5 * 3 * 1) * (2 * 2 * 3)),
    ],
)
def test_every_kind_of_product_is_counted_also_without_gradients(run, count):
    x = torch.randn(2, 4, 3)
    with torch.no_grad():
        assert flops(recorded(lambda: run(x)), 1) == count
    with torch.inference_mode():
        assert flops(recorded(lambda: run(torch.randn(2, 4, 3))), 1) == count


def test_attention_is_six_products_of_batches():
    q, k, v = (torch.randn(2, 3, 5, 4, requires_grad=True) for _ in range(3))
    found = recorded(lambda: F.scaled_dot_product_attention(q, k, v).sum().backward())
    assert flops(found, 1) == 6 * 2 * (2 * 3) * 5 * 5 * 4 and len(found) == 6


def test_the_replay_makes_the_same_products_and_no_other():
    model = nn.Sequential(nn.Conv2d(3, 8, 2, 2), nn.Flatten(2), nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))
    found = recorded(lambda: model(torch.randn(2, 3, 4, 4)).sum().backward())
    x = torch.randn(2, 4, 3)
    found += recorded(lambda: (x @ x.mT, torch.addbmm(torch.zeros(4, 4), x, x.mT), x[0] @ x[0, 0]))
    replay = Replay(found, CPU, ring=1 << 12)
    again = recorded(replay.run)
    assert [(p.a, p.b, p.flops) for p in again] == [(p.a, p.b, p.flops) for p in found]
    assert recorded(replay.run)[0].flops == found[0].flops  # the rings begin anew


def test_operands_follow_each_other_through_memory():
    x = torch.randn(64, 64)
    found = recorded(lambda: [x @ x for _ in range(3)])
    replay = Replay(found, CPU, ring=1 << 16)
    begun = replay.rings[torch.float32][0].place
    replay.run()
    assert begun == 0 and replay.rings[torch.float32][0].place == 2 * 64 * 64  # six pieces, the ring has room for four


def test_the_machine_s_best_is_measured_in_the_precision_of_the_steps():
    for precision, kind in (("no", torch.float32), ("bf16", torch.bfloat16)):
        square = Square(torch.device("cpu"), precision)
        assert square.out.dtype == kind and square.flops == 2 * len(square.a) ** 3
