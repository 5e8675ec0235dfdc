"""Linear probes: they separate what is separable, use the features that their papers use, and choose on training labels."""

import time

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mimlab import encoders
from mimlab.errors import Refused
from mimlab.evals import _probe, linear
from mimlab.evals.linear import PROTOCOLS, evaluate, source
from mimlab.looking import probing


def clouds(count, width=8, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    return 3 * torch.eye(classes, width)[labels] + 0.2 * torch.randn(count, width, generator=generator), labels


def probed(protocol, train, labels, test, truth, epochs=20, lr=None, **options):
    table = PROTOCOLS[protocol]
    width = test.shape[1]

    def make():
        return linear.head(width, int(labels.max()) + 1, table["norm"], protocol == "mae", "cpu")

    recipe = {
        "optimiser": table["optimiser"],
        "official": table["official"],
        "epochs": epochs,
        "warmup": 0,
        "batch": None,
    }
    return _probe.probe(make, {"x": [train]}, labels, {"x": test}, truth, lr=lr, seed=0, **(recipe | options))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_separable_features_are_separated(protocol):
    (train, labels), (test, truth) = clouds(200), clouds(80, seed=1)
    found = probed(protocol, train, labels, test, truth)
    assert found["top1"] == 100 and found["hits"].all() and found["lr_chosen"]


def test_features_that_tell_nothing_stay_at_chance_although_a_rate_is_chosen():
    _, labels = clouds(400)
    generator = torch.Generator().manual_seed(2)
    train, test = torch.randn(400, 8, generator=generator), torch.randn(400, 8, generator=generator)
    assert probed("dino", train, labels, test, labels)["top1"] < 33  # 25 is chance, deviation 2.2


def test_the_rate_is_scaled_by_the_batch_and_a_diverged_head_is_not_chosen(monkeypatch):
    seen = []
    plain = _probe.fit
    monkeypatch.setattr(_probe, "fit", lambda *a, **k: seen.append((a[4], k["batch"])) or plain(*a, **k))
    (train, labels), (test, truth) = clouds(200), clouds(80, seed=1)
    probed("dino", train, labels, test, truth, lr=0.5, batch=64)
    assert seen == [([0.5 * 64 / 256], 64)]  # one rate: nothing to choose
    found = probed("dino", train * 1e4, labels, test * 1e4, truth, official=1e-9, batch=64)
    assert [len(rates) for rates, _ in seen[1:]] == [len(_probe.FACTORS), 1]
    assert found["top1"] == 100 and torch.isfinite(torch.tensor(found["lr"]))


@pytest.mark.parametrize("protocol", ["dino", "beit"])
def test_a_rate_that_diverges_to_a_finite_loss_is_no_number(protocol):
    generator = torch.Generator().manual_seed(2)
    (train, labels), (test, truth) = clouds(200), clouds(80, seed=1)
    noise = 20 * torch.randn(200, 8, generator=generator)
    with pytest.raises(FloatingPointError, match="lr = 1000 ended with a training loss of .*, far above"):
        probed(protocol, train + noise, labels, test, truth, lr=1000.0)
    found = probed(protocol, train, labels, test, truth, lr=0.1)
    assert found["loss"] < 1.39 and not found["diverged"]


def test_a_chosen_rate_that_diverges_says_so(capsys):
    generator = torch.Generator().manual_seed(2)
    (train, labels), (test, truth) = clouds(200), clouds(80, seed=1)
    noise = 20 * torch.randn(200, 8, generator=generator)
    found = probed("dino", train + noise, labels, test, truth, official=1000.0)
    assert found["diverged"] == ["x"] and found["lr_chosen"] and found["loss"] > 3
    assert "far above that of one answer for all" in "".join(capsys.readouterr())


def test_dino_reads_normed_class_tokens_and_beit_each_block(encoder):
    images = torch.rand(5, 3, 16, 16)
    said, compute = source(encoder, "dino", False)
    found = compute(encoder, images)["output"]
    assert said == "class tokens of the last 3 blocks" and found.shape == (5, 72)
    assert torch.allclose(found[:, 48:], encoder(images)[0], atol=1e-6)  # the last block's is the encoder's output
    said, compute = source(encoder, "beit", False)
    found = compute(encoder, images)
    assert list(found) == ["0", "1", "2"] and all(value.shape == (5, 48) for value in found.values())
    tokens = encoder.tokens(images)
    assert torch.allclose(found["2"], torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], dim=1), atol=1e-6)  # no norm
    _, compute = source(encoder, "mae", False)
    assert torch.equal(compute(encoder, images)["output"], encoder.features(images, "cls"))
    said, compute = source(encoder, "mae", True)
    assert said == "mean of the patches" and torch.equal(compute(encoder, images)["output"], encoder.features(images))


def test_dino_reads_the_last_block_of_a_wide_encoder_with_its_mean_patch():
    wide = encoders.create("vit", 16, 8, dim=768, depth=1, heads=2).eval()
    images = torch.rand(2, 3, 16, 16)
    said, compute = source(wide, "dino", False)
    cls, patches = wide(images)
    assert said == "class token and mean of the patches, after the final norm"
    assert torch.allclose(compute(wide, images)["output"], torch.cat([cls, patches.mean(1)], dim=1), atol=1e-6)


