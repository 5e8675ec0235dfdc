"""The supervised baseline: its loss by hand, what it logs, and where it needs labels."""

import math

import pytest
import torch
from PIL import Image

import mimlab
from mimlab import encoders
from mimlab.errors import Refused
from mimlab.methods import Batch, Progress
from mimlab.methods.supervised import RECIPE, Supervised

SIZES = {"dim": 24, "depth": 2, "heads": 3}
TINY = {
    "method": "supervised",
    "encoder_args": SIZES,
    "patch_size": 7,
    "fraction": 0.016,
    "batch_size": 32,
    "knn_every": 0,
    "log_every": 1,
    "device": "cpu",
}


def build(name="vit", classes=3, **options):
    torch.manual_seed(0)
    encoder = encoders.create(name, 16, 8, **SIZES)
    return Supervised(encoder, classes=classes, **options)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return Batch(torch.rand(5, 3, 16, 16), labels=torch.tensor([2, 0, 2, 1, 2]))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_loss_by_hand(batch, smoothing):
    method = build(label_smoothing=smoothing)
    output = method(batch, None, Progress())
    weight, bias = method.head.weight.detach(), method.head.bias.detach()
    pooled = method.encoder(batch.images)[1].mean(dim=1).detach()  # patch tokens, after the final norm
    values = []
    for row, label in zip(pooled, batch.labels, strict=True):
        logits = weight @ row + bias
        logs = logits - logits.exp().sum().log()
        values.append(-(1 - smoothing) * logs[label] - smoothing * logs.mean())
    assert output.prediction.shape == (5, 3)
    assert output.loss.item() == pytest.approx(torch.stack(values).mean().item(), rel=1e-5)


def test_pool_chooses_the_mean_or_cls(batch):
    method = build(pool="cls")
    want = method.head(method.encoder(batch.images)[0])
    assert torch.allclose(method(batch, None, Progress()).prediction, want)
    assert not torch.allclose(build()(batch, None, Progress()).prediction, want)


def test_accuracy_stands_beside_what_guessing_reaches(batch):
    method = build()
    logs = method(batch, None, Progress()).logs
    assert float(logs["chance"]) == pytest.approx(1 / 3) and float(logs["majority"]) == pytest.approx(3 / 5)
    with torch.no_grad():  # always says 1, which one of five is
        method.head.weight.zero_()
        method.head.bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    assert float(method(batch, None, Progress()).logs["accuracy"]) == pytest.approx(1 / 5)


@pytest.mark.parametrize("pool", ["mean", "cls"])
@pytest.mark.parametrize("name", ["vit", "beit", "xcit"])
def test_every_trained_weight_moves(name, pool, batch):
    """XCiT's class-attention layers see no patch's loss: they learn with CLS, and are frozen without."""
    method = build(name, pool=pool)
    method(batch, None, Progress()).loss.backward()
    still = [n for n, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert still == []
    frozen = {n for n, p in method.named_parameters() if not p.requires_grad}
    assert any("cls_token" in n for n in frozen) == (name == "xcit" and pool == "mean")


def test_the_recipe_is_deits():
    """Table 9: 5e-4 for 512 images, which is what 1,024 of them get twice."""
    cfg = mimlab.Pretrain(method="supervised", epochs=None, batch_size=1024).resolved()
    assert cfg.lr * cfg.batch_size / 256 == pytest.approx(5e-4 * 1024 / 512)
    assert cfg.min_lr * cfg.batch_size / 256 == pytest.approx(1e-5)
    assert (cfg.epochs, cfg.warmup_epochs, cfg.weight_decay, cfg.drop_path, cfg.clip) == (300, 5, 0.05, 0.1, 0.0)
    assert (cfg.mask, cfg.tokenizer) == ("none", "none")
    assert cfg.method_args == RECIPE["paper"]["method_args"] == {"pool": "mean", "label_smoothing": 0.1}


def test_nothing_is_filled_in_or_judged(batch):
    method = build()
    assert method.reconstruct(batch.images, None) is None and method.judge(batch.images, None) is None
    assert method.deployed is method.encoder and not method.masked


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokenizer": "kmeans"}, "tokenizer: supervised predicts labels and takes none; use tokenizer = none"),
        ({"mask": "random"}, "mask = 'random': supervised sees whole images; use mask = none"),
        ({"method_args": {"pool": "max"}}, "pool = 'max'.*there are: mean, cls"),
        ({"method_args": {"label_smoothing": 1.5}}, "label_smoothing = 1.5 is not a number from 0.0 to 1.0"),
        ({"method_args": {"classes": 10}}, "no option 'classes'.*there are: pool, label_smoothing"),
        (
            {"method_args": {"pool": "cls"}, "encoder_args": SIZES | {"class_token": False}},
            "pool = 'cls', but this encoder has no class token; use pool = 'mean'",
        ),
    ],
)
def test_refuses_what_cannot_work(changes, said):
    with pytest.raises(Refused, match=said):
        mimlab.Pretrain(**(TINY | changes)).resolved()


