"""What every evaluation keeps to; and `evaluate`, which runs one beside a fresh encoder."""

import json

import numpy as np
import pytest
import torch

import mimlab
from mimlab import data, kinds
from mimlab.data.cache import Stored
from mimlab.errors import Refused
from mimlab.evals import side_by_side
from mimlab.find import find, kinds_of, names, options

TINY = {
    "method": "mae",
    "method_args": {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2},
    "encoder_args": {"dim": 24, "depth": 1, "heads": 2},
    "fraction": 0.016,
    "patch_size": 7,
    "epochs": 1,
    "batch_size": 32,
    "knn_every": 0,
    "device": "cpu",
}
QUICK = {
    "attentive": {"epochs": 1, "lr": 0.1},
    "fewshot": {"draws": 1},
    "finetune": {"epochs": 1, "batch": 16},
    "knn": {"k": 5},
    "linear": {"epochs": 1, "lr": 0.1},
    "retrieval": {},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return mimlab.pretrain(mimlab.Pretrain(out=str(tmp_path_factory.mktemp("runs")), **TINY))


@pytest.mark.parametrize("name", names("evals"))
def test_an_evaluation(name, run):
    module = find("evals", name)
    encoder, train, test = run.encoder(), run.data("train"), run.data("test")
    before = {n: v.clone() for n, v in encoder.state_dict().items()}
    found = module.evaluate(encoder, train, test, **QUICK[name])
    hits = found.pop("hits")
    assert hits.shape == (len(test),) and hits.min() >= 0 and hits.max() <= 1
    assert found[found["metric"]] == pytest.approx(100 * hits.mean()) and found["chance"] == pytest.approx(10)
    assert found["majority"] == pytest.approx(100 * np.bincount(test.labels).max() / len(test))
    if found["metric"] == "top1":
        each = [100 * hits[test.labels == label].mean() for label in np.unique(test.labels)]
        assert found["balanced"] == pytest.approx(np.mean(each))
    assert (found["train_images"], found["test_images"]) == (len(train), len(test))
    assert found["protocol"].startswith(name) and isinstance(found["frozen"], bool)
    assert all(torch.equal(v, before[n]) for n, v in encoder.state_dict().items())
    json.dumps(found)
    assert "device" in options(module.evaluate) and ("cache" in options(module.evaluate)) == found["frozen"]


@pytest.mark.parametrize("name", ["knn", "finetune"])
def test_evaluate_compares_with_a_fresh_encoder_over_seeds(name, run):
    cfg = mimlab.Evaluate(run=str(run.path), evaluation=name, evaluation_args=QUICK[name], seeds=2)
    rows = []
    results = mimlab.evaluate(cfg, report=rows.append)
    assert set(results) == {"after mae", "from scratch" if name == "finetune" else "random features"}
    for found in results.values():
        assert len(found["values"]) == 2
        assert found["value"] == found["top1"] == pytest.approx(sum(found["values"]) / 2)
        assert found["interval"][0] <= found["value"] <= found["interval"][1] and found["duplicates"] == 0
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    written = run.evaluations()[name]
    assert written["results"] == results and written["seeds"] == [0, 1] and written["split"] == "test"
    assert written["protocol"] == results["after mae"]["protocol"]
    each = written["seconds_each"]
    assert set(each) == set(results) and min(each.values()) > 0
    assert sum(each.values()) < written["seconds"] + 0.016  # three numbers, rounded to a hundredth
    assert written["protocol"].endswith("fashion_mnist, 190 labels, 2000 test images")
    assert [json.loads(line) for line in cfg.log().read_text().splitlines()] == rows
    again = mimlab.evaluate(cfg)
    assert again == results  # the same seeds give the same numbers
    assert not list(run.path.glob("evals/*.part"))


def test_protocols_do_not_overwrite_each_other(run):
    one = {"run": str(run.path), "seeds": 1, "baseline": False}
    for args in ({}, {"protocol": "mae"}, {"protocol": "beit"}):
        mimlab.evaluate(mimlab.Evaluate(evaluation="linear", evaluation_args=QUICK["linear"] | args, **one))
    mimlab.evaluate(mimlab.Evaluate(evaluation="knn", evaluation_args={"k": 3}, name="knn-k3", **one))
    mimlab.evaluate(mimlab.Evaluate(evaluation="knn", evaluation_args={"k": 5}, validation=0.2, **one))
    found = run.evaluations()
    names = ["linear", "linear-mae", "linear-beit", "knn-k3", "knn-validation"]
    assert len({found[name]["protocol"] for name in names}) == 5
    assert found["knn-k3"]["results"]["after mae"]["k"] == 3
    held = found["knn-validation"]
    assert held["split"] == "validation" and held["train_images"] + held["test_images"] == 190


def test_an_interrupted_evaluation_goes_on_and_another_begins_anew(run, monkeypatch):
    cfg = mimlab.Evaluate(run=str(run.path), evaluation="knn", evaluation_args={"k": 4}, seeds=2)
    knn, calls = find("evals", "knn"), []
    plain = knn.evaluate

    def failing(encoder, train, test, *, k=20, cache=None, pool="mean", seed=0, device=None):
        calls.append(seed)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return plain(encoder, train, test, k=k, cache=cache, pool=pool)

    monkeypatch.setattr(knn, "evaluate", failing)
    with pytest.raises(KeyboardInterrupt):
        mimlab.evaluate(cfg)
    assert (run.path / "evals" / "knn.part").exists() and len(cfg.log().read_text().splitlines()) == 3
    kept = json.loads((run.path / "evals" / "knn.part").read_text())
    for one in kept["found"].values():
        one["seconds"] = 1000.0
    (run.path / "evals" / "knn.part").write_text(json.dumps(kept))
    results, rows = mimlab.evaluate(cfg, report=(rows := []).append), rows
    assert run.evaluations()["knn"]["seconds"] > 3000  # that of before the interruption counts
    assert len(calls) == 5 and [row["step"] for row in rows] == [1, 2, 3, 4]  # only what was missing
    assert len(cfg.log().read_text().splitlines()) == 4 and not (run.path / "evals" / "knn.part").exists()
    monkeypatch.setattr(knn, "evaluate", plain)
    assert mimlab.evaluate(cfg) == results
    monkeypatch.setattr(knn, "evaluate", failing)
    calls[:] = [0, 0]
    with pytest.raises(KeyboardInterrupt):
        mimlab.evaluate(cfg)
    assert len(calls) == 4
    mimlab.evaluate(cfg.replace(evaluation_args={"k": 3}))  # other settings: nothing is taken over
    assert len(calls) == 8


def test_a_sweep_of_a_probe_encodes_once(run, monkeypatch):
    cfg = mimlab.Evaluate(run=str(run.path), evaluation="knn", evaluation_args={"k": 2}, seeds=1)
    mimlab.evaluate(cfg)
    from mimlab.encoders import Encoder

    monkeypatch.setattr(Encoder, "features", lambda *a: pytest.fail("encoded again"))
    mimlab.evaluate(cfg.replace(evaluation_args={"k": 7}))


@pytest.mark.slow
def test_all_of_them_in_one_table(run):
    quick = QUICK | {"attentive": {"epochs": 1, "lr": 0.1, "batch": 5000}}
    cfg = mimlab.Evaluate(run=str(run.path), evaluation="all", evaluation_args=quick, seeds=1).resolved()
    results = mimlab.evaluate(cfg)
    assert set(results) >= {"knn", "linear", "linear-mae", "linear-beit", "fewshot-1pct", "retrieval", "finetune"}
    assert "batch = 5000" in results["attentive"]["refused"]
    rows, values, chance = side_by_side(results, cfg)
    assert len(rows) == 2 * len(results) - 1 and set(values) == set(chance) and len(values) == len(results) - 1
    assert set(values["linear-mae: top1"]) == {"after mae", "random features"} and "retrieval: map" in values
    one = cfg.replace(evaluation="knn", name="knn")
    assert side_by_side(results["knn"], one)[1] == {"knn: top1": values["knn: top1"]}


def test_images_on_both_sides_are_counted_or_refused(run, monkeypatch, capsys):
    cfg = mimlab.Evaluate(run=str(run.path), evaluation="knn", evaluation_args={"k": 5}, seeds=1, baseline=False)
    train, test = run.data("train"), run.data("test")
    mixed = np.concatenate([test.get(range(30)).numpy(), train.get(range(10)).numpy()])
    labels = np.concatenate([test.labels[:30], train.labels[:10]])
    stored = Stored(mixed, labels, train.classes, [])
    both = data.Images("mixed", "test", 28, stored, np.arange(40), "mixed")
    monkeypatch.setattr(type(run), "data", lambda self, split: both)
    assert mimlab.evaluate(cfg)["after mae"]["duplicates"] == 10
    assert "10 of 40 test images are also training images" in capsys.readouterr().err
    monkeypatch.setattr(type(run), "data", lambda self, split: train)
    with pytest.raises(Refused, match="all 190 images of train are also training images"):
        mimlab.evaluate(cfg)


def test_the_baseline_shares_labels_with_the_run(run, monkeypatch):
    opened = []
    plain = data.open
    monkeypatch.setattr(data, "open", lambda *a, **k: opened.append((a, k)) or plain(*a, **k))
    knn = {"evaluation": "knn", "evaluation_args": {"k": 5}, "seeds": 1}
    mimlab.evaluate(mimlab.Evaluate(run=str(run.path), fraction=0.05, **knn))
    trains = [k for a, k in opened if a[1] == "train"]
    assert len(trains) == 1 and trains[0]["fraction"] == 0.05


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"evaluation": "finetun"}, "no evals called 'finetun' .did you mean 'finetune'"),
        ({"evaluation_args": {"epoch": 1}}, "did you mean 'epochs'"),
        ({"evaluation_args": {"seed": 1}}, "no option 'seed'"),
        ({"evaluation": "knn", "evaluation_args": {"k": 5000}}, "k = 5000"),
        ({"seeds": 0}, "seeds = 0"),
        ({"fraction": 2.0}, "fraction = 2.0"),
        ({"device": "tpu"}, "auto, cpu, cuda, mps"),
        ({"validation": 1.0}, "validation = 1.0"),
        (
            {"validation": 0.001, "evaluation": "knn", "evaluation_args": {"k": 5}},
            "validation = 0.001: no class has images",
        ),
        ({"name": "../knn"}, "no name of a folder"),
        ({"evaluation": "all", "name": "mine"}, "name = 'mine': evaluation = 'all'"),
        ({"evaluation": "all", "evaluation_args": {"epochs": 1}}, "'epochs' is no evaluation with a dict"),
        ({"evaluation": "all", "evaluation_args": {"kn": {}}}, "did you mean 'knn'"),
        ({"evaluation": "linear", "evaluation_args": {"protocol": "moco"}}, "there are: dino, mae, beit"),
    ],
)
def test_refusals(given, said, run):
    with pytest.raises(Refused, match=said):
        mimlab.evaluate(mimlab.Evaluate.read({"run": str(run.path)} | given))


@pytest.mark.parametrize(("name", "lr"), [("linear", 1000.0), ("attentive", 1000.0), ("finetune", 1000.0)])
def test_what_diverged_is_no_number(name, lr, run):
    train, test = run.data("train"), run.data("test")
    with pytest.raises(FloatingPointError, match="smaller lr"):
        find("evals", name).evaluate(run.encoder(), train, test, **(QUICK[name] | {"lr": lr}))


@pytest.mark.parametrize("name", names("evals"))
def test_options_are_checked_whoever_calls(name):
    """Before the encoder or the images are touched: here there are none."""
    module = find("evals", name)
    known = kinds_of(module.evaluate)
    wrong = {option: [float("nan"), float("inf"), -1, "two", [], {}, object()] for option in known}
    asked = 0
    for option, values in wrong.items():
        for value in values if option not in ("seed", "device", "cache") else ():
            if kinds.fits(value, *known[option]):
                continue
            asked += 1
            with pytest.raises(Refused, match=f"^evaluation_args: {option} = "):
                module.evaluate(None, None, None, **{option: value})
    assert asked > 4
