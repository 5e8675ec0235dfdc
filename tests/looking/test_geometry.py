"""Components, neighbours, CKA, rank and collapse against closed forms and plain loops."""

import math

import numpy as np
import pytest
import torch

from mimlab.errors import Refused
from mimlab.looking import geometry


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(60, 7, generator=generator) @ torch.randn(7, 7, generator=generator) + 3


def test_components_are_those_of_a_singular_value_decomposition(rows):
    found = geometry.basis(rows, 3)
    centred = rows.double().numpy() - rows.double().numpy().mean(0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    for ours, theirs in zip(found.axes.numpy(), axes, strict=False):
        assert abs(ours @ theirs) == pytest.approx(1, abs=1e-9)
        assert ours[np.abs(ours).argmax()] > 0
    np.testing.assert_allclose(found.share, sizes[:3] ** 2 / (sizes**2).sum(), rtol=1e-9)
    np.testing.assert_allclose(found.project(rows), centred @ found.axes.numpy().T, atol=1e-4)


def test_components_do_not_depend_on_the_order_of_rows(rows):
    same = geometry.basis(rows[torch.randperm(60, generator=torch.Generator().manual_seed(1))], 3)
    torch.testing.assert_close(same.axes, geometry.basis(rows, 3).axes)


def test_colours_span_the_percentiles_and_an_outlier_does_not_matter():
    line = torch.linspace(0, 1, 1001)[:, None]
    found = geometry.colours(torch.cat([line, line.flip(0)], dim=1))
    assert found[0, 0] == 0 and found[-1, 0] == 1 and found[500, 0] == pytest.approx(0.5)
    assert (found[:, 2] == 0.5).all()  # there is no third component
    wild = line.clone()
    wild[0] = -1e6
    assert geometry.colours(wild)[500, 0] == pytest.approx(0.5, abs=0.01)
    assert (geometry.colours(torch.full((5, 3), 2.0)) == 0.5).all()


def test_only_chosen_rows_set_the_scale():
    line = torch.linspace(0, 1, 101)[:, None]
    chosen = (line > 0.5)[:, 0]
    found = geometry.colours(line, chosen, low=0, high=100)
    assert (found[~chosen] == 0).all() and found[51, 0] == 0 and found[-1, 0] == 1


@pytest.mark.parametrize("sign", [1, -1])
def test_the_foreground_is_the_side_that_borders_lack(sign):
    first = -torch.ones(2, 6, 6)
    first[:, 2:4, 1:5] = 1
    assert torch.equal(geometry.foreground(sign * first), first > 0)
    assert geometry.foreground(torch.tensor([[[1.0, -1.0]]])).tolist() == [[[True, False]]]


def test_neighbours_are_those_of_brute_force(rows):
    nearest, cosine = geometry.neighbours(rows, 4, queries=[5, 0])
    for query, found, values in zip((5, 0), nearest, cosine, strict=True):
        every = [float(rows[query] @ row / rows[query].norm() / row.norm()) for row in rows]
        order = [k for k in sorted(range(60), key=lambda k: -every[k]) if k != query][:4]
        assert found.tolist() == order
        torch.testing.assert_close(values, torch.tensor([every[k] for k in order]))
    assert geometry.neighbours(rows[:3], 10)[0].shape == (3, 2)
    with pytest.raises(Refused, match="one image has no neighbour"):
        geometry.neighbours(rows[:1], 2)


def test_agreement_and_its_chance():
    labels = torch.tensor([0, 0, 0, 1])
    nearest = torch.tensor([[1], [0], [3], [2]])
    assert geometry.agreement(labels, nearest) == {"top1": 50.0, "chance": pytest.approx(50.0)}  # 6 of 12 ordered pairs


def hsic(k, other):
    """HSIC_1 term by term: Nguyen et al. 2021, equation 3."""
    n = len(k)
    m = other - np.diag(np.diag(other))
    k = k - np.diag(np.diag(k))
    one, trace = np.ones(n), 0.0
    for i in range(n):
        for j in range(n):
            trace += k[i, j] * m[j, i]
    return (trace + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (one @ k @ m @ one)) / (
        n * (n - 3)
    )


def test_unbiased_cka_is_the_papers_formula_over_minibatches(rows):
    other = torch.tanh(rows[:, :4])
    total = np.zeros(3)
    for part in torch.arange(60).chunk(3):
        k, m = (x[part].double().numpy() @ x[part].double().numpy().T for x in (rows, other))
        total += hsic(k, m), hsic(k, k), hsic(m, m)
    k, m = (x.double().numpy() @ x.double().numpy().T for x in (rows, other))
    whole = hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))
    assert float(geometry.cka([rows], [other])) == pytest.approx(whole, abs=1e-9)
    batched = total[0] / math.sqrt(total[1] * total[2])
    assert float(geometry.cka([rows], [other], batch=20)) == pytest.approx(batched, abs=1e-9)


