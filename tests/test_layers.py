"""Position tables and schedules against the official code; groups, patches, decoder."""

from functools import partial

import numpy as np
import pytest
import torch
from oracle_cases import assert_close, cases, load

from mimlab import encoders
from mimlab.errors import Refused
from mimlab.layers import (
    Normalise,
    check_images,
    decay_groups,
    exact,
    patchify,
    resize_positions,
    schedule,
    sincos_2d,
    tf32,
    token_logs,
    unpatchify,
)


@pytest.mark.parametrize("name", cases("mae_pos_embed"))
def test_position_tables_are_the_official_ones(name):
    _, arrays, about = load(name)
    grid, new = (about["grid"],) * 2, (about["new_grid"],) * 2
    assert_close(sincos_2d(about["dim"], grid, cls=True), arrays["sincos_cls"], 0, 1e-6)
    assert_close(sincos_2d(about["dim"], grid), arrays["sincos_nocls"], 0, 1e-6)
    other = about["other"]
    assert_close(sincos_2d(other["dim"], (other["grid"],) * 2, cls=True), arrays["sincos_other"], 0, 1e-6)
    resized = resize_positions(torch.as_tensor(arrays["learned"]), grid, new)
    assert_close(resized, arrays["learned_interpolated"], 1e-4, 1e-5)


@pytest.mark.parametrize("name", cases("mae_pretrain"))
def test_the_models_tables_are_the_official_ones(name):
    _, arrays, about = load(name)
    config = about["config"]
    side = config["img_size"] // config["patch_size"]
    assert_close(sincos_2d(config["embed_dim"], (side, side), cls=True)[None], arrays["pos_embed"], 0, 1e-6)
    table = sincos_2d(config["decoder_embed_dim"], (side, side), cls=True)[None]
    assert_close(table, arrays["decoder_pos_embed"], 0, 1e-6)


def test_positions_of_a_grid_that_is_not_square():
    """Column half first: rows of one column share their first half, patches of one row their second."""
    table = sincos_2d(8, (2, 3)).view(2, 3, 8)
    assert torch.equal(table[0, 1, :4], table[1, 1, :4]) and torch.equal(table[1, 0, 4:], table[1, 2, 4:])
    assert float(table[0, 2, 0]) == pytest.approx(np.sin(2.0))


@pytest.mark.parametrize("name", cases("schedules_layer_decay"))
def test_learning_rates_are_the_official_ones(name):
    _, arrays, about = load(name)
    p = about["parameters"]
    steps, warmup = p["epochs"] * p["it"], p["warmup_epochs"] * p["it"]
    mae = [schedule(i, steps, warmup, p["lr"], end=p["min_lr"]) for i in range(steps)]
    assert_close(mae, arrays["mae_lr"], 1e-9, 0)
    start, final = p["beit_warmup_start"], p["beit_final"]
    for key, warm in (("beit_lr", warmup), ("beit_lr_warmup_steps", p["beit_warmup_steps"])):
        got = [schedule(i, steps, warm, p["lr"], start=start, end=final, shape="table") for i in range(steps)]
        assert_close(got, arrays[key], 1e-9, 0)


@pytest.mark.parametrize("name", cases("schedules_layer_decay"))
def test_pretraining_decays_what_beit_decays(name):
    about = load(name)[2]
    from mimlab.checkpoints.beit import ours
    from mimlab.methods.beit import RECIPE, BEiT
    from mimlab.tokenizers.random_projection import Tokenizer

    encoder = encoders.create("beit", 16, 4, dim=24, depth=about["depth"], heads=3)
    method = BEiT(encoder, Tokenizer(16, 4))
    groups = decay_groups(method, 0.05, tuple(RECIPE["paper"]["no_decay"].split(",")))
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    own = {name: decay[id(p)] for name, p in method.named_parameters()}
    compared = {name: want for name, want in about["beit_pretrain_weight_decay"].items() if ours(name) in own}
    assert len(compared) > 10 * about["depth"]
    assert {name: own[ours(name)] for name in compared} == compared


def test_mae_decays_its_tokens():
    from mimlab.methods.mae import MAE, RECIPE

    method = MAE(
        encoders.create("vit", 16, 4, dim=16, depth=1, heads=2, positions="sincos"),
        decoder_dim=8, decoder_depth=1, decoder_heads=2,
    )  # fmt: skip
    groups = decay_groups(method, 0.05, tuple(n for n in RECIPE["paper"]["no_decay"].split(",") if n))
    decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert id(method.encoder.trunk.cls_token) in decayed and id(method.decoder.mask_token) in decayed
    assert id(method.head.bias) not in decayed and id(method.decoder.norm.weight) not in decayed
    trained = sum(len(group["params"]) for group in groups)
    assert trained == sum(p.requires_grad for p in method.parameters())  # fixed positions are in no group


def test_schedule_ends():
    assert schedule(0, 10, 0, 1.0) == 1.0
    assert schedule(9, 10, 0, 1.0, end=0.2) > 0.2
    assert [schedule(i, 10, 4, 1.0) for i in range(4)] == [0, 0.25, 0.5, 0.75]
    assert [schedule(i, 10, 4, 1.0, shape="table") for i in (3, 4)] == [1.0, 1.0]
    steps = [schedule(i, 800, 10, 1.0, end=0.1, shape="step") for i in range(800)]  # SimMIM: x 0.1 at 700 of 800
    assert steps[:3] == [0, 0.1, 0.2] and set(steps[10:700]) == {1.0} and set(steps[700:]) == {0.1}


