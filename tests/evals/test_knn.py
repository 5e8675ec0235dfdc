"""Weighted k-NN against DINO's own numbers, and around an encoder."""

import re
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from oracle_cases import assert_close, cases, load

from mimlab.errors import Refused
from mimlab.evals import knn


@pytest.mark.parametrize("case", cases("dino_knn"))
def test_votes_and_accuracies_are_dinos(case):
    _, stored, config = load(case)
    stored = {key: torch.as_tensor(value) for key, value in stored.items()}
    features = stored["train_features"], stored["train_labels"], stored["test_features"]
    compared = 0
    for key, want in config["top1_top5_percent"].items():
        k, temperature = re.fullmatch(r"k(\d+)_T([\d.]+)", key).groups()
        votes = knn.votes(*features, k=int(k), temperature=float(temperature), classes=config["num_classes"])
        got = knn.accuracy(votes, stored["test_labels"])
        assert [got["top1"], got["top5"]] == pytest.approx(want, abs=1e-9), key
    for key in stored:
        if key.startswith("votes_k"):
            k = int(key.removeprefix("votes_k"))
            votes = knn.votes(*features, k=k, temperature=0.07, classes=config["num_classes"], chunk=64)
            assert_close(votes, stored[key], 1e-4, 1e-6, key)
            assert torch.equal(votes.argmax(1), stored[f"predictions_k{k}"])
            compared += 1
    assert compared


def clouds(n, classes=4, seed=0):
    """Labels and, around one direction per class, features of any length."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    middle = torch.eye(classes, 8)[labels]
    features = middle + 0.1 * torch.randn(n, 8, generator=generator)
    return features * torch.rand(n, 1, generator=generator).add(0.1) * 50, labels


def test_length_does_not_matter_and_few_rows_work():
    (train, labels), (test, truth) = clouds(40), clouds(3, seed=1)
    votes = knn.votes(train, labels, test, k=5, classes=4)
    assert_close(knn.votes(train * 7, labels, test / 3, k=5, classes=4), votes, 1e-4, 1e-4)
    assert votes.shape == (3, 4) and knn.accuracy(votes, truth) == {"top1": 100.0, "top5": 100.0}


def test_one_vote_by_hand():
    train, labels = torch.tensor([[2.0, 0.0], [0.0, 5.0], [3.0, 4.0]]), torch.tensor([0, 1, 1])
    votes = knn.votes(train, labels, torch.tensor([[1.0, 0.0]]), k=2, temperature=0.5, classes=3)
    assert_close(votes, [[np.exp(1 / 0.5), np.exp(0.6 / 0.5), 0.0]], 1e-6, 0)


@pytest.mark.parametrize(
    ("given", "says"),
    [({"k": 41}, "k = 41 is more than the 40"), ({"k": 0}, "k = 0"), ({"temperature": 0.0}, "temperature = 0.0")],
)
def test_impossible_settings_are_refused(given, says):
    (train, labels), (test, _) = clouds(40), clouds(3)
    with pytest.raises(Refused, match=says):
        knn.votes(train, labels, test, classes=4, **given)


def test_many_keys_are_searched_fast_in_bounded_memory():
    generator = torch.Generator().manual_seed(0)
    keys, queries = torch.randn(60_000, 192, generator=generator), torch.randn(500, 192, generator=generator)
    plain, largest = torch.Tensor.topk, []
    began = time.process_time()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "topk", lambda x, *a, **k: largest.append(x.nbytes) or plain(x, *a, **k))
        knn.votes(keys, torch.arange(60_000) % 10, queries, classes=10)
    assert time.process_time() - began < 2 * 40 * 500 / 10_000  # of 20 s on two cores for 10,000 queries, twice
    assert max(largest) <= knn.ROOM and len(largest) > 1


@pytest.mark.slow
def test_ten_thousand_queries_against_sixty_thousand_keys():
    """20 s of processor time, and no more memory than the features, a normalised copy and `ROOM` some times over."""
    code = """