def losses(run, key="loss"):
    return [row[key] for row in run.metrics() if key in row]


@pytest.mark.parametrize(("pool", "precision"), [pytest.param("mean", "no", marks=pytest.mark.slow), ("cls", "bf16")])
def test_learns_the_labels_of_one_batch(pool, precision, tmp_path):
    """32 images, without augmentation: all are told apart, as far as smoothed labels let the loss fall."""
    args = {"pool": pool, "label_smoothing": 0.1}
    changes = {"fraction": 0.003, "epochs": 150, "lr": 3e-2, "drop_path": 0.0, "warmup_epochs": 5, "log_every": 10}
    changes |= {"augment": {"scale": None, "flip": 0.0}, "precision": precision, "out": str(tmp_path)}
    changes |= {"encoder_args": {"dim": 48, "depth": 1, "heads": 3}}
    run = mimlab.pretrain(mimlab.Pretrain(**(TINY | changes | {"method_args": args})))
    floor = -0.91 * math.log(0.91) - 9 * 0.01 * math.log(0.01)  # the target's own entropy, with ten classes
    found = losses(run)
    assert found[0] > 0.9 * math.log(10) and floor < found[-1] < floor + 0.2, found
    assert losses(run, "accuracy")[-1] == 1.0 and losses(run, "chance")[-1] == pytest.approx(0.1)
    assert 1 / 10 <= losses(run, "majority")[-1] < 0.5


def test_a_run_knows_its_classes_and_goes_on_to_the_bit(tmp_path):
    whole = mimlab.pretrain(mimlab.Pretrain(**TINY, epochs=4, out=str(tmp_path / "whole")))
    cfg = mimlab.Pretrain(**TINY, epochs=4, checkpoint_every=1, out=str(tmp_path / "cut"))

    class Stop(Exception):
        pass

    def stop(row):
        if row["step"] == 8:
            raise Stop

    with pytest.raises(Stop):
        mimlab.pretrain(cfg, report=stop)
    run = mimlab.pretrain(cfg)
    assert len(run.config["classes"]) == 10 and run.method().head.weight.shape == (10, 24)
    assert losses(run) == losses(whole) and len(losses(run)) == 20
    one, other = run.method().state_dict(), whole.method().state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    images = run.data("test").get(range(4)).float() / 255
    assert run.encoder().features(images).shape == (4, 24)


def test_data_without_labels_is_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    for k in range(40):
        Image.new("RGB", (30, 30), (k * 6, 255 - k * 6, k)).save(tmp_path / "photos" / f"{k}.png")
    bare = {"data": "folder", "data_args": {"path": str(tmp_path / "photos")}, "fraction": 1.0, "batch_size": 8}
    cfg = mimlab.Pretrain(**(TINY | bare), epochs=1, out=str(tmp_path / "runs"))
    with pytest.raises(Refused, match="labels"):
        mimlab.pretrain(cfg)
    with pytest.raises(Refused, match="supervised needs labels, which this data does not have; use labelled data"):
        build(classes=None)(Batch(torch.rand(2, 3, 16, 16)), None, Progress())