@pytest.mark.parametrize("last", [False, True])
def test_patchify_and_back(last):
    images = torch.rand(2, 3, 8, 12)
    patches = patchify(images, 4, channels_last=last)
    assert patches.shape == (2, 6, 48)
    assert torch.equal(unpatchify(patches, (2, 3), 4, channels_last=last), images)
    block = images[1, :, 4:8, 8:12]
    assert torch.equal(patches[1, 5], (block.permute(1, 2, 0) if last else block).reshape(-1))


def test_normalise_and_back():
    images = torch.rand(2, 3, 4, 4)
    for name in ("imagenet", "half", "none"):
        assert torch.allclose(Normalise(name).back(Normalise(name)(images)), images, atol=1e-6)
    assert torch.allclose(Normalise("half")(torch.ones(1, 3, 1, 1)), torch.ones(1))


def test_token_logs_by_hand():
    logs = token_logs(torch.tensor([[0, 0, 1, 3]]), torch.tensor(0.5), 4)
    assert float(logs["token_accuracy"]) == 0.5 and float(logs["token_majority"]) == 0.5
    assert float(logs["tokens_used"]) == 3 and float(logs["token_uniform"]) == 0.25
    assert float(logs["token_entropy_bits"]) == pytest.approx(1.5)


def test_exact_switches_tf32_off_on_a_gpu_alone_and_puts_it_back():
    def switches():
        return [getattr(part, name) for part, name, _ in tf32()]

    before = switches()
    with exact(torch.device("cuda")):
        assert switches() == [full for *_, full in tf32()]
    with exact(torch.device("cpu")), torch.autocast("cpu", torch.bfloat16):
        assert switches() == before
        with exact(torch.device("cpu")):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert switches() == before


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet10t", "xcit_nano_12_p16_224"])
def test_a_model_without_memory_has_the_shapes_of_the_real_one_and_draws_no_number(name):
    import timm

    from mimlab.layers import weightless

    before = torch.random.get_rng_state()
    with weightless():
        sketch = timm.create_model(name)
    assert torch.equal(torch.random.get_rng_state(), before)
    real = timm.create_model(name).state_dict()
    assert {key: value.shape for key, value in sketch.state_dict().items()} == {k: v.shape for k, v in real.items()}
    assert all(value.is_meta for value in sketch.parameters())
    assert torch.empty(2, device="meta").shape == torch.zeros(2).normal_().shape  # outside, tensors are filled again
    assert torch.zeros(3).fill_(2.0).tolist() == [2.0] * 3


WRONG = {
    "uint8": (lambda x: (x * 255).byte(), "images are uint8; they should be float in"),
    "int64": (lambda x: (x * 255).long(), "images are int64"),
    "0 to 255": (lambda x: x * 255, "images reach from .* to 2[0-9.]+; they should be in"),
    "normalised": (lambda x: (x - 0.45) / 0.22, "images reach from -2.* images \\* deviation \\+ mean"),
    "-1 to 1": (lambda x: 2 * x - 1, "images reach from -"),
    "nan": (lambda x: x.index_fill(3, torch.tensor([0]), float("nan")), "images reach from nan"),
}


def borders():
    """Whatever takes images of a user's: name -> function of images (2, 3, 32, 32)."""
    from mimlab import masks
    from mimlab.find import find
    from mimlab.methods.mae import MAE

    mask = torch.arange(16).expand(2, 16) < 8
    vit = encoders.create("vit", 32, 8, dim=16, depth=2, heads=2).eval()
    mae = MAE(vit, None, decoder_dim=16, decoder_depth=1, decoder_heads=2).eval()
    found = {
        "forward": vit,
        "features": vit.features,
        "masked": lambda x: vit(x, mask),
        "attention": lambda x: vit.attention(x, [1]),
        "maps": lambda x: vit.maps(x, [0]),
        "reconstruct": lambda x: mae.reconstruct(x, mask),
        "judge": lambda x: mae.judge(x, mask),
        "xcit": encoders.create("xcit", 32, 8, dim=128, depth=1, heads=4).eval().class_attention,
        "resnet": encoders.create("resnet10t", 32, 32).eval().features,
        "mask": lambda x: masks.sample("superpixel", 2, (4, 4), 0.5, torch.Generator().manual_seed(0), images=x),
    }
    for name in ("kmeans", "random_projection"):
        found[name] = partial(find("tokenizers", name).Tokenizer(16, 8), grid=(4, 4))
    return found


@pytest.mark.parametrize("kind", ["uint8", "int64"])
def test_images_that_are_not_float_are_refused_at_every_border(kind):
    change, said = WRONG[kind]
    right = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for take in borders().values():
        take(right)
        with pytest.raises(Refused, match=said):
            take(change(right))


@pytest.mark.parametrize("kind", WRONG)
def test_values_outside_of_0_to_1_are_refused_where_they_are_looked_at(kind):
    change, said = WRONG[kind]
    right = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    right[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
    for take in (partial(check_images, look=True), borders()["mask"]):
        take(right)
        with pytest.raises(Refused, match=said):
            take(change(right))
