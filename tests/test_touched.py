"""Layers that are wrapped, replaced or seen by hooks are called, wherever mimlab else reads their weights itself."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from mimlab import blocks, encoders
from mimlab.linear import exactly, watched
from mimlab.mlp import feed
from mimlab.token_loss import token_loss

FAMILIES = {
    "vit": ("vit", 16, 4, {"dim": 24, "depth": 2, "heads": 2}),
    "beit": ("beit", 16, 4, {"dim": 24, "depth": 2, "heads": 2}),
    "beit with its own bias": ("beit", 16, 4, {"dim": 24, "depth": 2, "heads": 2, "bias": "per_block"}),
    "xcit": ("xcit", 32, 8, {"dim": 128, "depth": 2, "heads": 4}),
    "resnet": ("resnet10t", 32, 32, {}),
}
WAYS = ["plain", "recompute", "compile"]


class Adapter(nn.Module):
    """As LoRA wraps a linear layer: its weights can still be read."""

    def __init__(self, base):
        super().__init__()
        self.base, self.added = base, nn.Linear(base.in_features, base.out_features, bias=False)

    @property
    def weight(self):
        return self.base.weight

    @property
    def bias(self):
        return self.base.bias

    def forward(self, x):
        return self.base(x) + self.added(x)


class Louder(nn.Linear):
    """A subclass that computes something else."""

    def forward(self, x):
        return 3 * super().forward(x)


class Twice(nn.Module):
    def forward(self, weight):
        return 2 * weight


def made(family, way="plain"):
    torch.manual_seed(0)
    name, size, patch, options = FAMILIES[family]
    encoder = encoders.create(name, size, patch, **options).eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.1) if parameter.ndim > 1 else None
    if way == "recompute":
        blocks.recompute(encoder)
    if way == "compile":
        blocks.compile_blocks(encoder)
    return encoder, torch.rand(2, 3, size, size)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))


def note(seen, name, module, given, out):
    seen[name] = getattr(out, "shape", None)


def layers(encoder):
    """The names of every part of the first and the last block, and of the embedding, that computes something."""
    trunk = encoder.trunk
    stem = [name for name in ("patch_embed", "patch_embed.proj") if hasattr(trunk, "patch_embed")]
    if hasattr(trunk, "patch_embed") and not hasattr(trunk.patch_embed, "grid_size"):
        stem = ["patch_embed"]
    within = dict(trunk.named_modules())
    stacks = [name for name in within if name.endswith(("blocks.0", "blocks.1", "layer4.0"))]
    found = [part for stack in stacks for part in within if part == stack or part.startswith(stack + ".")]
    return [name for name in stem + found if name in within]


@pytest.mark.parametrize(
    ("family", "way"),
    [
        pytest.param(family, way, marks=pytest.mark.slow if way == "compile" and family != "vit" else ())
        for family in FAMILIES
        for way in WAYS
    ],
)
def test_hooks_fire_with_gradients_as_they_do_without(family, way):
    """All that torch calls while nothing is trained by timm's own forward, it calls in training, with the same shapes."""
    encoder, images = made(family, way)
    seen = {}
    for name in layers(encoder):
        part = encoder.trunk.get_submodule(name)
        part.register_forward_hook(partial(note, seen, name))
    with torch.no_grad():
        without = encoder(images)[1]
    quiet = dict(seen)
    seen.clear()
    found = encoder(images)[1]
    assert seen == quiet and any(name.endswith(("mlp.fc1", "conv1")) for name in seen)
    torch.testing.assert_close(found, without, atol=2e-5, rtol=1e-4)
    found.sum().backward()


@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
@pytest.mark.parametrize(
    "name", ["patch_embed.proj", "blocks.1", "blocks.1.attn", "blocks.1.attn.proj", "blocks.0.mlp.act"]
)
def test_each_kind_of_hook_fires_and_changes_nothing(name, kind):
    encoder, images = made("vit")
    want = encoder(images)[1]
    want.sum().backward()
    gradients = [p.grad.clone() for p in encoder.parameters() if p.grad is not None]
    encoder.zero_grad()
    fired = []
    getattr(encoder.trunk.get_submodule(name), f"register_{kind}_hook")(lambda *given: fired.append(name))
    found = encoder(images)[1]
    found.sum().backward()
    assert fired == [name]
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-4)
    for one, other in zip([p.grad for p in encoder.parameters() if p.grad is not None], gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("rows", [None, torch.tensor([[0, 3], [5, 2]])])
@pytest.mark.parametrize("mask", [None, torch.tensor([[True] * 5 + [False] * 11, [False] * 11 + [True] * 5])])
def test_a_hook_sees_whole_blocks_and_what_is_read_stays(mask, rows):
    encoder, images = made("vit")
    want = encoder(images, mask, rows=rows)[1]
    shapes = []
    for name in ("patch_embed", "blocks.1", "blocks.1.norm2"):
        encoder.trunk.get_submodule(name).register_forward_hook(lambda m, i, out: shapes.append(out.shape[1]))
    found = encoder(images, mask, rows=rows)[1]
    tokens = encoder.prefix + (16 if mask is None else 11)
    assert shapes == [16, tokens, tokens]
    torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-4)


