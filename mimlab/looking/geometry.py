"""The geometry of features: principal components, cosine neighbours, CKA, effective rank, collapse, maps of two dimensions.

Pure functions of features, (M, D) or lists of them, in double precision where sums cancel. Letters: M rows (images or
patches), D width, L layers.

Differs from the paper: DINOv2 leaves the sign of the first component, and so which side is the object, to the reader;
`foreground` calls the side that the border of the images has less of the object.
"""

import importlib.util
from typing import NamedTuple

import torch
from torch.nn.functional import normalize

from mimlab.errors import Refused, shown

PROJECTIONS = ("pca", "tsne", "umap")
ROOM = 2**26  # bytes of similarities held at once
MOST = 2000  # images that t-SNE is asked for: beyond it takes minutes


class Basis(NamedTuple):
    """Principal components: `mean` (D,), `axes` (k, D) of length 1, `share` (k,) of the variance, largest first."""

    mean: torch.Tensor
    axes: torch.Tensor
    share: torch.Tensor

    def project(self, features):
        """Coordinates (..., k) of features (..., D), float32."""
        return ((features.double() - self.mean) @ self.axes.T).float()


def basis(features, count=3):
    """The first `count` principal components of features (M, D), at most D: `Basis`.

    In each axis the entry of largest absolute value is positive, so that the same features give the same colours.
    """
    rows = features.double()
    mean = rows.mean(dim=0)
    rows = rows - mean
    values, vectors = torch.linalg.eigh(rows.T @ rows)  # ascending
    values, axes = values.flip(0).clamp(min=0)[:count], vectors.flip(1).T[:count]
    axes = axes * _sign(axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)))
    return Basis(mean, axes, values / rows.square().sum().clamp(min=1e-300))


def _sign(values):
    return torch.where(values < 0, -1.0, 1.0).to(values.dtype)


def colours(coordinates, chosen=None, low=1, high=99):
    """Coordinates (..., k) as colours (..., 3) in [0, 1]: each component from its `low` to its `high` percentile.

    `chosen` bool (...): only these rows set the scale, and the others are 0. Components beyond k, and those without any
    spread, are 0.5.
    """
    rows = coordinates.reshape(-1, coordinates.shape[-1]).double()
    inside = torch.ones(len(rows), dtype=torch.bool) if chosen is None else chosen.reshape(-1)
    found = torch.full((len(rows), 3), 0.5, dtype=torch.float64)
    for k in range(min(3, rows.shape[1])):
        column = rows[inside, k]
        if len(column) and float(column.max() - column.min()) > 1e-9 * float(column.abs().max()):
            bottom, top = torch.quantile(_some(column), torch.tensor([low / 100, high / 100], dtype=torch.float64))
            found[:, k] = ((rows[:, k] - bottom) / (top - bottom).clamp(min=1e-300)).clamp(0, 1)
    found[~inside] = 0
    return found.float().reshape(*coordinates.shape[:-1], 3)


