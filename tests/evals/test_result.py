"""Means over seeds, and how sure they are."""

import numpy as np
import pytest
import torch

from mimlab.evals._result import bounds, ranked, references, summary


def test_students_interval_over_seeds():
    low, high = bounds([60.0, 62.0, 64.0], np.ones(10))[0]
    half = 4.302653 * 2 / 3**0.5  # t of 2 degrees of freedom at 97.5 %
    assert (low, high) == pytest.approx((62 - half, 62 + half), abs=1e-4)
    assert bounds([99.0, 99.9], np.ones(10))[0][1] == 100  # stays a percentage
    assert bounds([60.0, 62.0], np.ones(10))[1] == "seeds"


def test_one_value_is_bootstrapped_over_test_images():
    hits = np.arange(400) < 300
    (low, high), over = bounds([75.0], hits)
    normal = 1.96 * 100 * (0.75 * 0.25 / 400) ** 0.5
    assert (
        over == "test images"
        and low == pytest.approx(75 - normal, abs=0.6)
        and high == pytest.approx(75 + normal, abs=0.6)
    )
    assert bounds([75.0, 75.0], hits) == bounds([75.0], hits)  # seeds that change nothing tell nothing
    assert bounds([100.0], np.ones(5))[0] == [100, 100]


def test_summary_of_seeds():
    one = {"metric": "map", "map": 10.0, "layers": [1.0, 2.0], "layer": "0", "k": 20, "hits": np.ones(3)}
    two = {"metric": "map", "map": 14.0, "layers": [3.0, 2.0], "layer": "1", "k": 20, "hits": np.ones(3)}
    found = summary([one, two])
    assert found["value"] == found["map"] == 12 and found["values"] == [10, 14]
    assert found["spread"] == pytest.approx(8**0.5)
    assert found["layers"] == [2, 2] and found["layer"] == ["0", "1"] and found["k"] == 20
    assert "hits" not in found and summary([one])["spread"] is None


def test_ranked_counts_the_first_and_the_first_five():
    scores = torch.tensor([[6.0, 5, 4, 3, 2, 1]] * 3)
    found = ranked(scores, torch.tensor([0, 4, 5]))
    assert found["hits"].tolist() == [True, False, False]
    assert (found["top1"], found["top5"]) == pytest.approx((100 / 3, 200 / 3))
    assert ranked(torch.zeros(1, 3), torch.tensor([0]))["top1"] == 100  # equal scores: the lower class


def test_a_long_tail_is_told_beside_its_accuracy():
    truth = torch.tensor([0] * 97 + [1, 2, 2])
    scores = torch.zeros(100, 4)
    scores[:, 0] = 1  # always the commonest class
    found = ranked(scores, truth)
    assert (found["top1"], found["majority"]) == (97, 97) and found["balanced"] == pytest.approx(100 / 3)
    assert references(found | {"chance": 25.0}) == {"chance": 25.0, "most frequent class": 97.0}
    assert references({"metric": "map", "chance": 3.0, "majority": 97.0}) == {"chance": 3.0}