def test_plain_cka_is_kornblith_of_features(rows):
    other = torch.tanh(rows[:, :4])
    x, y = (z.double().numpy() - z.double().numpy().mean(0) for z in (rows, other))
    expected = np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert float(geometry.cka([rows], [other], unbiased=False)) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("unbiased", [True, False])
def test_cka_is_one_under_rotation_scale_and_shift(rows, unbiased):
    turn = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(2)))[0]
    found = geometry.cka([rows, 5 * rows @ turn + 1], unbiased=unbiased)
    torch.testing.assert_close(found, torch.ones(2, 2, dtype=torch.float64), atol=1e-6, rtol=0)


def test_only_the_unbiased_one_is_near_zero_for_unrelated_wide_features():
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(2, 40, 400, generator=generator)
    assert abs(float(geometry.cka([x], [y]))) < 0.1 < 0.8 < float(geometry.cka([x], [y], unbiased=False))


def test_cka_of_constant_features_is_unknown_and_too_few_images_are_refused(rows):
    found = geometry.cka([rows, torch.ones(60, 3)])
    assert found[0, 0] == pytest.approx(1) and found[0, 1].isnan() and found[1, 1].isnan()
    for wrong in ([rows[:3]], [rows, rows[:10]]):
        with pytest.raises(Refused, match="4 or more"):
            geometry.cka(wrong)


def test_effective_rank_of_known_singular_values():
    assert geometry.effective_rank(torch.eye(16)) == pytest.approx(16, rel=1e-4)
    assert geometry.effective_rank(torch.ones(50, 8)) == pytest.approx(1, rel=1e-3)
    sizes = torch.tensor([3.0, 2.0, 1.0])
    turn = torch.linalg.qr(torch.randn(10, 3, generator=torch.Generator().manual_seed(4)))[0]
    share = sizes / sizes.sum()
    expected = math.exp(float(-(share * share.log()).sum()))
    for rows in (turn * sizes, (turn * sizes).T):
        assert geometry.effective_rank(rows) == pytest.approx(expected, rel=1e-4)
    assert geometry.effective_rank(torch.zeros(5, 3)) == 1


def test_collapse_of_one_point_of_axes_and_of_a_sphere(rows):
    assert geometry.collapse(torch.ones(9, 4)) == {"cosine": pytest.approx(1), "spread": pytest.approx(0, abs=1e-9)}
    both = torch.cat([torch.eye(6), -torch.eye(6)])
    assert geometry.collapse(both) == {"cosine": pytest.approx(-1 / 11), "spread": pytest.approx(1)}
    unit = rows.double() / rows.double().norm(dim=1, keepdim=True)
    pairs = [float(unit[i] @ unit[j]) for i in range(60) for j in range(60) if i != j]
    assert geometry.collapse(rows)["cosine"] == pytest.approx(np.mean(pairs))
    assert math.isnan(geometry.collapse(rows[:1])["cosine"])


def test_planes(rows):
    points, note = geometry.plane(rows, "pca")
    torch.testing.assert_close(points, geometry.basis(rows, 2).project(rows))
    assert "% of the variance" in note
    two = torch.cat([rows[:20], rows[:20] + 500])
    points, note = geometry.plane(two, "tsne", seed=1)
    assert torch.equal(points, geometry.plane(two, "tsne", seed=1)[0]) and "perplexity 13" in note
    nearest = torch.cdist(points, points).fill_diagonal_(torch.inf).argmin(dim=1)
    assert ((nearest < 20) == (torch.arange(40) < 20)).all()
    with pytest.raises(Refused, match="5 images"):
        geometry.plane(rows[:4], "pca")


def test_projections_that_cannot_be_are_refused(monkeypatch):
    with pytest.raises(Refused, match="pca, tsne, umap"):
        geometry.check_projection("som", 10)
    with pytest.raises(Refused, match="2,000"):
        geometry.check_projection("tsne", 2001)
    monkeypatch.setattr(geometry.importlib.util, "find_spec", lambda name: None if name == "umap" else object())
    with pytest.raises(Refused, match=r"pip install mimlab.umap."):
        geometry.check_projection("umap", 10)


def test_neighbours_in_blocks_are_those_of_all_at_once(monkeypatch):
    features = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    whole = geometry.neighbours(features, 4)
    monkeypatch.setattr(geometry, "ROOM", 4 * 50 * 7)  # seven rows at a time
    places, cosines = geometry.neighbours(features, 4)
    assert torch.equal(places, whole[0]) and torch.allclose(cosines, whole[1])
    assert torch.equal(geometry.neighbours(features, 4, [9, 3])[0], whole[0][[9, 3]])
