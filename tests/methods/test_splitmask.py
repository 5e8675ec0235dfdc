"""SplitMask against a plain reference written from the paper's words, and its properties."""

import math

import pytest
import torch
from oracle_cases import assert_close, cases, load
from torch import nn

from mimlab import encoders
from mimlab.checkpoints import mae as names
from mimlab.errors import Refused
from mimlab.masks import cut
from mimlab.methods import Batch, Progress
from mimlab.methods.splitmask import SplitMask, info_nce
from mimlab.tokenizers.random_projection import Tokenizer


class Known(nn.Module):
    """A tokenizer that knows the answer."""

    can_decode = False

    def __init__(self, ids, vocab):
        super().__init__()
        self.ids, self.vocab = torch.as_tensor(ids), vocab

    def forward(self, images, grid):
        return self.ids[: len(images)]


def ours(name):
    """Our name of the reference's, which are MAE's with a token head."""
    return name if name.startswith("head.") else names.ours(name)


def build(about, arrays, variant, **options):
    config = about["config"]
    size = config["img_size"]
    encoder = encoders.create(
        "vit",
        size if isinstance(size, int) else tuple(size),
        config["patch_size"],
        dim=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        class_token=variant != "none",
        normalise="none",
    )
    tokenizer = Known(arrays["token_ids"], config["vocab_size"])
    width, heads = config["decoder_embed_dim"], config["decoder_num_heads"]
    given = {"decoder_depth": config["decoder_depth"], "decoder_dim": width, "decoder_heads": heads}
    options = given | {"decode_cls": variant == "kept"} | options
    return SplitMask(encoder, tokenizer, **options)


def load_reference(method, state, variant):
    """The reference's weights; without a CLS token the tables' first rows are not used."""
    wanted = method.state_dict()
    mapped = {ours(name): value for name, value in state.items()}
    if variant == "none":
        mapped.pop("encoder.trunk.cls_token")
        mapped["encoder.trunk.pos_embed"] = mapped["encoder.trunk.pos_embed"][:, 1:]
    assert set(mapped) == set(wanted)
    method.load_state_dict(mapped)


@pytest.fixture(params=cases("splitmask"))
def case(request):
    return load(request.param)


@pytest.mark.parametrize("variant", ["none", "dropped", "kept"])
def test_logits_descriptors_losses_and_gradients(case, variant):
    state, arrays, about = case
    method = build(about, arrays, variant)
    load_reference(method, state, variant)
    images, mask = torch.as_tensor(arrays["images"]), ~torch.as_tensor(arrays["in_a"])
    cls, patches = method.encoder(images, mask)
    seen = patches if cls is None else torch.cat([cls[:, None], patches], dim=1)
    assert_close(seen, arrays[f"{variant}/encoder_a"], 3e-5, 1e-5)
    visible = int((~mask[0]).sum())
    a, b = (
        method.decode(images, hidden, seen) for hidden, seen in ((mask, visible), method.other(mask, None, visible))
    )
    assert_close(a.mean(dim=1), arrays[f"{variant}/x_a"], 1e-4, 1e-5)
    assert_close(b.mean(dim=1), arrays[f"{variant}/x_b"], 1e-4, 1e-5)
    hidden = mask[..., None], method.other(mask, None, visible)[0][..., None]
    for branch, x, missing in zip("ab", (a, b), hidden, strict=True):  # means over parts of the positions
        for part, there in (("missing", missing), ("seen", ~missing)):
            mean = (x * there).sum(dim=1) / there.sum(dim=1)
            assert_close(mean, arrays[f"{variant}/x_{branch}_{part}_only"], 1e-4, 1e-5)
    assert_close(method.head(a), arrays[f"{variant}/logits_from_a"], 3e-5, 1e-5)
    assert_close(method.head(b), arrays[f"{variant}/logits_from_b"], 3e-5, 1e-5)

    output, want = method(Batch(images), mask, Progress()), about["losses"][variant]
    assert_close(output.logs["loss_inpaint"], want["ce_mean_of_the_two"], 5e-5, 0)
    assert_close(output.logs["loss_match"], want["infonce_tau0.2_l2_other_branch_sym"], 5e-5, 0)
    assert_close(output.loss, want["total_ce_mean_plus_infonce_tau0.2_l2_other_branch_sym"], 5e-5, 0)
    output.loss.backward()
    gradients = {name: p.grad for name, p in method.named_parameters()}
    for name, norm in about["grad_norm_of_total"][variant].items():
        if norm is not None:
            assert_close(gradients[ours(name)].norm(), norm, 2e-3, 1e-6)


