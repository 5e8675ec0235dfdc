"""Classifiers on frozen features: right where they must be, at chance where there is nothing to know."""

import pytest
import torch

from mimlab.errors import Refused
from mimlab.looking import probing


@pytest.fixture
def blobs():
    """400 rows around four far points, and their labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 4
    return 10 * torch.eye(4)[labels] @ torch.randn(4, 12, generator=generator) + torch.randn(
        400, 12, generator=generator
    ), labels


def test_separable_features_give_all_and_shuffled_labels_chance(blobs):
    rows, labels = blobs
    train, test = slice(0, 200), slice(200, 400)
    found = probing.accuracies([rows[train]], labels[train], [rows[test]], labels[test], 4)
    assert found == {"k-NN": [100.0], "linear": [100.0]}
    shuffled = labels[torch.randperm(400, generator=torch.Generator().manual_seed(1))]
    found = probing.accuracies([rows[train]], shuffled[train], [rows[test]], shuffled[test], 4)
    assert all(abs(values[0] - 25) < 12 for values in found.values()), found


def test_layers_are_judged_apart(blobs):
    rows, labels = blobs
    noise = torch.randn(400, 5, generator=torch.Generator().manual_seed(2))
    layers = [noise, rows]
    found = probing.accuracies([x[:200] for x in layers], labels[:200], [x[200:] for x in layers], labels[200:], 4)
    for first, second in found.values():
        assert first < 45 and second == 100


def test_the_linear_one_is_scikit_learns_logistic_regression():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(150, 6, generator=generator) * torch.tensor([1.0, 100, 0.01, 1, 1, 1])
    labels = (rows[:, 0] + rows[:, 3] + torch.randn(150, generator=generator)).gt(0).long() + rows[:, 4].gt(1).long()
    scaler = StandardScaler().fit(rows[:100])
    model = LogisticRegression(C=1.0, max_iter=1000, tol=1e-8).fit(scaler.transform(rows[:100]), labels[:100])
    expected = torch.from_numpy(model.predict_log_proba(scaler.transform(rows[100:]))).float()
    found = probing.linear(rows[:100], labels[:100], rows[100:], 3).log_softmax(dim=1)
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=0)


def test_test_labels_change_no_prediction_and_a_constant_channel_nothing(blobs):
    rows, labels = blobs
    wide = torch.cat([rows, torch.full((400, 1), 7.0)], dim=1)
    one = probing.linear(rows[:200], labels[:200], rows[200:], 4)
    torch.testing.assert_close(one, probing.linear(wide[:200], labels[:200], wide[200:], 4), atol=1e-3, rtol=1e-3)


def test_features_that_are_not_finite_are_refused(blobs):
    rows, labels = blobs
    rows = rows.clone()
    rows[0, 0] = torch.nan
    with pytest.raises(Refused, match="diverged"):
        probing.linear(rows[:200], labels[:200], rows[200:], 4)
