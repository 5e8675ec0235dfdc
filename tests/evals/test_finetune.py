"""Fine-tuning: official classifiers and parameter groups, and that it learns."""

import copy
import random

import numpy as np
import pytest
import torch
from oracle_cases import assert_close, cases, load

from mimlab import encoders
from mimlab.errors import Refused
from mimlab.evals._augment import Views, order, seeded
from mimlab.evals._recipes import RECIPES
from mimlab.evals._views import Centre
from mimlab.evals.finetune import Classifier, evaluate, fit, layer_groups
from mimlab.layers import Normalise


def classifier(config, family):
    size = config["img_size"]
    options = {"dim": config["embed_dim"], "depth": config["depth"], "heads": config["num_heads"], "normalise": "none"}
    if family == "beit":
        bias = "per_block" if config["use_rel_pos_bias"] else "shared" if config["use_shared_rel_pos_bias"] else "none"
        options |= {"bias": bias, "absolute": config["use_abs_pos_emb"], "layer_scale": config["init_values"] or 0.0}
        pool = "mean" if config["use_mean_pooling"] else "cls"
    else:
        pool = "mean" if config["global_pool"] else "cls"
    encoder = encoders.create(family, size if isinstance(size, int) else tuple(size), config["patch_size"], **options)
    return Classifier(encoder, config["num_classes"], pool)


def official(name):
    """Our name of an official one."""
    return name if name.startswith(("head.", "fc_norm.")) else f"encoder.trunk.{name}"


@pytest.mark.parametrize("name", cases("mae_finetune") + cases("beit_finetune"))
def test_classifiers_give_the_official_features_and_logits(name):
    state, arrays, about = load(name)
    model = classifier(about["config"], "beit" if name.startswith("beit") else "vit").eval()
    weights = {official(n): v for n, v in state.items() if not n.endswith("relative_position_index")}
    assert set(weights) == set(model.state_dict())
    model.load_state_dict(weights)
    images = torch.as_tensor(arrays["images"])
    assert_close(model.features(images), arrays["features"], 3e-5, 1e-5)
    assert_close(model(images), arrays["logits"], 3e-5, 1e-5)
    if "last_block_tokens" in arrays:
        assert_close(model.encoder.tokens(images), arrays["last_block_tokens"], 3e-5, 1e-5)


@pytest.mark.parametrize("name", cases("beit_finetune"))
def test_initial_weights_have_the_official_statistics(name):
    about = load(name)[2]
    pooled = {}
    for seed in range(4):
        torch.manual_seed(seed)
        for n, value in classifier(about["config"], "beit").named_parameters():
            pooled.setdefault(n, []).append(value.detach().flatten())
    for n, (mean, std, low, high, number) in about["init_stats"].items():
        values = torch.cat(pooled.pop(official(n)))
        assert len(values) == number, n
        if std == 0:
            assert values.min() == values.max() == pytest.approx(mean), n
        elif number > 1000:
            assert float(values.std()) == pytest.approx(std, rel=0.08), n
        if n == "patch_embed.proj.weight":  # uniform: the bounds are sharp
            assert float(values.abs().max()) == pytest.approx(max(abs(low), abs(high)), rel=0.02)
    assert not pooled


@pytest.mark.parametrize("name", cases("schedules_layer_decay"))
@pytest.mark.parametrize("family", ["mae", "beit"])
def test_layer_decay_and_weight_decay_are_the_official_ones(name, family):
    about = load(name)[2]
    config = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": about["depth"], "num_heads": 3}
    config |= {"num_classes": 5, "global_pool": True, "use_mean_pooling": True, "use_rel_pos_bias": True}
    config |= {"use_shared_rel_pos_bias": False, "use_abs_pos_emb": False, "init_values": 0.1}
    model = classifier(config, "beit" if family == "beit" else "vit")
    own = {
        name: (group["scale"], group["weight_decay"])
        for group in layer_groups(model, about["depth"], 0.05, about["layer_decay"])
        for name in group["names"]
    }
    want = {n: tuple(v) for n, v in about[f"{family}_layer_scale_and_weight_decay"].items()}
    shared = [n for n in want if n in own]
    assert len(shared) == len(own), set(own) - set(want)
    for n in shared:
        assert own[n] == pytest.approx(want[n], rel=1e-9), n