@pytest.mark.parametrize("variant", ["none", "dropped", "kept"])
def test_every_stored_kind_of_infonce(case, variant):
    _, arrays, about = case
    a, b = (torch.as_tensor(arrays[f"{variant}/x_{branch}"]) for branch in "ab")
    checked = 0
    for name, want in about["losses"][variant].items():
        if name.startswith("infonce_"):
            temperature, norm, rest = name.removeprefix("infonce_tau").split("_", 2)
            got, _ = info_nce(
                a,
                b,
                float(temperature),
                normalise=norm == "l2",
                negatives=rest.split("_")[0].removesuffix("_branches"),
                symmetric=rest.endswith("sym"),
            )
            assert_close(got, want, 5e-5, 0)
            checked += 1
    assert checked == 32


@pytest.mark.parametrize("n", [16, 15])
def test_exchanging_the_branches_exchanges_their_losses(n):
    """Also for an odd number of patches, where the halves differ in size."""
    torch.manual_seed(0)
    size = (16, 16) if n == 16 else (12, 20)
    encoder = encoders.create("vit", size, 4, dim=24, depth=1, heads=3)
    method = SplitMask(encoder, Known(torch.randint(0, 9, (4, n)), 9)).eval()
    images, mask = torch.rand(4, 3, *size), cut(torch.rand(4, n), n // 2 + n % 2)
    one, other = (method(Batch(images), m, Progress()) for m in (mask, ~mask))
    assert_close(one.loss, other.loss.detach(), 1e-5, 1e-6)
    assert one.prediction.shape == (4 * n, 24)  # every patch is predicted once


def test_a_branch_does_not_see_what_it_predicts():
    torch.manual_seed(0)
    method = SplitMask(
        encoders.create("vit", 16, 4, dim=24, depth=2, heads=3), Known(torch.zeros(2, 16).long(), 9)
    ).eval()
    images, mask = torch.rand(2, 3, 16, 16), cut(torch.rand(2, 16), 8)
    changed = images + mask.view(2, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    before, after = method.predict(images, mask), method.predict(changed, mask)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


def test_at_75_percent_both_branches_see_different_quarters():
    torch.manual_seed(0)
    encoder = encoders.create("vit", 32, 4, dim=24, depth=1, heads=3)
    mask, noise = cut(torch.rand(5, 64), 48), torch.rand(5, 64)
    tokenizer = Known(torch.randint(0, 9, (5, 64)), 9)
    hidden_b, visible = SplitMask(encoder, tokenizer).other(mask, noise, 16)
    assert visible == 16 and (hidden_b.sum(dim=1) == 48).all()
    assert not (~hidden_b & ~mask).any()
    rest, visible = SplitMask(encoder, tokenizer, second="rest").other(mask, noise, 16)
    assert visible == 48 and torch.equal(rest, ~mask)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({}, {"loss_inpaint", "loss_match"}),
        ({"match": False}, {"loss_inpaint"}),
        ({"inpaint": False}, {"loss_match"}),
        ({"split": False, "match": False}, {"loss_inpaint"}),
    ],
)
def test_rows_of_table_8(options, parts):
    """Each step can be switched off, and every weight that is left gets a gradient."""
    torch.manual_seed(0)
    encoder = encoders.create("vit", 16, 4, dim=24, depth=1, heads=3)
    method = SplitMask(encoder, Known(torch.randint(0, 9, (4, 16)), 9), **options)
    output = method(Batch(torch.rand(4, 3, 16, 16)), cut(torch.rand(4, 16), 8), Progress())
    assert {name for name in output.logs if name in ("loss_inpaint", "loss_match")} == parts
    assert method.couples_images == ("loss_match" in parts)
    output.loss.backward()
    assert [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None] == []


