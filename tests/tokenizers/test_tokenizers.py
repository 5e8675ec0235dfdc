"""What every tokenizer keeps to, over the folder; usage; the cache of fitted ones."""

import math

import numpy as np
import pytest
import torch

from mimlab import layers, tokenizers
from mimlab.errors import Refused
from mimlab.find import find, names
from mimlab.tokenizers import _codebook

PATCHES = [name for name in names("tokenizers") if find("tokenizers", name).Tokenizer.wants == "patches"]
every = pytest.mark.parametrize("name", PATCHES)  # those of networks have tests of their own
SMALL = {"vocab": 24, "patch": 4}


class Stand:
    """Smooth random images with the attributes of `Images` that fitting needs."""

    def __init__(self, n=40, size=32, seed=0):
        small = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        large = torch.nn.functional.interpolate(small, (size, size), mode="bicubic").clamp(0, 1)
        self.pixels = (large * 255).round().byte()
        self.fingerprint = f"stand-{n}-{size}-{seed}"
        self.asked = 0

    def __len__(self):
        return len(self.pixels)

    def get(self, rows):
        self.asked += len(rows)
        return self.pixels[torch.as_tensor(np.asarray(rows))]


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MIMLAB_HOME", str(tmp_path))
    return tmp_path / "tokenizers"


def fit(name, grid=(8, 8), data=None, seed=0, **given):
    return tokenizers.fitted(name, data or Stand(), grid, 32, **SMALL, seed=seed, **given)


def images(n=5, size=(32, 32), seed=3):
    return torch.rand(n, 3, *size, generator=torch.Generator().manual_seed(seed))


@every
@pytest.mark.parametrize("grid", [(8, 8), (4, 7), (1, 3)], ids=str)
def test_ids_are_in_range_for_any_grid_and_image_size(name, grid, store):
    tokenizer = fit(name, grid)
    for size in ((grid[0] * 4, grid[1] * 4), (37, 50)):
        ids = tokenizer(images(size=size), grid)
        assert ids.shape == (5, grid[0] * grid[1]) and ids.dtype == torch.int64
        assert ids.min() >= 0 and ids.max() < 24
    assert len(ids.unique()) > 1


@every
def test_frozen_and_carried_by_its_state(name, store):
    tokenizer = fit(name)
    assert list(tokenizer.parameters()) == [] and not tokenizer.training
    length = tokenizer.codebook.norm(dim=1)
    assert torch.allclose(length, torch.ones_like(length), atol=1e-6)
    other = find("tokenizers", name).Tokenizer(**SMALL)
    other.load_state_dict(tokenizer.state_dict())
    assert torch.equal(other(images(), (8, 8)), tokenizer(images(), (8, 8)))


@every
def test_the_token_is_the_highest_cosine_similarity(name, store):
    tokenizer = fit(name, normalise="none")
    x = images()
    ids = tokenizer(x, (8, 8)).view(5, 8, 8)
    for b, row, column in ((0, 0, 0), (1, 3, 7), (4, 7, 2)):
        patch = x[b, :, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4].flatten()  # channel, row, column
        cosine = torch.cosine_similarity(patch[None], tokenizer.codebook)
        assert cosine[ids[b, row, column]] >= cosine.max() - 1e-6


@every
def test_decode_is_an_image_or_refused(name, store):
    tokenizer = fit(name, (4, 7))
    ids = tokenizer(images(), (4, 7))
    if tokenizer.can_decode:
        image = tokenizer.decode(ids, (4, 7))
        assert image.shape == (5, 3, 16, 28) and image.min() >= 0 and image.max() <= 1
        ids = torch.tensor([[0, 1, 2, 3, 4, 5]])
        patch = tokenizer.decode(ids, (2, 3))[0, :, 4:8, 4:8].flatten()  # second row, second column: token 4
        assert torch.allclose(patch, tokenizer.pixels[4].float() / 255)
    else:
        with pytest.raises(Refused, match=name):
            tokenizer.decode(ids, (4, 7))


@every
def test_flat_patches_have_one_token_each_time(name, store):
    for given in ({}, {"normalise": "none"}, {"centre": True}):
        tokenizer = fit(name, **given)
        black = tokenizer(torch.zeros(3, 3, 32, 32), (8, 8))
        assert len(black.unique()) == 1
    greys = torch.linspace(0, 1, 7).view(7, 1, 1, 1).expand(7, 3, 32, 32)
    assert len(fit(name, centre=True, normalise="none")(greys, (8, 8)).unique()) == 1  # no direction is left


@every
def test_few_patches_at_a_time_give_the_same_ids(name, store, monkeypatch):
    tokenizer = fit(name)
    ids = tokenizer(images(), (8, 8))
    monkeypatch.setattr(_codebook, "ROOM", 24 * 7)
    assert torch.equal(tokenizer(images(), (8, 8)), ids)


@every
def test_half_precision_around_it_changes_nothing(name, store):
    tokenizer = fit(name)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokenizer(images(), (8, 8)), ids := tokenizer(images(), (8, 8)))
    assert torch.equal(tokenizer(images(), (8, 8)), ids)


@every
def test_fitted_once_then_read(name, store, monkeypatch):
    data = Stand()
    first = fit(name, data=data)
    assert len(list(store.glob("*"))) == 1  # nothing is left aside
    data.asked = 0
    monkeypatch.setattr(find("tokenizers", name).Tokenizer, "fit", None)
    again = fit(name, data=data)
    assert data.asked == 0
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values()))