def _some(column, most=1_000_000):
    return column[:: -(-len(column) // most)]  # torch.quantile has a limit of 16 million values


def foreground(first):
    """Which patches are above the mean of the first component, (B, h, w) bool, from `first` (B, h, w), with mean 0.

    The sign is the one with which patches on the border of the images are less often above it. DINOv2, section 7.4
    (arXiv 2304.07193): a positive value after thresholding the first component.
    """
    above = first > 0
    border = torch.ones(first.shape[1:], dtype=torch.bool)
    border[1:-1, 1:-1] = False
    if border.all():  # too few patches to have an inside
        return above
    outside, inside = above[:, border].double().mean(), above[:, ~border].double().mean()
    return above if outside <= inside else first < 0


def neighbours(features, k, queries=None):
    """The `k` other rows most alike by cosine, for rows `queries` or all: places and cosines, each (Q, k).

    A row is not its own neighbour; k is at most M - 1. Refuses fewer than two rows.
    """
    if len(features) < 2:
        raise Refused(f"images = {len(features)}: one image has no neighbour; use two or more")
    rows = normalize(features.float(), dim=1)
    queries = torch.arange(len(rows)) if queries is None else torch.as_tensor(queries)
    found = []
    for some in queries.split(max(1, ROOM // (4 * len(rows)))):
        cosine = rows[some] @ rows.T  # (some, M)
        cosine[torch.arange(len(some)), some] = -torch.inf
        found.append(cosine.topk(min(k, len(rows) - 1), dim=1))
    return torch.cat([part.indices for part in found]), torch.cat([part.values for part in found])


def agreement(labels, nearest):
    """Percent of images whose nearest other image has their label, and by chance: labels (M,), nearest (M, k).

    `chance` is that of a partner drawn at random from the other images.
    """
    same = (labels[nearest[:, 0]] == labels).double().mean().item()
    counts = torch.bincount(labels).double()
    pairs = (counts * (counts - 1)).sum().item() / (len(labels) * (len(labels) - 1))
    return {"top1": 100 * same, "chance": 100 * pairs}


def cka(first, second=None, *, unbiased=True, batch=256):
    """Linear CKA between the layers of `first` and of `second`: lists of (M, D_i), the same images -> (L1, L2) double.

    `unbiased`: HSIC_1 of Song et al. 2012, averaged over minibatches before it is normalised: Nguyen et al. 2021,
    "Do wide and deep networks learn the same things?", equations 2 and 3 (arXiv 2010.15327). Otherwise Kornblith et al.
    2019 (arXiv 1905.00414) over all images at once, which grows with D / M. `second` None: `first` with itself. NaN
    where a layer is the same for all images. Refuses fewer than four images, or lists of unequal lengths.
    """
    second = first if second is None else second
    counts = {len(rows) for rows in (*first, *second)}
    if len(counts) != 1 or min(counts) < 4:
        raise Refused(f"images: CKA compares the same 4 or more images in every layer; there are {sorted(counts)}")
    total = counts.pop()
    parts = max(1, min(-(-total // batch), total // 4)) if unbiased else 1
    sizes, others = _sizes(first), _sizes(second)
    cross, own, other = 0.0, 0.0, 0.0
    for rows in torch.arange(total).tensor_split(parts):
        n = len(rows)
        one = _grams(first, sizes, rows, unbiased)
        two = one if second is first else _grams(second, others, rows, unbiased)
        share = 1 / (n * (n - 3)) if unbiased else 1
        cross = cross + share * (one @ two.T)
        own, other = own + share * one.square().sum(1), other + share * two.square().sum(1)
    scale = (own[:, None] * other[None]).sqrt()
    return (cross / scale).masked_fill(scale <= 1e-20, float("nan"))


def _sizes(layers):
    """Mean (D,) and size of each layer; infinite where all rows are the same, so that the layer becomes 0."""
    found = []
    for features in layers:
        mean = features.double().mean(dim=0)
        size, spread = (features - mean).norm(), (features - mean).abs().max()
        found.append((mean, size if spread > 1e-6 * features.abs().max() else torch.inf))
    return found


def _grams(layers, sizes, rows, unbiased):
    """Centred linear Gram matrices of the rows, (L, M * M); that changes no CKA, and the size keeps digits."""
    found, n = [], len(rows)
    for features, (mean, size) in zip(layers, sizes, strict=True):
        x = (features[rows] - mean) / size
        x = x - x.mean(dim=0)
        gram = x @ x.T
        if unbiased:  # with this centring the sum of products is n (n - 3) HSIC_1 (Szekely and Rizzo 2014)
            gram.fill_diagonal_(0)
            sums = gram.sum(dim=0)
            gram = gram - (sums[:, None] + sums[None]) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
            gram.fill_diagonal_(0)
        found.append(gram.flatten())
    return torch.stack(found)


def effective_rank(features):
    """RankMe: exp of the entropy of the singular values of (M, D), between 1 and min(M, D).

    Garrido et al. 2023, equation 1 (arXiv 2210.02885), with its epsilon of 1e-7; features are not centred.
    """
    rows = features.double()
    gram = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    sizes = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    if float(sizes.sum()) == 0:
        return 1.0
    share = sizes / sizes.sum() + 1e-7
    return float(torch.exp(-(share * share.log()).sum()))


def collapse(features):
    """Signs of collapse in (M, D): {"cosine", "spread"}; NaN for one row.

    "cosine": mean over all pairs of rows, 1 where all point the same way. "spread": standard deviation of each channel
    of the rows at length 1, averaged, times sqrt(D): about 1 where they fill all directions evenly, 0 where they are one
    point. SimSiam, section 4.1 and figure 2 (arXiv 2011.10566), which draws it without the factor.
    """
    rows = normalize(features.double(), dim=1)
    m, d = rows.shape
    if m < 2:
        return {"cosine": float("nan"), "spread": float("nan")}
    cosine = (rows.sum(dim=0).square().sum() - rows.square().sum()) / (m * (m - 1))
    return {"cosine": float(cosine), "spread": float(rows.std(dim=0, unbiased=False).mean() * d**0.5)}


def check_projection(how, count):
    """Refuse a projection that there is not, that is not installed, or that would take too long."""
    if how not in PROJECTIONS:
        raise Refused(f"project = {shown(how)}; there are: {', '.join(PROJECTIONS)}")
    package, install = {"pca": ("torch", ""), "tsne": ("sklearn", "scikit-learn"), "umap": ("umap", "mimlab[umap]")}[
        how
    ]
    if importlib.util.find_spec(package) is None:
        raise Refused(f"project = {shown(how)} needs {install}: pip install {install}; or use project = 'pca'")
    if how == "tsne" and count > MOST:
        raise Refused(f"samples = {count}: t-SNE takes minutes beyond {MOST:,} images; use fewer, or project = 'pca'")


def plane(features, how, seed=0):
    """Features (M, D) as points (M, 2), float32, and how they came about in words.

    t-SNE: scikit-learn's, from the first two components, perplexity 30 or a third of the images; UMAP: umap-learn's with
    its defaults. The same seed gives the same points. Refuses too few images, and what is not installed.
    """
    check_projection(how, len(features))
    if len(features) < 5:
        raise Refused(f"samples = {len(features)}: a map needs 5 images or more")
    if how == "pca":
        found = basis(features, 2)
        return found.project(
            features
        ), f"the first two components: {100 * float(found.share.sum()):.0f} % of the variance"
    if how == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(features) - 1) / 3)
        reduced = basis(features, min(50, len(features))).project(features)  # as its authors advise
        points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(reduced.numpy())
        return torch.from_numpy(points), f"t-SNE, perplexity {perplexity:.3g}; distances between groups mean little"
    from umap import UMAP

    near = min(15, len(features) - 1)
    points = UMAP(n_neighbors=near, random_state=seed, n_jobs=1).fit_transform(features.float().numpy())
    return torch.as_tensor(points).float(), f"UMAP, {near} neighbours; distances between groups mean little"