def test_without_split_it_is_beit():
    from mimlab.methods.beit import BEiT

    torch.manual_seed(0)
    tokenizer = Known(torch.randint(0, 9, (4, 16)), 9)
    ours = SplitMask(encoders.create("vit", 16, 4, dim=24, depth=1, heads=3), tokenizer, split=False, match=False)
    beit = BEiT(encoders.create("vit", 16, 4, dim=24, depth=1, heads=3), tokenizer)
    state = {name.replace("fill", "mask_token"): value for name, value in ours.state_dict().items()}
    state["mask_token"] = state["mask_token"].view(1, 1, -1)
    beit.load_state_dict(state)
    batch, mask = Batch(torch.rand(4, 3, 16, 16), visible=8), cut(torch.rand(4, 16), 8)
    assert_close(ours(batch, mask, Progress()).loss, beit(batch, mask, Progress()).loss.detach(), 1e-6, 0)


def test_losses_at_the_start_are_those_of_guessing():
    torch.manual_seed(0)
    encoder = encoders.create("vit", 32, 4, dim=48, depth=2, heads=3)
    method = SplitMask(encoder, Tokenizer(256, 4))
    method.tokenizer.fit(torch.rand(1000, 48), torch.Generator().manual_seed(0))
    output = method(Batch(torch.rand(32, 3, 32, 32)), cut(torch.rand(32, 64), 32), Progress())
    assert float(output.logs["loss_inpaint"]) == pytest.approx(math.log(256), rel=0.05)
    assert float(output.logs["loss_match"]) == pytest.approx(math.log(32), rel=0.1)
    assert float(output.logs["match_chance"]) == pytest.approx(1 / 32)
    assert float(output.logs["token_uniform"]) == pytest.approx(1 / 256)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"inpaint": False, "match": False}, "Table 8"),
        ({"split": False}, "Table 8"),
        ({"negatives": "all"}, "other, both"),
        ({"second": "third"}, "equal, rest"),
        ({"temperature": 0.0}, "temperature = 0.0 is not a number from 0.001"),
    ],
)
def test_refuses_what_cannot_work(options, said):
    encoder = encoders.create("vit", 16, 4, dim=24, depth=1, heads=3)
    with pytest.raises(Refused, match=said):
        SplitMask(encoder, Known(torch.zeros(1, 16), 9), **options)


def test_refuses_an_encoder_that_cannot_drop():
    with pytest.raises(Refused, match="vit family"):
        SplitMask(encoders.create("beit", 16, 4, dim=24, depth=1, heads=3), Known(torch.zeros(1, 16), 9))


@pytest.mark.parametrize(("dim", "heads"), [(16, 2), (40, None), (24, 4)])
@pytest.mark.parametrize("parts", [{}, {"match": False}, {"inpaint": False}])
def test_the_decoder_has_a_width_of_its_own(dim, heads, parts):
    """What is matched and what is predicted from are as wide as the decoder."""
    torch.manual_seed(0)
    encoder = encoders.create("vit", 16, 4, dim=24, depth=1, heads=4)
    method = SplitMask(encoder, Tokenizer(16, 4), decoder_dim=dim, decoder_heads=heads, **parts)
    images, mask = torch.rand(3, 3, 16, 16), cut(torch.rand(3, 16), 8)
    assert method.decode(images, mask, 8).shape == (3, 16, dim)
    assert method.decoder.blocks[0].attn.num_heads == (heads or encoder.heads)
    output = method(Batch(images, visible=8), mask, Progress())
    output.loss.backward()
    assert output.prediction.shape == (3 * 16, dim) and torch.isfinite(output.loss)
    assert method.decoder.embed.weight.shape == (dim, 24) and method.decoder.embed.weight.grad.abs().sum() > 0
    if not parts.get("inpaint", True):
        assert method.predicts == ""
    else:
        assert method.predict(images, mask)[0].shape == (3, 16, 16)


def test_the_decoders_width_is_refused_where_it_cannot_be():
    encoder = encoders.create("vit", 16, 4, dim=24, depth=1, heads=4)
    with pytest.raises(Refused, match="decoder_dim = 30 .* decoder_heads = 4; heads could be: 1, 2, 3, 5"):
        SplitMask(encoder, Tokenizer(16, 4), decoder_dim=30)
    with pytest.raises(Refused, match="split = False"):
        SplitMask(encoder, Tokenizer(16, 4), split=False, match=False, decoder_dim=24)
