"""Average precision against scikit-learn's, and by hand."""

import numpy as np
import pytest
import torch

from mimlab.errors import Refused
from mimlab.evals.retrieval import evaluate, precisions


def test_average_precision_is_scikit_learns():
    from sklearn.metrics import average_precision_score

    random = np.random.default_rng(0)
    gallery, queries = random.normal(size=(60, 5)), random.normal(size=(17, 5))
    labels, truth = np.arange(60) % 4, np.arange(17) % 4
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    cosine = unit(queries) @ unit(gallery).T
    want = [average_precision_score(labels == one, row) for one, row in zip(truth, cosine, strict=True)]
    given = [torch.as_tensor(x) for x in (gallery, labels, queries, truth)]
    for chunk in (None, 4):
        average, first = precisions(*given, chunk=chunk)
        np.testing.assert_allclose(average, want, rtol=1e-6)
        order = (-cosine).argsort(axis=1)
        assert first.tolist() == [int((labels[row] == one).argmax()) for row, one in zip(order, truth, strict=True)]


def test_by_hand():
    gallery = torch.tensor([[1.0, 0], [1, 1], [0, 1]])
    average, first = precisions(gallery, torch.tensor([0, 1, 0]), torch.tensor([[2.0, 0.1]]), torch.tensor([0]))
    assert average.item() == pytest.approx((1 + 2 / 3) / 2) and first.item() == 0
    with pytest.raises(Refused, match="class 2 has test images but no training image"):
        precisions(gallery, torch.tensor([0, 1, 0]), gallery, torch.tensor([0, 1, 2]))


def test_of_an_encoder(encoder, squares):
    found = evaluate(encoder, squares(40), squares(12, seed=1))
    assert found["map"] == pytest.approx(100 * found["hits"].mean()) and found["chance"] == pytest.approx(25)
    assert 0 <= found["recall@1"] <= found["recall@5"] <= found["recall@10"] <= 100
    same = squares(40)
    assert evaluate(encoder, same, same)["recall@1"] == 100  # itself comes first
