"""What tokenizers keep of images."""

import math

import pytest
import torch

import mimlab
from mimlab.errors import Refused
from mimlab.layers import patchify
from mimlab.looking import tokens
from mimlab.tokenizers import random_patches, random_projection
from mimlab.tokenizers.dvae import Tokenizer as Dvae

GRID = (4, 6)


@pytest.fixture
def images():
    small = torch.rand(7, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(small, (16, 24), mode="bicubic").clamp(0, 1)


@pytest.fixture
def named(images):
    patches = patchify(images, 4).flatten(0, 1)
    pasted, projected, trained = (
        random_patches.Tokenizer(24, 4),
        random_projection.Tokenizer(24, 4),
        Dvae(8, 4, steps=3),
    )
    pasted.fit(patches, torch.Generator().manual_seed(0))
    projected.fit(None, torch.Generator().manual_seed(0))
    trained.fit((images * 255).byte(), torch.Generator().manual_seed(0))
    return {"pasted": pasted, "projected": projected, "trained": trained}


def test_a_study_holds_what_its_names_say(images, named, monkeypatch):
    monkeypatch.setattr(tokens, "AT_ONCE", 3)  # in parts as at once
    found = tokens.study(images, named, GRID, shown=5)
    rows = {row["tokenizer"]: row for row in found.numbers}
    assert list(rows) == list(found.ids) == list(named) and list(found.decoded) == ["pasted", "trained"]
    for name, tokenizer in named.items():
        ids = tokenizer(images, GRID)
        assert torch.equal(found.ids[name], ids)
        counts = torch.bincount(ids.flatten(), minlength=tokenizer.vocab)
        assert torch.equal(found.counts[name], counts)
        assert counts[found.shown[name]].tolist() == sorted(counts.tolist(), reverse=True)[:5]
        assert found.pictures[name].shape == (5, 3, 4, 4)
        share = counts[counts > 0].double() / counts.sum()
        entropy = float(-(share * share.log2()).sum())
        assert rows[name]["used"] == len(share) and rows[name]["unused"] == tokenizer.vocab - len(share)
        assert rows[name]["entropy (bits)"] == round(entropy, 2) and rows[name]["perplexity"] == round(2**entropy, 1)
    for name, pictures in found.decoded.items():
        assert torch.allclose(pictures, named[name].decode(found.ids[name], GRID), atol=1e-6)
        error = float((pictures - images).square().mean())
        assert rows[name]["PSNR (dB)"] == pytest.approx(-10 * math.log10(error), abs=0.006)
    assert rows["projected"]["PSNR (dB)"] is None


def test_a_token_is_drawn_as_it_is(named):
    ids = torch.tensor([3, 0, 17])
    want = named["pasted"].pixels[ids].view(3, 3, 4, 4).float() / 255
    assert torch.allclose(tokens.drawn(named["pasted"], ids), want)
    whole = named["trained"].decode(torch.full((1, 9), 5), (3, 3))
    assert torch.allclose(tokens.drawn(named["trained"], torch.tensor([5])), whole[:, :, 4:8, 4:8], atol=1e-6)


def test_what_cannot_be_drawn_is_averaged(images, named):
    ids = named["projected"](images, GRID)
    used = ids.unique()
    wanted = used[torch.randperm(len(used))[:6]]
    found = tokens.averaged(images, ids, wanted, GRID, 4)
    patches = patchify(images, 4)
    for token, picture in zip(wanted, found, strict=True):
        assert torch.allclose(picture.flatten(), patches[ids == token].mean(0), atol=1e-5)


def test_what_a_tokenizer_sees_smaller_is_compared_at_the_images_size(images, named):
    large = torch.nn.functional.interpolate(images, (32, 48), mode="nearest")
    found = tokens.study(large, {"pasted": named["pasted"]}, GRID)
    assert found.decoded["pasted"].shape == large.shape
    small = named["pasted"].decode(found.ids["pasted"], GRID)
    assert torch.nn.functional.avg_pool2d(found.decoded["pasted"], 2).sub(small).abs().mean() < 0.02


def test_collapse_is_told_and_nothing_is_refused(images):
    flat = torch.full_like(images, 0.5)
    tokenizer = random_projection.Tokenizer(24, 4)
    tokenizer.fit(None, torch.Generator().manual_seed(0))
    assert tokens.study(flat, {"one": tokenizer}, GRID).numbers[0]["warning"] == "collapsed"
    assert "warning" not in tokens.study(torch.rand(20, 3, 16, 24), {"one": tokenizer}, GRID).numbers[0]
    with pytest.raises(Refused, match="0 tokenizers and 7 images"):
        tokens.study(images, {}, GRID)


def test_neighbours_by_hand():
    ids = torch.tensor([[5, 5, 2, 7, 5, 2], [5, 2, 2, 2, 5, 9]])  # two maps of 2 x 3
    found = tokens.neighbours(ids, (2, 3), torch.tensor([5, 2]))
    assert found.tokens.tolist() == [5, 2]
    # to the right: 5 5, 5 2, 7 5, 5 2; 5 2, 2 2, 2 5, 5 9
    assert found.counts[0].tolist() == [[1, 3], [1, 1]]
    # below: 5 7, 5 5, 2 2; 5 2, 2 5, 2 9
    assert found.counts[1].tolist() == [[1, 1], [1, 1]]
    # of 8 pairs five begin with 5, three end with 5; two begin with 2, four end with 2
    assert found.expected[0].tolist() == [[5 * 3 / 8, 5 * 4 / 8], [2 * 3 / 8, 2 * 4 / 8]]
    assert found.pmi[0, 0, 1] == pytest.approx(math.log2(3 / (5 * 4 / 8)))


def test_neighbours_of_what_repeats_and_of_noise():
    rows = torch.arange(8).repeat_interleave(8).expand(50, -1)  # stripes: always the same at the right, never below
    stripes = tokens.neighbours(rows, (8, 8), torch.arange(8))
    assert torch.equal(stripes.counts[0].diagonal(), torch.full((8,), 350)) and stripes.counts[0].sum() == 8 * 350
    assert stripes.pmi[0].diagonal().tolist() == pytest.approx([3.0] * 8) and stripes.pmi[0].isnan().sum() == 56
    assert stripes.pmi[1].diagonal().isnan().all() and stripes.pmi[1, 0, 1] == pytest.approx(math.log2(7))
    noise = torch.randint(4, (400, 64), generator=torch.Generator().manual_seed(0))
    assert tokens.neighbours(noise, (8, 8), torch.arange(4)).pmi.abs().max() < 0.1


def test_one_row_of_patches_has_nothing_below():
    found = tokens.neighbours(torch.tensor([[1, 1, 0]]), (1, 3), torch.tensor([1, 0]))
    assert found.counts[0].tolist() == [[1, 1], [0, 0]] and not found.counts[1].any() and not found.expected[1].any()


SMALL = {"data": "emoji", "image_size": 28, "patch_size": 7, "vocab": 32, "samples": 30, "images": 2}
SMALL |= {"tokenizers": "random_projection, kmeans, dvae", "tokenizer_args": {"dvae": {"steps": 2, "vocab": 16}}}


def test_explore_studies_what_the_settings_name(tmp_path):
    cfg = mimlab.Tokens(**SMALL, out=str(tmp_path))
    found = tokens.explore(cfg)
    assert cfg.folder() == tmp_path / "tokens"
    assert found.images.shape == (2, 3, 28, 28) and found.grid == (4, 4)
    assert list(found.ids) == list(found.neighbours) == ["random_projection", "kmeans", "dvae"]
    assert list(found.decoded) == ["kmeans", "dvae"]
    assert found.vocab == {"random_projection": 32, "kmeans": 32, "dvae": 16}
    assert all(ids.shape == (2, 16) for ids in found.ids.values())
    assert all(int(counts.sum()) == 30 * 16 for counts in found.counts.values())  # of all samples, not of those shown
    for name, row in zip(found.ids, found.numbers, strict=True):
        assert row["tokenizer"] == name and row["fitting (s)"] >= 0 and row["vocabulary"] == found.vocab[name]
        most = found.neighbours[name]
        assert most.tokens.tolist() == found.shown[name][: tokens.PAIRED].tolist()
        assert 0 < most.counts.sum() <= 30 * 24
    again = tokens.explore(cfg)
    assert torch.equal(again.images, found.images) and torch.equal(again.ids["dvae"], found.ids["dvae"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tokenizers": "kmean"}, "no tokenizers called 'kmean' .did you mean 'kmeans'"),
        ({"tokenizers": " , "}, "names none"),
        ({"tokenizer_args": {"kmens": {}}}, "'kmens' is not compared .did you mean 'kmeans'"),
        ({"tokenizer_args": {"kmeans": {"round": 3}}}, "tokenizer_args: kmeans: no option 'round'.*'rounds'"),
        ({"tokenizer_args": {"kmeans": 3}}, "kmeans = 3 is not a dict"),
        ({"tokenizers": "dalle", "tokenizer_args": {}}, "dalle needs a file"),
        ({"tokenizers": "dalle", "tokenizer_args": {"dalle": {"encoder": "nowhere.pkl"}}}, "nowhere.pkl"),
        ({"tokenizers": "kmeans", "tokenizer_args": {}, "vocab": 999_999}, "vocab = 999999: kmeans makes its vocabulary of"),
        ({"patch_size": 5}, "patch_size = 5 does not divide image_size = 28; try one of: 2, 4, 7, 14"),
        ({"data": "emojis"}, "did you mean 'emoji'"),
        ({"images": 0}, "images = 0"),
        ({"vocab": 1}, "vocab = 1 must lie"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_before_work(given, said):
    with pytest.raises(Refused, match=said):
        mimlab.Tokens(**SMALL | given).resolved()


def test_random_vectors_need_no_patches():
    cfg = mimlab.Tokens(**SMALL | {"tokenizers": "random_projection", "tokenizer_args": {}, "vocab": 999_999})
    assert cfg.resolved() == cfg