class Dots:
    """Images whose class is the colour of a bright square: red, green, blue or white; enough of `Images` here."""

    name, split, classes = "dots", "train", ("a", "b", "c", "d")

    def __init__(self, count, seed):
        random = np.random.default_rng(seed)
        self.labels = random.integers(0, 4, count)
        self.pixels = random.integers(0, 60, (count, 3, 16, 16), dtype=np.uint8)
        for image, label in zip(self.pixels, self.labels, strict=True):
            row, column = random.integers(0, 12, 2)
            image[label if label < 3 else slice(None), row : row + 4, column : column + 4] = 250

    def __len__(self):
        return len(self.labels)

    def require_labels(self):
        return self.labels

    def get(self, rows):
        return torch.from_numpy(self.pixels[np.asarray(rows)])

    def batches(self, batch):
        for start in range(0, len(self), batch):
            rows = slice(start, start + batch)
            yield torch.from_numpy(self.pixels[rows]), torch.from_numpy(self.labels[rows])


def test_learns_and_leaves_the_encoder_alone():
    torch.manual_seed(0)
    encoder = encoders.create("vit", 16, 4, dim=24, depth=2, heads=3)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    options = {
        "epochs": 20,
        "lr": 4e-2,
        "smoothing": 0.0,
        "batch": 32,
        "mixup": 0.0,
        "cutmix": 0.0,
        "scale": 1.0,
        "drop_path": 0.0,
        "layer_decay": 1.0,
    }
    numpy_state = np.random.get_state()[1].copy()
    found = evaluate(encoder, Dots(320, 0), Dots(60, 1), **options)  # fewer than 100 test images
    assert found["top1"] > 90 and found["top5"] == 100 and found["chance"] == 25
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert (np.random.get_state()[1] == numpy_state).all()


def test_same_seed_same_number_with_mixup():
    torch.manual_seed(0)
    encoder = encoders.create("vit", 16, 4, dim=12, depth=1, heads=2)
    one, two, other = (
        evaluate(encoder, Dots(64, 0), Dots(40, 1), epochs=4, batch=16, lr=0.1, seed=seed)["loss"] for seed in (3, 3, 4)
    )
    assert one == two != other


def test_a_rate_that_diverges_to_a_finite_loss_is_no_number():
    encoder = encoders.create("vit", 16, 8, dim=24, depth=1, heads=2)
    with pytest.raises(FloatingPointError, match=r"smaller lr"):
        evaluate(encoder, Dots(64, 0), Dots(40, 1), epochs=4, batch=16, lr=1000.0, seed=0)


def test_refuses_what_cannot_work():
    encoder = encoders.create("vit", 16, 4, dim=12, depth=1, heads=2, class_token=False)
    with pytest.raises(Refused, match="class token"):
        evaluate(encoder, Dots(64, 0), Dots(10, 1), pool="cls")
    with pytest.raises(Refused, match="batch = 65"):
        evaluate(encoder, Dots(64, 0), Dots(10, 1), batch=65)