@pytest.mark.parametrize("name", ["xcit", "resnet18", "vit"])
def test_encoders_without_class_tokens_in_their_blocks(name):
    options = {
        "vit": {"dim": 12, "depth": 2, "heads": 2, "class_token": False},
        "xcit": {"dim": 48, "depth": 2, "heads": 4},
    }
    encoder = encoders.create(name, 32, 8, **options.get(name, {})).eval()
    images = torch.rand(3, 3, 32, 32)
    said, compute = source(encoder, "dino", False)
    assert (
        said == ("class token" if name == "xcit" else "mean of the patches")
        and compute(encoder, images)["output"].shape[0] == 3
    )
    said, compute = source(encoder, "beit", False)
    assert said == "mean of the patches, each block" and len(compute(encoder, images)) == encoder.depth


def test_of_an_encoder_with_stored_crops(encoder, squares, tmp_path):
    train, test = squares(160), squares(40, seed=1)
    found = evaluate(encoder, train, test, protocol="beit", epochs=20, augment=2, cache=tmp_path)
    assert found["top1"] > 50 and found["top1"] == found["layers"][int(found["layer"])]
    assert "augment=2" in found["protocol"] and len(list(tmp_path.iterdir())) == 3  # two views, and the test images
    assert (
        evaluate(encoder, train, test, protocol="beit", epochs=20, augment=2, cache=tmp_path)["layers"]
        == found["layers"]
    )


def test_a_solved_regression_stands_beside_the_recipes_number(encoder, squares):
    found = evaluate(encoder, squares(40), squares(20, seed=1), epochs=1)
    assert 0 <= found["solved"] <= 100 and found["solved_strength"] in probing.STRENGTHS
    assert evaluate(encoder, squares(4), squares(4, seed=1), batch=4, lr=0.1, epochs=1)["solved_strength"] == 1.0


def test_with_few_labels_the_solved_regression_is_scikit_learns_and_above_the_recipe():
    """200 real images of handwritten digits, whose pixels are the features."""
    pixels, digits = load_digits(return_X_y=True)
    pixels, digits = torch.from_numpy(pixels).float() / 16, torch.from_numpy(digits).long()
    train, labels, test, truth = pixels[:200], digits[:200], pixels[-400:], digits[-400:]
    found = linear.solved([train], labels, test, truth, 10, 0)
    scale = StandardScaler().fit(train.numpy())
    theirs = LogisticRegression(C=found["solved_strength"], max_iter=2000).fit(scale.transform(train.numpy()), labels)
    assert found["solved"] == pytest.approx(100 * theirs.score(scale.transform(test.numpy()), truth), abs=0.5)
    assert found["solved"] > probed("dino", train, labels, test, truth, epochs=5, lr=0.001)["top1"]
    shuffled = truth[torch.randperm(400, generator=torch.Generator().manual_seed(0))]  # test images choose nothing
    other = linear.solved([train], labels, test.flip(0), shuffled, 10, 0)
    assert other["solved_strength"] == found["solved_strength"]
    again = linear.solved(
        [train, train], labels, test, truth, 10, 0
    )  # views count as more images, and hold out the same
    assert again["solved"] == pytest.approx(found["solved"], abs=3)


def test_noise_asks_for_a_strong_penalty_and_clear_classes_do_not():
    (train, labels), generator = clouds(200), torch.Generator().manual_seed(0)
    rest, held = torch.arange(160), torch.arange(160, 200)
    noisy = train + 6 * torch.randn(train.shape, generator=generator)
    noisy = torch.cat([noisy, 3 * torch.randn(200, 150, generator=generator)], dim=1)
    right = {}
    for strength in (probing.STRENGTHS[0], probing.chosen(noisy, labels, rest, held, 4), probing.STRENGTHS[-1]):
        logits = probing.linear(noisy[rest], labels[rest], noisy[held], 4, strength=strength)
        right[strength] = logits.argmax(dim=1).eq(labels[held]).sum().item()
    assert max(right.values()) == right[probing.chosen(noisy, labels, rest, held, 4)]


def test_more_images_than_few_are_not_solved(monkeypatch):
    monkeypatch.setattr(linear, "FEW", 100)
    (train, labels), (test, truth) = clouds(101), clouds(10, seed=1)
    assert linear.solved([train], labels, test, truth, 4, 0) == dict.fromkeys(
        ("solved", "solved_balanced", "solved_strength")
    )


def test_what_cannot_work_is_refused(encoder, squares):
    with pytest.raises(Refused, match="epochs = 0"):
        evaluate(encoder, squares(16), squares(4, seed=1), epochs=0)
    with pytest.raises(Refused, match="batch = 17"):
        evaluate(encoder, squares(16), squares(4, seed=1), batch=17)
    with pytest.raises(Refused, match="4 training labels are too few to choose on.*give lr"):
        evaluate(encoder, squares(4), squares(4, seed=1), batch=4)
    assert evaluate(encoder, squares(4), squares(4, seed=1), batch=4, lr=0.1, epochs=1)["train_images"] == 4


def test_ten_thousand_features_take_seconds():
    (train, labels), (test, truth) = clouds(10_000, 192, 10), clouds(100, 192, 10, seed=1)
    began = time.process_time()
    probed("dino", train, labels, test, truth, epochs=5)  # a twentieth of the protocol
    assert time.process_time() - began < 2 * 60 / 20  # 30 s on two cores


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["dino", "mae"])
def test_a_whole_protocol_on_ten_thousand_features_takes_half_a_minute(protocol):
    """As `evaluate` does it, with the choice of the learning rate; processor time, so that a busy machine does not matter."""
    (train, labels), (test, truth) = clouds(10_000, 192, 10), clouds(2_000, 192, 10, seed=1)
    recipe = {"epochs": PROTOCOLS[protocol]["epochs"], "warmup": PROTOCOLS[protocol]["warmup"]}
    began = time.process_time()
    found = probed(protocol, train, labels, test, truth, **recipe)
    assert time.process_time() - began < 30 and found["top1"] == 100
