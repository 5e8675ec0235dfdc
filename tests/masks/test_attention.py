"""Attention-guided masks against attention computed here from the trunk's own weights, and against AttMask's counts."""

from types import SimpleNamespace

import pytest
import torch

import mimlab
from mimlab import encoders, masks
from mimlab.errors import Refused
from mimlab.masks import attention

ENCODER = {"dim": 24, "depth": 2, "heads": 3}
DECODER = {"decoder_dim": 16, "decoder_heads": 2, "decoder_depth": 1}
BUILDS = {
    "mae": {"method": "mae", "encoder_args": ENCODER, "method_args": DECODER},
    "mae without CLS": {"method": "mae", "encoder_args": ENCODER | {"class_token": False}, "method_args": DECODER},
    "beit": {"method": "beit", "encoder": "beit", "encoder_args": ENCODER, "vocab": 16},
}


def build(name):
    """A method whose weights are large enough for attention that is far from uniform."""
    torch.manual_seed(0)
    method = mimlab.Pretrain(image_size=28, patch_size=7, **BUILDS[name]).resolved().build()
    for parameter in method.encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return method.eval()


def by_hand(encoder, images):
    """Attention of the last block, (B, T, T), a head at a time from the input of its projections."""
    block, seen = encoder.trunk.blocks[-1], []
    hook = block.norm1.register_forward_hook(lambda module, given, found: seen.append(found))
    encoder(images)
    hook.remove()
    attn, x, dim = block.attn, seen[0], encoder.dim
    bias = attn.qkv.bias if attn.qkv.bias is not None else torch.cat([attn.q_bias, torch.zeros(dim), attn.v_bias])
    shared = encoder.trunk.rel_pos_bias() if getattr(encoder.trunk, "rel_pos_bias", None) is not None else None
    total, width = 0, dim // ENCODER["heads"]
    for head in range(ENCODER["heads"]):
        rows = slice(head * width, (head + 1) * width)
        q = x @ attn.qkv.weight[:dim][rows].T + bias[:dim][rows]
        k = x @ attn.qkv.weight[dim : 2 * dim][rows].T + bias[dim : 2 * dim][rows]
        logits = q @ k.transpose(1, 2) / width**0.5
        if shared is not None:
            logits = logits + shared.squeeze(0)[head]
        total = total + logits.softmax(dim=-1)
    return total / ENCODER["heads"]


@pytest.mark.parametrize("name", BUILDS)
def test_the_most_attended_are_hidden(name):
    method, images = build(name), torch.rand(5, 3, 28, 28)
    with torch.no_grad():
        weights = by_hand(method.encoder, images)
    want = weights.mean(1) if "without" in name else weights[:, 0, 1:]
    scores = masks.score("attention", images, (4, 4), method)
    assert scores.shape == (5, 16) and torch.allclose(scores, want, atol=1e-6)
    assert (scores.std(1) > 0.005).all()
    for hide in ("high", "low"):
        mask = masks.sample("attention", 5, (4, 4), 0.5, torch.Generator(), images=images, method=method, hide=hide)
        top = want.topk(8, largest=hide == "high").indices
        assert torch.equal(mask, torch.zeros(5, 16, dtype=torch.bool).scatter_(1, top, True))


def test_the_deployed_encoder_is_asked():
    methods = [build("mae") for _ in range(2)]
    with torch.no_grad():
        methods[1].encoder.trunk.blocks[-1].attn.qkv.weight.mul_(-1.5)
    images = torch.rand(2, 3, 28, 28)
    both = SimpleNamespace(encoder=methods[0].encoder, deployed=methods[1].encoder)
    want = [masks.score("attention", images, (4, 4), method) for method in methods]
    with torch.no_grad():  # as `masks.score` asks
        found = attention.score(images, (4, 4), method=both)
    assert torch.equal(found, want[1]) and not torch.equal(*want)


def test_registers_are_no_patches():
    encoder = encoders.create("vit_medium_patch16_reg4_gap_256", (8, 8), 4, dim=24, depth=1, heads=3)
    found = attention.score(torch.rand(2, 3, 8, 8), (2, 2), method=SimpleNamespace(deployed=encoder))
    assert encoder.prefix == 4 and found.shape == (2, 4)


def test_other_sizes_are_made_to_fit_and_other_grids_refused():
    method, images = build("mae"), torch.rand(2, 3, 28, 28)
    assert attention.fit(images, method.encoder, (4, 4)) is images
    ramp = torch.linspace(0, 1, 57)[:56].expand(2, 3, 56, 56) + 1 / 112
    made = attention.fit(ramp, method.encoder, (4, 4))
    assert (made[0, 0, 5, 1:-1] - ((torch.arange(28) + 0.5) / 28)[1:-1]).abs().max() < 1e-3
    small, large = (masks.score("attention", x, (4, 4), method) for x in (made, ramp))
    assert torch.equal(small, large)
    with pytest.raises(Refused, match=r"7 x 7.*4 x 4 patches.*patch_size"):
        masks.score("attention", images, (7, 7), method)
    with pytest.raises(Refused, match="asks a model"):
        masks.sample("attention", 2, (4, 4), 0.5, torch.Generator(), images=images)