@every
def test_data_and_settings_have_their_own_file(name, store):
    fit(name)
    fit(name, data=Stand(seed=1))
    fit(name, seed=1)
    fit(name, grid=(4, 4))
    fit(name, centre=True)
    assert len(list(store.glob("*.safetensors"))) == 5


@every
def test_seeds_decide(name, store):
    first, other = fit(name, seed=0), fit(name, seed=1)
    assert not torch.equal(first.codebook, other.codebook)
    next(store.glob(f"{name}-*")).unlink()
    next(store.glob(f"{name}-*")).unlink()
    assert torch.equal(fit(name, seed=0).codebook, first.codebook)


@every
@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"nonsense": 1}, "no option 'nonsense'"),
        ({"normalise": "imagnet"}, "did you mean 'imagenet'.*none"),
        ({"vocab": 1}, "vocab = 1"),
        ({"patch": 0}, "patch = 0"),
    ],
)
def test_wrong_settings_are_refused_before_the_data(name, given, says, store):
    data = Stand()
    with pytest.raises(Refused, match=says):
        tokenizers.fitted(name, data, (8, 8), 32, **(SMALL | {"seed": 0} | given))
    assert data.asked == 0


@pytest.mark.parametrize("name", ["random_patches", "kmeans"])
def test_a_vocabulary_larger_than_the_patches_is_refused_with_both_numbers(name, store):
    data = Stand(n=4)
    data.pixels[:] = data.pixels[:1, :, :1, :1]  # one colour: a single distinct patch
    data.pixels[0, :, :4, :4] = 200
    with pytest.raises(Refused, match="vocab = 24 is more than the 2 distinct patches"):
        fit(name, data=data)


def test_patches_come_from_different_images(store):
    data = Stand(n=200)
    data.pixels[:] = torch.arange(200).view(-1, 1, 1, 1)  # each image has its own grey
    generator = torch.Generator().manual_seed(0)
    drawn = tokenizers.drawn_patches(data, (8, 8), [32, 32], 4, 96, generator)
    assert len(drawn) == 96 and len(drawn[:, 0].unique()) == 96


def test_a_users_file_is_a_tokenizer_and_its_text_is_in_the_key(store, tmp_path, monkeypatch):
    text = (
        "from mimlab.tokenizers import PatchTokenizer\n"
        "class Tokenizer(PatchTokenizer):\n"
        "    def wanted(self): return 30\n"
        "    def fit(self, patches, generator): self.set_codebook(patches[:24] + 0.01, patches[:24])\n"
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for i, extra in enumerate(("", "# changed\n")):
        (tmp_path / "mine" / f"first{i}.py").write_text(text + extra)
        assert fit(f"mine.first{i}")(images(), (8, 8)).shape == (5, 64)
    assert len(list(store.glob("*.safetensors"))) == 2


def test_layout_round_trip():
    x = images(2, (8, 12))
    patches = layers.patchify(x, 4)
    assert patches.shape == (2, 6, 48)
    assert torch.equal(patches[1, 4].view(3, 4, 4), x[1, :, 4:8, 4:8])
    assert torch.equal(layers.unpatchify(patches, (2, 3), 4), x)


def test_distinct_finds_the_first_of_equal_rows():
    rows = torch.rand(4, 12)[[0, 1, 0, 2, 1, 3, 3]]
    assert tokenizers.distinct(rows).tolist() == [0, 1, 3, 5]


def test_usage_counts():
    ids = torch.tensor([[0, 0, 0, 0], [1, 1, 2, 3]])
    assert tokenizers.usage(ids, 10) == {"used": 4, "entropy_bits": 1.75, "top_share": 0.5}
    assert tokenizers.usage(torch.full((3, 3), 7), 10) == {"used": 1, "entropy_bits": 0.0, "top_share": 1.0}


def collapse(shares, vocab=8192):
    p = torch.tensor(shares, dtype=torch.float64)
    p = p / p.sum()
    use = {"used": len(p), "entropy_bits": -(p * p.log2()).sum().item(), "top_share": p.max().item()}
    return tokenizers.collapsed(use, vocab)


def test_collapse_is_told_from_a_flat_background():
    assert collapse([1.0]) and collapse([0.5, 0.5]) and collapse([0.9, 0.05, 0.05])
    assert collapse([0.69, 0.1, 0.08] + [0.13 / 165] * 165) is None  # a few tokens, and a long even tail
    assert collapse([0.69] + [0.31 * 0.5**i for i in range(1, 20)])  # a few tokens, and hardly any tail
    assert collapse([0.8] + [0.2 / 300] * 300) is None  # drawings: four patches of five are background
    assert collapse([1 / 4000] * 4000) is None
    assert collapse([1 / 16] * 16, 16) is None and collapse([0.9, 0.1], 2) is None
    assert "tokens have collapsed: 2 of 8192" in collapse([0.5, 0.5])


def test_the_papers_default_does_not_collapse_and_signed_raw_pixels_do(store):
    """Section 1.5's finding, small: U(-1, 1) on raw pixels falls on few tokens, since brightness decides."""
    data = Stand(n=60)
    x = data.pixels.float() / 255
    used = {}
    for key, given in {"default": {}, "raw signed": {"normalise": "none", "low": -1.0}}.items():
        tokenizer = tokenizers.fitted("random_projection", data, (8, 8), 32, 512, 4, 0, **given)
        used[key] = tokenizers.usage(tokenizer(x, (8, 8)), 512)
        assert math.isfinite(used[key]["entropy_bits"])
    assert used["default"]["entropy_bits"] > used["raw signed"]["entropy_bits"] + 1
    assert tokenizers.collapsed(used["default"], 512) is None
