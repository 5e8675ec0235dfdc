"""What every evaluation keeps to; and `evaluate`, which runs one beside a fresh encoder."""

import json

import pytest
import torch

import mimlab
from mimlab import data
from mimlab.errors import Refused
from mimlab.find import find, names, options

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
QUICK = {"knn": {"k": 5}, "finetune": {"epochs": 1, "batch": 16}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return mimlab.pretrain(mimlab.Pretrain(out=str(tmp_path_factory.mktemp("runs")), **TINY))


@pytest.mark.parametrize("name", names("evals"))
def test_an_evaluation(name, run):
    module = find("evals", name)
    encoder, train, test = run.encoder(), run.data("train"), run.data("test")
    before = {n: v.clone() for n, v in encoder.state_dict().items()}
    found = module.evaluate(encoder, train, test, **QUICK[name])
    assert 0 <= found["top1"] <= found["top5"] <= 100 and found["chance"] == pytest.approx(10)
    assert (found["train_images"], found["test_images"]) == (len(train), len(test))
    assert all(torch.equal(v, before[n]) for n, v in encoder.state_dict().items())
    json.dumps(found)
    assert "device" in options(module.evaluate)


@pytest.mark.parametrize("name", names("evals"))
def test_evaluate_compares_with_a_fresh_encoder_over_seeds(name, run):
    cfg = mimlab.Evaluate(run=str(run.path), evaluation=name, evaluation_args=QUICK[name], seeds=2)
    rows = []
    results = mimlab.evaluate(cfg, report=rows.append)
    assert set(results) == {"after mae", "from scratch"}
    for found in results.values():
        assert len(found["values"]) == 2
        assert found["top1"] == pytest.approx(sum(found["values"]) / 2)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert run.evaluations()[name]["results"] == results
    assert [json.loads(line) for line in cfg.log().read_text().splitlines()] == rows
    again = mimlab.evaluate(cfg)
    assert again == results  # the same seeds give the same numbers


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
    ],
)
def test_refusals(given, said, run):
    with pytest.raises(Refused, match=said):
        mimlab.evaluate(mimlab.Evaluate.read({"run": str(run.path)} | given))