QUIET = {"mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0, "drop_path": 0.0, "scale": 1.0, "layer_decay": 1.0}


def test_the_average_of_the_weights_by_hand(encoder, monkeypatch):
    """fit's result with `ema` is the running average of what it is without, step by step."""
    images, told = Dots(32, 0), RECIPES["small"] | QUIET | {"epochs": 1, "batch": 8, "lr": 0.1}
    seen = []
    plain = torch.optim.AdamW.step

    def step(self, *args):
        found = plain(self, *args)
        seen.append([p.detach().clone() for group in self.param_groups for p in group["params"]])
        return found

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    model, _ = fit(encoder, images, 4, told, "mean", 0.9, 0, torch.device("cpu"))
    want = None
    torch.manual_seed(0)
    fresh = Classifier(copy.deepcopy(encoder), 4)
    names = [name for group in layer_groups(fresh, encoder.depth, 0.05, 1.0) for name in group["names"]]
    start = dict(fresh.named_parameters())
    want = [start.get(f"encoder.trunk.{name}", start.get(name)).detach().clone() for name in names]
    for after in seen:
        want = [0.9 * a + 0.1 * b for a, b in zip(want, after, strict=True)]
    got = dict(model.named_parameters())
    assert len(seen) == 4
    for name, value in zip(names, want, strict=True):
        assert_close(got.get(f"encoder.trunk.{name}", got.get(name)), value, 1e-5, 1e-6, name)


def test_repeated_augmentation_shows_each_image_of_an_epoch_thrice():
    turn = order(90, 3, torch.Generator().manual_seed(0))
    counts = torch.bincount(turn, minlength=90)
    assert len(turn) == 90 and set(counts.tolist()) == {0, 3} and (counts == 3).sum() == 30
    assert all(len(set(batch.tolist())) == 10 for batch in turn.split(30))  # the views of an image share a batch
    assert order(91, 3, torch.Generator()).bincount().max() == 3
    assert sorted(order(90, 1, torch.Generator()).tolist()) == list(range(90))


@pytest.mark.parametrize("change", [{"randaugment": "rand-m9-mstd0.5-inc1"}, {"erase": 1.0}, {"jitter": 0.4}])
def test_views_are_images_and_drawn_from_the_generator(change):
    plain = {"scale": 1.0, "randaugment": "", "jitter": 0.0, "erase": 0.0}
    images = Dots(6, 0).get(range(6))

    def made(options, seed):
        generator = torch.Generator().manual_seed(seed)
        with seeded(generator):
            return Views(16, Normalise("imagenet"), **options)(images, generator)

    one, same, other, bare = made(plain | change, 0), made(plain | change, 0), made(plain | change, 1), made(plain, 0)
    assert torch.equal(one, same) and not torch.equal(one, other) and one.shape == (6, 3, 16, 16)
    assert not torch.allclose(one, bare, atol=0.02)
    if "erase" in change:
        assert (
            ((one - bare).abs() > 1e-4).any(dim=1).float().mean((1, 2)).lt(0.6).all()
        )  # a rectangle only, of at most a third
    else:
        assert one.min() >= 0 and one.max() <= 1


def test_erased_pixels_are_normal_noise_for_the_encoder():
    normalise = Normalise("imagenet")
    views = Views(64, normalise, scale=1.0, randaugment="", jitter=0.0, erase=1.0)
    images = torch.full((16, 3, 64, 64), 128, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    with seeded(generator):
        made = normalise(views(images, generator))
    still = normalise(torch.tensor(128 / 255).expand(1, 3, 1, 1))
    noise = made[(made - still).abs() > 1e-3]
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 1) < 0.1


def test_global_random_streams_are_put_back():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    with seeded(torch.Generator().manual_seed(1)):
        one = torch.rand(1).item(), random.random(), np.random.rand()
    with seeded(torch.Generator().manual_seed(1)):
        assert one == (torch.rand(1).item(), random.random(), np.random.rand())
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all()


def test_the_published_tables():
    """Absolute rates as printed, at their batch; what the two kinds of column differ in."""
    absolute = {name: table["lr"] * table["batch"] / 256 for name, table in RECIPES.items()}
    assert absolute["paper_cars"] == absolute["beit"] == pytest.approx(4e-3)
    assert absolute["paper_food"] == pytest.approx(1.4e-4) and absolute["mae"] == pytest.approx(2e-3)
    cars, food = RECIPES["paper_cars"], RECIPES["paper_food"]
    assert {n for n in cars if cars[n] != food[n]} == {"lr", "layer_decay", "warmup_share", "randaugment", "repeats"}
    assert food["warmup_share"] * food["epochs"] == pytest.approx(5) and cars["warmup_share"] * 300 == pytest.approx(60)
    assert len({frozenset(table) for table in RECIPES.values()}) == 1


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_runs_on_few_images(recipe, encoder):
    found = evaluate(encoder, Dots(41, 0), Dots(10, 1), recipe=recipe, epochs=1, ema=0.5)
    assert found["batch"] == (32 if recipe == "small" else 40)  # the training set, evened, where it is smaller
    assert found["protocol"] == f"finetune {recipe} pool=mean ema=0.5 epochs=1" and not found["frozen"]


def test_the_centre_of_a_test_image():
    images = torch.arange(64, dtype=torch.uint8).expand(2, 3, 64, 64) * 4
    assert torch.equal(Centre(64)(images), images / 255)  # no larger than the encoder's: the whole
    assert torch.equal(Centre(56)(images), images[:, :, 4:60, 4:60] / 255)  # 7/8 of the side, as 224 of 256
    assert Centre(64, 0.5)(images).shape == (2, 3, 64, 64)
    assert_close(Centre(32, 0.5)(images), images[:, :, 16:48, 16:48] / 255, 1e-6, 1e-6)
    with pytest.raises(Refused, match="test_crop = 0"):
        Centre(64, 0)


def test_refuses_recipes_and_augmentations_that_there_are_not(encoder):
    with pytest.raises(Refused, match="randaugment = 'rnd-m9'"):
        evaluate(encoder, Dots(64, 0), Dots(10, 1), randaugment="rnd-m9")


def test_every_block_trains_its_own_copy_of_a_shared_table():
    """As the official loader of BEiT (and SimMIM) makes them; features are the same to begin with."""
    torch.manual_seed(0)
    encoder = encoders.create("beit", 16, 4, dim=24, depth=3, heads=3).eval()
    table = encoder.trunk.rel_pos_bias.relative_position_bias_table
    torch.nn.init.normal_(table)
    images = torch.rand(2, 3, 16, 16)
    before, count = encoder(images)[1], sum(p.numel() for p in encoder.parameters())
    encoder.to_fine_tune()
    assert encoder.trunk.rel_pos_bias is None
    assert sum(p.numel() for p in encoder.parameters()) == count + 2 * table.numel()
    assert torch.allclose(encoder(images)[1], before, atol=1e-6)
    groups = layer_groups(Classifier(encoder, 5), 3, 0.05, 0.5)
    scales = {name: (group["scale"], group["weight_decay"]) for group in groups for name in group["names"]}
    for block in range(3):
        assert scales[f"blocks.{block}.attn.relative_position_bias_table"] == (0.5 ** (3 - block), 0.05)
    import timm

    theirs = timm.create_model(**encoder.spec)  # the names are timm's
    theirs.load_state_dict(
        {n: v for n, v in encoder.trunk.state_dict().items()}
        | {"norm.weight": torch.ones(24), "norm.bias": torch.zeros(24)}
    )


def test_fixed_positions_of_a_vit_are_trained_in_layer_0():
    """As MAE's models_vit.py; CAE's stay as they are."""
    encoder = encoders.create("vit", 16, 4, dim=24, depth=2, heads=3, positions="sincos")
    assert not encoder.trunk.pos_embed.requires_grad
    encoder.to_fine_tune()
    groups = layer_groups(Classifier(encoder, 5), 2, 0.05, 0.5)
    (group,) = [group for group in groups if "pos_embed" in group["names"]]
    assert (group["scale"], group["weight_decay"]) == (0.5**3, 0.0)
    cae = encoders.create("beit", 16, 4, dim=24, depth=2, heads=3, bias="none", absolute="sincos")
    cae.to_fine_tune()
    assert not cae.trunk.pos_embed.requires_grad


def test_randaugment_is_bicubic():
    from PIL import Image

    change = Views(32, Normalise("none"), scale=0.5, randaugment="rand-m9-mstd0.5", jitter=0.0, erase=0.0).change
    assert {op.aug_fn.__name__: op.kwargs.get("resample") for op in change.ops}["shear_x"] == Image.Resampling.BICUBIC