def test_hints_are_a_share_of_the_most_attended():
    """At a ratio of 0.3 AttMask hides int(0.3 N) of the most attended but for int(0.03 N) of the top int(0.1 N)."""
    grid, batch = (10, 10), 3000
    scores = torch.rand(1, 100, generator=torch.Generator().manual_seed(0)).expand(batch, -1)
    order = scores[0].argsort(descending=True)
    mask = masks.sample("attention", batch, grid, 0.27, torch.Generator().manual_seed(0), scores, hide="hint")
    mask = mask[:, order]  # most attended first
    assert ((~mask[:, :10]).sum(1) == 3).all()
    assert mask[:, 10:30].all() and not mask[:, 30:].any()
    assert ((~mask[:, :10]).float().mean(0) - 0.3).abs().max() < 5 * (0.3 * 0.7 / batch) ** 0.5


def test_hints_have_options_and_are_hidden_last():
    scores = torch.arange(20.0).expand(4, -1)
    place = attention.rank(4, (4, 5), torch.Generator().manual_seed(0), scores=scores, hide="hint", top=0.5, shown=0.4)
    last = place.argsort(dim=1)[:, :4]
    assert (last >= 10).all() and (last.diff(dim=1) > 0).all()  # among hints the least attended stays longest
    assert last.unique(dim=0).shape[0] > 1
    rest = place.argsort(dim=1)[:, 4:]
    assert (rest.diff(dim=1) > 0).all()
    none = masks.sample("attention", 4, (4, 5), 0.5, torch.Generator(), scores, hide="hint", shown=0.0)
    assert torch.equal(none, masks.sample("attention", 4, (4, 5), 0.5, torch.Generator(), scores))
    every = masks.sample("attention", 4, (4, 5), 0.5, torch.Generator(), scores, hide="hint", top=1.0, shown=1.0)
    assert torch.equal(every, none)  # all are hints: the most attended of them are hidden first


def test_only_ties_are_random():
    scores = torch.tensor([[0.5, 0.5, 0.5, 0.5, 0.9, 0.1]]).expand(1000, -1)
    mask = masks.sample("attention", 1000, (2, 3), 0.5, torch.Generator().manual_seed(0), scores)
    assert mask[:, 4].all() and not mask[:, 5].any()
    assert (mask[:, :4].float().mean(0) - 0.5).abs().max() < 0.08
    near = torch.tensor([[0.5, 0.5 + 1e-7, 0.5 - 1e-7, 0.2]]).expand(100, -1)
    assert masks.sample("attention", 100, (2, 2), 0.5, torch.Generator(), near)[:, :2].all()


@pytest.mark.parametrize("hide", ["high", "hint", "low"])
def test_each_way_hides_exactly_and_follows_the_seed(hide):
    for grid in ((2, 2), (3, 11), (14, 14)):
        n = grid[0] * grid[1]
        scores = torch.rand(3, n, generator=torch.Generator().manual_seed(0))
        for ratio in (0.3, 0.5, 0.75):
            draws = [masks.sample("attention", 3, grid, ratio, torch.Generator().manual_seed(s), scores, hide=hide) for s in (0, 0, 1)]  # fmt: skip
            assert (draws[0].sum(1) == masks.count(n, ratio)).all() and torch.equal(draws[0], draws[1])
            if n == 196:
                assert torch.equal(draws[0], draws[2]) == (hide != "hint")


def test_an_unknown_way_is_refused_with_the_choices():
    with pytest.raises(Refused, match=r"hide = 'hints'.*did you mean 'hint'.*high, hint, low"):
        masks.sample("attention", 1, (4, 4), 0.5, torch.Generator(), torch.rand(1, 16), hide="hints")


def test_pretraining_repeats_itself_and_asks_the_model(tmp_path):
    cfg = mimlab.Pretrain(
        method="mae", mask="attention", fraction=0.016, patch_size=7, batch_size=16, updates="2", knn_every=0, log_every=1,
        encoder_args={"dim": 24, "depth": 1, "heads": 2}, method_args=DECODER,
    )  # fmt: skip
    first, again, low = (
        mimlab.pretrain(cfg.replace(out=str(tmp_path / name), mask_args=given)).metrics()
        for name, given in (("a", {}), ("b", {}), ("c", {"hide": "low"}))
    )
    assert len(first) == 2 and [row["loss"] for row in first] == [row["loss"] for row in again]
    assert [row["loss"] for row in first] != [row["loss"] for row in low]
