"""Features on disk: the same numbers, made once, told apart by everything that they depend on."""

import pytest
import torch

from mimlab.errors import Refused
from mimlab.evals import _cache
from mimlab.evals._cache import features


def means(encoder, pixels):
    means.calls += len(pixels)
    return {"mean": encoder.features(pixels), "half": encoder.features(pixels, "cls")[:, None].half()}


@pytest.fixture(autouse=True)
def counted():
    means.calls = 0


def test_stored_features_are_the_computed_ones_and_computed_once(encoder, squares, tmp_path):
    images = squares(21)
    plain = features(encoder, images, "means", means, batch=8)
    for _ in range(2):
        stored = features(encoder, images, "means", means, batch=8, cache=tmp_path)
        assert stored.keys() == plain.keys() and all(torch.equal(stored[name], plain[name]) for name in plain)
    assert stored["mean"].shape == (21, 24) and stored["half"].dtype == torch.float16
    assert means.calls == 2 * 21 and len(list(tmp_path.iterdir())) == 1


def test_whatever_changes_the_features_changes_the_file(encoder, squares, tmp_path):
    images = squares(8)
    one = features(encoder, images, "means", means, cache=tmp_path)["mean"]
    features(encoder, squares(8, seed=1), "means", means, cache=tmp_path)
    features(encoder, images, "others", means, cache=tmp_path)
    crops = [features(encoder, images, "means", means, view=view, cache=tmp_path)["mean"] for view in (0, 1)]
    assert not torch.equal(crops[0], crops[1]) and not torch.equal(crops[0], one)
    with torch.no_grad():
        encoder.trunk.norm.bias += 1
    changed = features(encoder, images, "means", means, cache=tmp_path)["mean"]
    assert torch.allclose(changed, one + 1, atol=1e-5)
    assert len(list(tmp_path.iterdir())) == 6


def test_a_damaged_file_is_made_anew_and_a_failure_leaves_nothing(encoder, squares, tmp_path):
    images = squares(8)
    whole = features(encoder, images, "means", means, cache=tmp_path)["mean"].clone()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-10])
    assert torch.equal(features(encoder, images, "means", means, cache=tmp_path)["mean"], whole)
    path.unlink()

    def broken(encoder, pixels):
        return {"mean": encoder.features(pixels) * float("nan")}

    with pytest.raises(Refused, match="not finite"):
        features(encoder, images, "means", broken, cache=tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="set MIMLAB_HOME"):
        features(encoder, images, "means", means, cache=tmp_path / "file")


def test_weights_are_those_of_this_encoder(encoder):
    before = _cache.weights(encoder)
    assert before == _cache.weights(encoder) and len(before) == 32
    encoder.normalise.mean += 0.1
    assert _cache.weights(encoder) != before


def test_the_modes_of_all_modules_are_put_back(encoder, squares):
    encoder.train()
    encoder.trunk.norm.eval()
    features(encoder, squares(4), "means", means)
    assert encoder.training and encoder.trunk.blocks[0].training and not encoder.trunk.norm.training