import resource, time
import torch
from mimlab.evals import knn
knn.votes(torch.randn(100, 192), torch.arange(100) % 10, torch.randn(10, 192), classes=10)
keys, queries = torch.randn(60_000, 192), torch.randn(10_000, 192)
before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
knn.votes(keys, torch.arange(60_000) % 10, queries, classes=10)
print(time.process_time() - began, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    seconds, megabytes = map(float, said.split())
    assert seconds < 20 and megabytes < 400  # all similarities at once would be 2,289 MB


def test_features_that_are_not_finite_are_refused():
    train, labels = clouds(40)
    with pytest.raises(Refused, match="not finite"):
        knn.votes(train, labels, train * float("nan"), k=5, classes=4)


def test_accuracy_counts_the_first_and_the_first_five():
    votes = torch.tensor([[6.0, 5, 4, 3, 2, 1], [6.0, 5, 4, 3, 2, 1], [6.0, 5, 4, 3, 2, 1]])
    assert knn.accuracy(votes, torch.tensor([0, 4, 5])) == pytest.approx({"top1": 100 / 3, "top5": 200 / 3})


class Encoder(torch.nn.Module):
    """The mean colour, scaled by a parameter; noise in training mode, so that a forgotten eval() shows."""

    grid, patch = (2, 2), 4

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def features(self, images, pool="mean"):
        assert images.dtype == torch.float32 and images.max() <= 1 and not torch.is_grad_enabled()
        mean = images.mean((2, 3)) * self.scale
        return torch.rand_like(mean) if self.training else mean


class Colours:
    """Red, green and blue images."""

    name, split, classes = "colours", "test", ["red", "green", "blue"]

    def __init__(self, n, labelled=True, classes=None):
        self.labels = np.arange(n) % 3 if labelled else None
        self.classes = classes or self.classes
        self.pixels = (torch.rand(n, 3, 8, 8) * 60).byte()
        self.pixels[torch.arange(n), torch.arange(n) % 3] += 150

    def __len__(self):
        return len(self.pixels)

    def require_labels(self):
        if self.labels is None:
            raise Refused("colours has no labels")

    def batches(self, batch):
        for start in range(0, len(self), batch):
            labels = torch.as_tensor(self.labels[start : start + batch])
            yield self.pixels[start : start + batch], labels


@pytest.mark.parametrize("training", [True, False])
def test_evaluate_an_encoder_and_leave_it_as_it_was(training):
    encoder = Encoder().train(training)
    result = knn.evaluate(encoder, Colours(60), Colours(31), k=7, batch=16)
    assert result.pop("hits").tolist() == [True] * 31
    assert result == {
        "metric": "top1", "top1": 100.0, "top5": 100.0, "k": 7, "temperature": 0.07, "pool": "mean", "frozen": True,
        "protocol": "knn k=7 T=0.07 pool=mean", "train_images": 60, "test_images": 31, "chance": pytest.approx(100 / 3),
        "majority": pytest.approx(100 * 11 / 31), "balanced": 100.0,
    }  # fmt: skip
    assert encoder.training is training
    assert encoder.scale.requires_grad


def test_evaluate_refuses_before_it_computes():
    encoder = SimpleNamespace()  # has nothing: any use would fail
    with pytest.raises(Refused, match="no labels"):
        knn.evaluate(encoder, Colours(60), Colours(9, labelled=False))
    with pytest.raises(Refused, match="k = 100 is more than the 60"):
        knn.evaluate(encoder, Colours(60), Colours(9), k=100)
    with pytest.raises(Refused, match="different classes"):
        knn.evaluate(encoder, Colours(60), Colours(9, classes=["a", "b", "c"]))


class Split(Encoder):
    """A class token that tells the colour, and patches that tell nothing."""

    def features(self, images, pool="mean"):
        mean = images.mean((2, 3))
        return mean if pool == "cls" else torch.ones_like(mean)


def test_the_features_are_those_asked_for():
    assert knn.evaluate(Split(), Colours(60), Colours(30), k=5, pool="cls")["top1"] == 100
    assert knn.evaluate(Split(), Colours(60), Colours(30), k=5)["top1"] < 50
