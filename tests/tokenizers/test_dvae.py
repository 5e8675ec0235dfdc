"""The autoencoder trained here: its start, its codes, its tokens, and what methods make of them."""

import pytest
import torch

import mimlab
from mimlab import tokenizers
from mimlab.errors import Refused
from mimlab.layers import patchify
from mimlab.tokenizers import dvae
from mimlab.tokenizers.dvae import Codes, Tokenizer
from mimlab.tokenizers.kmeans import lloyd

SMALL = {"vocab": 24, "patch": 4}
QUICK = {"width": 16, "steps": 12, "samples": 30}


class Stand:
    """Smooth random images with the attributes of `Images` that fitting needs."""

    def __init__(self, n=40, seed=0):
        small = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        large = torch.nn.functional.interpolate(small, (32, 32), mode="bicubic").clamp(0, 1)
        self.pixels = (large * 255).round().byte()
        self.fingerprint = f"stand-{n}-{seed}"
        self.asked = 0

    def __len__(self):
        return len(self.pixels)

    def get(self, rows):
        self.asked += len(rows)
        return self.pixels[torch.as_tensor(rows)]


def images(n=5, size=(32, 32)):
    return torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MIMLAB_HOME", str(tmp_path))
    return tmp_path / "tokenizers"


def fit(grid=(8, 8), data=None, seed=0, **given):
    return tokenizers.fitted("dvae", data or Stand(), grid, 32, **SMALL, seed=seed, **(QUICK | given))


def psnr(one, other):
    return float(-10 * (one - other).square().mean().log10())


@pytest.mark.parametrize("grid", [(8, 8), (4, 7), (1, 3)], ids=str)
def test_ids_and_pictures_for_any_grid_and_image_size(grid, store):
    tokenizer = fit(grid)
    for size in ((grid[0] * 4, grid[1] * 4), (37, 50)):
        ids = tokenizer(images(size=size), grid)
        assert ids.shape == (5, grid[0] * grid[1]) and ids.dtype == torch.int64
        assert ids.min() >= 0 and ids.max() < 24 and len(ids.unique()) > 1
    image = tokenizer.decode(ids, grid)
    assert image.shape == (5, 3, grid[0] * 4, grid[1] * 4) and image.min() >= 0 and image.max() <= 1


def test_it_starts_as_k_means_on_principal_components():
    data = Stand(n=60).pixels
    tokenizer = Tokenizer(24, 4, dim=6)
    codes = tokenizer.begin(data, torch.Generator().manual_seed(0))
    x = data.float() / 255
    patches = patchify(x, 4).flatten(0, 1)
    mean = patches.mean(0)
    lost = torch.linalg.svdvals((patches - mean).double())[6:].square().sum() / patches.numel()  # by six components
    z = tokenizer.network.encode(x)
    assert (tokenizer.network.decode(z) - x).square().mean().item() == pytest.approx(float(lost), rel=1e-3)
    flat = dvae.vectors(z)
    assert flat.var(0, correction=0).mean().item() == pytest.approx(1, rel=1e-3)
    again, labels, _ = lloyd(flat, codes.means, 1)  # nearly settled: another round hardly moves
    assert (again - codes.means).square().sum(1).mean() < 0.01
    assert torch.allclose(codes.share, torch.bincount(labels, minlength=24) / len(labels), atol=0.02)


def test_training_beats_k_means_of_the_same_vocabulary_on_other_images(store):
    data, x = Stand(n=200), Stand(n=40, seed=5).pixels.float() / 255
    trained, start = fit(data=data, steps=60, width=32, samples=200), Tokenizer(24, 4)
    start.codebook.copy_(start.begin(data.pixels, torch.Generator().manual_seed(0)).means)
    patches = tokenizers.fitted("kmeans", data, (8, 8), 32, **SMALL, seed=0)
    found = {name: psnr(t.decode(t(x, (8, 8)), (8, 8)), x) for name, t in
             {"trained": trained, "start": start, "kmeans": patches}.items()}  # fmt: skip
    assert found["trained"] > found["start"] + 0.5 > found["kmeans"] + 0.5
    assert tokenizers.usage(trained(x, (8, 8)), 24)["used"] > 20


def test_codes_are_moving_averages_by_hand():
    codes = Codes(torch.tensor([[0.0, 0.0], [10.0, 0.0]]), torch.tensor([0.5, 0.5]))
    x = torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 2.0], [8.0, 0.0]])
    given = codes.follow(x, False, None)
    keep = dvae.KEPT
    share = torch.tensor([0.5 * keep + (1 - keep) * 0.75, 0.5 * keep + (1 - keep) * 0.25])
    sums = torch.tensor([[(1 - keep) * 6 / 4, (1 - keep) * 2 / 4], [5 * keep + (1 - keep) * 8 / 4, 0]])
    assert torch.allclose(codes.share, share) and torch.allclose(codes.means, sums / share[:, None])
    assert torch.equal(given, codes.means[[0, 0, 0, 1]])


def test_a_code_that_nothing_uses_moves_to_what_is_served_badly():
    x = torch.tensor([[0.0], [0.0], [0.0], [7.0]])
    means, share = torch.tensor([[0.0], [100.0]]), torch.tensor([1.0, 0.001])
    codes = Codes(means, share)
    codes.follow(x, False, torch.Generator().manual_seed(0))
    assert codes.means[1].item() == pytest.approx(100)
    codes = Codes(means, share)
    codes.follow(x, True, torch.Generator().manual_seed(0))
    assert codes.means[1].item() == pytest.approx(7)  # the only vector at a distance from its code
    exact = Codes(torch.tensor([[0.0], [7.0], [50.0]]), torch.tensor([0.7, 0.3, 0.0]))
    exact.follow(x, True, torch.Generator().manual_seed(0))  # nothing is served badly: nowhere to go
    assert torch.isfinite(exact.means).all()


