"""Few labels: which are drawn, and what they are worth."""

import numpy as np
import pytest

from mimlab.errors import Refused
from mimlab.evals.fewshot import evaluate, subset


def test_the_labels_of_a_draw():
    labels = np.repeat(np.arange(4), [100, 100, 50, 30])
    one, other = (subset(labels, "per_class", 7, draw).numpy() for draw in (0, 1))
    assert np.bincount(labels[one]).tolist() == [7] * 4 and set(one) != set(other)
    assert (subset(labels, "per_class", 7, 0).numpy() == one).all()
    assert np.bincount(labels[subset(labels, "10pct", 5, 0)]).tolist() == [10, 10, 5, 3]
    assert np.bincount(labels[subset(labels, "1pct", 5, 0)]).tolist() == [1, 1, 1, 1]  # at least one
    with pytest.raises(Refused, match="shots = 31: a class has only 30 training images; use at most 30"):
        subset(labels, "per_class", 31, 0)


def test_of_an_encoder(encoder, squares):
    train, test = squares(200), squares(60, seed=1)
    found = evaluate(encoder, train, test, protocol="per_class", shots=25, draws=3)
    assert found["labels"] == 100 and len(found["drawn"]) == 3
    assert found["top1"] == pytest.approx(np.mean(found["drawn"])) == pytest.approx(100 * found["hits"].mean())
    assert found["protocol"].startswith("fewshot 25 a class")
    few = evaluate(encoder, train, test, protocol="per_class", shots=1, draws=3)
    assert few["top1"] < found["top1"]
    one, other = (
        evaluate(encoder, train, test, protocol="per_class", shots=1, draws=1, seed=seed)["drawn"] for seed in (0, 1)
    )
    assert one != other