def test_a_hook_on_every_module_sees_them_too():
    encoder, images = made("vit")
    seen = set()
    handle = nn.modules.module.register_module_forward_hook(lambda module, given, out: seen.add(type(module).__name__))
    try:
        encoder(images)
    finally:
        handle.remove()
    assert {"Attention", "Mlp", "GELU", "Conv2d", "Linear"} <= seen


def replaced(trunk, name, by):
    parent, _, last = name.rpartition(".")
    part = trunk.get_submodule(name)
    if by == "adapter":
        new = Adapter(part)
    elif by == "subclass":
        new = Louder(part.in_features, part.out_features, bias=part.bias is not None)
        new.load_state_dict(part.state_dict())
    elif by == "parametrised":
        new = parametrize.register_parametrization(part, "weight", Twice())
    else:
        part.forward = lambda x: 2 * nn.Linear.forward(part, x)
        new = part
    setattr(trunk.get_submodule(parent), last, new)
    return new


@pytest.mark.parametrize("way", ["plain", *(pytest.param(way, marks=pytest.mark.slow) for way in WAYS[1:])])
@pytest.mark.parametrize("by", ["adapter", "subclass", "parametrised", "forward"])
@pytest.mark.parametrize("layer", ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"])
@pytest.mark.parametrize("family", ["vit", "beit", "xcit"])
def test_a_layer_that_is_wrapped_computes_what_it_says(family, layer, by, way):
    if family == "xcit" and way == "recompute":
        way = "plain"
    encoder, images = made(family, way)
    before = encoder(images)[1].detach()
    new = replaced(encoder.trunk, f"blocks.1.{layer}", by)
    with torch.no_grad():
        want = encoder(images)[1]
        rows = encoder(images, rows=torch.tensor([[1, 2], [0, 3]]))[1] if family != "xcit" else None
    found = encoder(images)[1]
    assert not torch.allclose(found, before, atol=1e-4)
    torch.testing.assert_close(found, want, atol=2e-5, rtol=1e-4)
    if rows is not None:
        torch.testing.assert_close(encoder(images, rows=torch.tensor([[1, 2], [0, 3]]))[1], rows, atol=2e-5, rtol=1e-4)
    found.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in new.parameters())


@pytest.mark.parametrize("dropped", [False, True])
def test_a_wrapped_embedding_is_called(dropped):
    encoder, images = made("vit")
    mask = torch.tensor([[True] * 5 + [False] * 11, [False] * 11 + [True] * 5]) if dropped else None
    before = encoder(images, mask)[1]
    parametrize.register_parametrization(encoder.trunk.patch_embed.proj, "weight", Twice())
    with torch.no_grad():
        encoder.trunk.patch_embed.proj.parametrizations.weight.original.mul_(0.5)
    torch.testing.assert_close(encoder(images, mask)[1], before, atol=1e-5, rtol=1e-4)
    encoder.trunk.patch_embed.proj = nn.Sequential(encoder.trunk.patch_embed.proj, nn.BatchNorm2d(24)).eval()
    encoder.trunk.patch_embed.proj[1].weight.data.fill_(2.0)
    assert not torch.allclose(encoder(images, mask)[1], before, atol=1e-3)


@pytest.mark.parametrize("by", ["adapter", "subclass", "parametrised", "forward"])
def test_a_wrapped_head_of_tokens_is_called(by):
    torch.manual_seed(0)
    holder, x, targets = nn.ModuleDict({"head": nn.Linear(8, 5)}), torch.randn(7, 8), torch.arange(7) % 5
    plain = token_loss(holder["head"], x, targets)
    torch.testing.assert_close(plain[0], nn.functional.cross_entropy(holder["head"](x), targets))
    new = replaced(holder, "head", by)
    pieces = []
    loss, share = token_loss(new, x, targets, lambda logits, rows: pieces.append((len(logits), rows)))
    logits = new(x)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits, targets))
    assert float(share) == pytest.approx(float((logits.argmax(1) == targets).float().mean()))
    assert pieces == [(7, slice(0, 7))] and not torch.allclose(loss, plain[0], atol=1e-4)
    loss.backward()
    assert all(parameter.grad is not None for parameter in new.parameters())


def test_an_mlp_alone_and_what_counts_as_torchs_own():
    from timm.layers import Mlp

    mlp, x, gamma = Mlp(8, 16), torch.randn(2, 3, 8), torch.rand(8)
    want, fired = feed(mlp, x, gamma), []
    mlp.act.register_forward_hook(lambda *given: fired.append(1))
    torch.testing.assert_close(feed(mlp, x, gamma), want)
    assert fired == [1] and watched(mlp) and not watched(nn.Linear(2, 2))
    assert exactly(mlp.fc1) and not exactly(Adapter(mlp.fc1)) and not exactly(None)
    louder = Louder(2, 2)
    assert not exactly(louder) and exactly(louder, Louder)