def test_a_token_depends_on_and_draws_into_its_neighbours(store):
    tokenizer, grid = fit(steps=40), (8, 8)
    x = images(1)
    ids = tokenizer(x, grid)
    other = ids.clone()
    other[0, 27] = (ids[0, 27] + 1) % 24  # row 3, column 3
    moved = (tokenizer.decode(ids, grid) - tokenizer.decode(other, grid)).abs().amax(1)[0]
    touched = moved.view(8, 4, 8, 4).amax((1, 3)) > 1e-6
    assert (
        touched[3, 3] and touched[3, 4] and not touched[6:].any() and not touched[:, 6:].any()
    )  # two blocks: two away
    z, black = tokenizer.network.encode(x), x.clone()
    black[:, :, 12:16, 12:16] = 0
    changed = (tokenizer.network.encode(black) - z).abs().amax(1)[0] > 1e-6
    assert changed[3, 3] and changed[3, 4] and not changed[6:].any() and not changed[:, 6:].any()


def test_expected_is_the_picture_of_the_mean_code(store):
    tokenizer = fit()
    ids = torch.randint(0, 24, (2, 6), generator=torch.Generator().manual_seed(0))
    certain = torch.full((2, 6, 24), -1e4).scatter(2, ids[..., None], 0.0)
    assert torch.allclose(tokenizer.expected(certain, (2, 3)), tokenizer.decode(ids, (2, 3)), atol=1e-5)
    doubt = tokenizer.expected(torch.zeros(1, 6, 24), (2, 3))
    mean = tokenizer.codebook.mean(0).view(1, -1, 1, 1).expand(1, -1, 2, 3)
    assert torch.allclose(doubt, tokenizer.network.decode(mean).clamp(0, 1), atol=1e-5)


def test_frozen_and_carried_by_its_state(store):
    tokenizer = fit()
    assert list(tokenizer.parameters()) == [] and not tokenizer.training
    assert not any(buffer.requires_grad for buffer in tokenizer.buffers())
    other = Tokenizer(**SMALL, width=16)
    other.load_state_dict(tokenizer.state_dict())
    assert torch.equal(other(images(), (8, 8)), tokenizer(images(), (8, 8)))


def test_half_precision_around_it_changes_nothing(store):
    tokenizer = fit()
    ids = tokenizer(images(), (8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokenizer(images(), (8, 8)), ids)
        assert tokenizer.decode(ids, (8, 8)).dtype == torch.float32


def test_fitted_once_then_read_and_decided_by_the_seed(store, monkeypatch):
    data = Stand()
    first, other = fit(data=data), fit(data=data, seed=1)
    assert len(list(store.glob("*"))) == 2 and not torch.equal(first.codebook, other.codebook)
    for path in store.glob("*"):
        path.unlink()
    torch.manual_seed(99)  # draws nothing from the global generator
    again = fit(data=data)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    data.asked = 0
    monkeypatch.setattr(Tokenizer, "fit", None)
    read = fit(data=data)
    assert data.asked == 0 and torch.equal(read.codebook, first.codebook)


def test_images_are_given_as_the_model_sees_them(store):
    drawn = tokenizers.drawn_images(Stand(n=20), (4, 7), [32, 32], 4, 12, torch.Generator().manual_seed(0))
    assert drawn.shape == (12, 3, 16, 28) and drawn.dtype == torch.uint8
    plain = Stand(n=20)
    drawn = tokenizers.drawn_images(plain, (8, 8), [32, 32], 4, 100, torch.Generator().manual_seed(0))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn, plain.pixels[order])


def test_too_few_patches_and_wrong_options_are_refused(store):
    data = Stand(n=4)
    data.pixels[:] = data.pixels[:1, :, :1, :1]
    data.pixels[0, :, :4, :4] = 200
    with pytest.raises(Refused, match="vocab = 24 is more than the 2 distinct patches"):
        fit(data=data)
    data = Stand()
    for given, says in (
        ({"steps": 0}, "steps = 0"),
        ({"dim": 1.5}, "dim = 1.5"),
        ({"widht": 8}, "did you mean 'width'"),
    ):
        with pytest.raises(Refused, match=says):
            fit(data=data, **given)
    assert data.asked == 0


@pytest.mark.parametrize("method", ["beit", "splitmask"])
def test_methods_train_on_its_tokens_and_leave_it_as_it_is(method, tmp_path):
    cfg = mimlab.Pretrain(
        method=method, encoder="vit", encoder_args={"dim": 24, "depth": 2, "heads": 3}, fraction=0.016, patch_size=7, epochs=2,
        batch_size=32, out=str(tmp_path), knn_every=0, vocab=16, tokenizer="dvae", tokenizer_args=QUICK, log_every=1, lr=0.02,
    )  # fmt: skip
    run = mimlab.pretrain(cfg)
    losses = [row["loss"] for row in run.metrics() if "loss" in row]
    assert len(losses) == 10 and losses[-1] < losses[0]
    trained = run.method()
    alone = tokenizers.fitted("dvae", run.data(), (4, 4), 28, 16, 7, 0, **QUICK)
    assert all(torch.equal(value, alone.state_dict()[name]) for name, value in trained.tokenizer.state_dict().items())
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[:, 4:12] = True
    filled = trained.reconstruct(torch.rand(2, 3, 28, 28), mask).images
    assert filled.shape == (2, 3, 28, 28) and filled.min() >= 0 and filled.max() <= 1
