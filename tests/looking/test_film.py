"""The training film: faithful frames, and a training that does not notice them."""

import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import mimlab
from mimlab.errors import Refused
from mimlab.looking import film
from mimlab.run import Run

TINY = {
    "data": "emoji", "fraction": 0.1, "image_size": 32, "patch_size": 8, "vocab": 16, "batch_size": 32, "epochs": 3, "knn_every": 0,
    "checkpoint_every": 1, "log_every": 1, "device": "cpu", "encoder_args": {"dim": 24, "depth": 2, "heads": 3},
}  # fmt: skip
MAE = {"method": "mae", "method_args": {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}}
DINO = {
    "method": "dino", "method_args": {"out_dim": 32, "head_dim": 16, "bottleneck_dim": 8}, "augment": {"local_crops": 2},
}  # fmt: skip
XCIT = {"method": "simmim", "encoder": "xcit", "encoder_args": {"dim": 24, "depth": 1, "heads": 3}}
RESNET = {"method": "cim", "encoder": "resnet18", "encoder_args": {}, "batch_size": 16, "epochs": 1, "fraction": 0.03}
RESNET |= {"method_args": {"generator_dim": 24, "generator_depth": 1, "generator_heads": 3}}


def settings(out, **changes):
    return mimlab.Pretrain(**TINY | {"out": str(out)} | changes)


@pytest.fixture(scope="module")
def mae(tmp_path_factory):
    return mimlab.pretrain(settings(tmp_path_factory.mktemp("mae"), **MAE, keep_weights=True))


def test_a_frame_before_the_first_step_and_at_every_checkpoint(mae):
    found = film.read(mae)
    assert found.steps == [0, *mae.weights()] == [0, 2, 4, 6]
    assert found.images.shape == (4, 3, 32, 32) and found.images.dtype == np.uint8 and found.grid == (4, 4)
    assert found.mask.shape == (4, 16) and (found.mask.sum(1) == 12).all()
    assert found.filled.shape == (4, 4, 3, 32, 32) and found.filled.dtype == np.uint8
    assert found.attention.shape == (4, 4, 16) and found.features.shape == (4, 4, 16, 24)
    assert found.attention.dtype == found.features.dtype == np.float16 and "filled in: " in found.note
    assert all(not np.array_equal(found.filled[k], found.filled[k + 1]) for k in range(3))
    assert not list(mae.path.rglob("*.part"))


def test_frames_are_what_the_weights_give(mae):
    kept, again = film.read(mae), film.computed(mae)
    assert (
        again.steps == kept.steps[1:]
        and np.array_equal(again.images, kept.images)
        and np.array_equal(again.mask, kept.mask)
    )
    for name in ("filled", "attention", "features"):
        assert np.array_equal(getattr(again, name), getattr(kept, name)[1:]), name
    method, images, mask = mae.method(), torch.from_numpy(kept.images) / 255, torch.from_numpy(kept.mask)
    with torch.no_grad():
        patches = method.deployed(images)[1]
        weights = method.deployed.attention(images, [1])[1].mean(1)[:, 0, 1:]  # of CLS, without itself
        filled = method.reconstruct(images, mask).images
    assert np.allclose(kept.features[-1], patches, atol=2e-3 * float(patches.abs().max()))
    assert np.allclose(kept.attention[-1], weights / weights.sum(1, keepdim=True), atol=1e-4)
    assert np.allclose(kept.filled[-1] / 255, filled, atol=2.1 / 255)


def test_images_are_of_the_test_split_and_do_not_depend_on_their_number(mae):
    test = Run.open(mae.path).data("test")
    every = {image.tobytes() for image in test.get(np.arange(len(test))).numpy()}
    images = film.read(mae).images
    assert all(image.tobytes() in every for image in images) and len({image.tobytes() for image in images}) == 4
    assert np.array_equal(film.computed(mae, count=2).images, images[:2])


@pytest.mark.parametrize(
    "changes", [MAE, DINO, XCIT, {"tokenizer": "kmeans", "drop_path": 0.2}], ids=["mae", "dino", "xcit", "splitmask"]
)
def test_training_does_not_notice_its_film(changes, tmp_path):
    torch.set_num_threads(1)
    with_film, without = (mimlab.pretrain(settings(tmp_path / str(k), **changes, film=k)) for k in (3, 0))
    one, other = (load_file(run.path / "method.safetensors") for run in (with_film, without))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    losses = [[row["loss"] for row in run.metrics() if "loss" in row] for run in (with_film, without)]
    assert losses[0] == losses[1] and not (without.path / "film").exists()
    assert with_film.path.name == without.path.name  # the fingerprint is of what the result depends on
    found = film.read(with_film)
    assert len(found.images) == 3 and found.steps == [0, 2, 4, 6]
    if changes is DINO:
        assert (
            found.filled is None
            and found.mask is None
            and found.note == "this run predicts no picture; images chosen by seed 0"
        )
    else:
        assert found.filled is not None
    assert np.allclose(found.attention.astype(float).sum(2), 1, atol=2e-3)


def test_what_there_is_not_is_said(tmp_path):
    found = film.read(mimlab.pretrain(settings(tmp_path, **RESNET)))
    assert found.attention is None and "no attention: resnet18 has no attention" in found.note
    assert found.features is not None and found.filled is not None


def test_a_film_goes_on_where_the_run_does(tmp_path):
    whole = film.read(mimlab.pretrain(settings(tmp_path / "whole", **MAE)))
    cut = settings(tmp_path / "cut", **MAE)

    def interrupt(row):
        if row["step"] == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        mimlab.pretrain(cut, report=interrupt)
    run = Run.at(cut.folder())
    stopped = max(run.checkpoints())
    assert list(film.read(run).steps) == sorted({0, 2, stopped})
    (run.path / "film" / "00000006.npz").write_bytes(
        (run.path / "film" / "00000002.npz").read_bytes()
    )  # of a killed process
    (run.path / "film" / "00000005.npz").write_bytes(b"cut off")
    found = film.read(mimlab.pretrain(cut.replace(film=2)))  # the number may change; a film keeps its images
    places = [found.steps.index(step) for step in whole.steps]
    assert set(found.steps) == {*whole.steps, stopped}
    for name in ("filled", "attention", "features"):
        assert np.array_equal(getattr(found, name)[places], getattr(whole, name)), name


def test_damaged_frames_are_left_out_and_a_run_without_any_is_told(mae, tmp_path):
    run = mimlab.pretrain(settings(tmp_path, **MAE, epochs=2))
    (run.path / "film" / "00000002.npz").write_bytes(b"PK\x03\x04 cut off")
    assert film.read(run).steps == [0, 4]
    (run.path / "film" / film.FIXED).write_bytes(b"")
    with pytest.raises(Refused, match="has kept no film; film = 4 keeps one"):
        film.read(run)
    none = film.of(run)
    assert (
        none.steps == []
        and none.images is None
        and "neither a film nor the weights of several checkpoints" in none.note
    )
    assert film.of(str(mae.path)).steps == film.of(mae.path.name, str(mae.path.parent)).steps == [0, 2, 4, 6]
    alone = film.of(mae.path / "encoder.safetensors")
    assert alone.steps == [] and "only a run can show how it was trained" in alone.note
    for path in (mae.path / "film").iterdir():
        path.rename(path.with_suffix(".away"))
    try:
        assert film.of(mae).steps == [2, 4, 6]  # from the kept weights
    finally:
        for path in (mae.path / "film").iterdir():
            path.rename(path.with_suffix(".npz"))


def test_a_full_disk_ends_no_training(tmp_path, monkeypatch, capsys):
    def full(file, **arrays):
        file.write(b"x")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    run = mimlab.pretrain(settings(tmp_path, **MAE, epochs=1))
    assert run.finished and list((run.path / "film").iterdir()) == []
    said = capsys.readouterr().err
    assert "warning: cannot write film/fixed.npz: No space left on device" in said and "film/00000002.npz" in said


def test_film_is_a_number_of_images():
    with pytest.raises(Refused, match="film = 65 must lie between 0 and 64"):
        mimlab.Pretrain(film=65).resolved()


def test_undisturbed_leaves_modes_and_generators():
    module = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm1d(3)).train()
    module[0].eval()
    torch.manual_seed(0)
    want = torch.rand(3)
    torch.manual_seed(0)
    with pytest.raises(ZeroDivisionError), film.undisturbed(module):
        assert not module.training and not module[1].training and not torch.is_grad_enabled()
        torch.rand(100)
        module(torch.rand(4, 3))
        raise ZeroDivisionError
    assert module.training and module[1].training and not module[0].training and torch.is_grad_enabled()
    assert torch.equal(torch.rand(3), want) and module[1].num_batches_tracked == 0


def test_attention_of_cls_or_of_all_patches():
    weights = torch.rand(2, 3, 5, 5).softmax(-1)
    encoder = SimpleNamespace(depth=4, prefix=1, has_cls=True, attention=lambda images, layers: {layers[0]: weights})
    found = film.looked(encoder, None)
    want = weights.mean(1)[:, 0, 1:]
    assert torch.allclose(found, want / want.sum(1, keepdim=True)) and torch.allclose(found.sum(1), torch.ones(2))
    encoder.prefix, encoder.has_cls = 0, False
    assert torch.allclose(film.looked(encoder, None), weights.mean((1, 2)), atol=1e-6)


def test_wide_features_are_kept_on_fixed_directions():
    x = torch.randn(2, 30, 400, generator=torch.Generator().manual_seed(0))
    assert film.narrowed(x, 400) is x
    small = film.narrowed(x, 200)
    assert small.shape == (2, 30, 200) and torch.equal(small, film.narrowed(x, 200))
    assert torch.allclose(
        film.narrowed(x[:1] + x[1:], 200), small[:1] + small[1:], atol=1e-4
    )  # linear: one basis for all
    apart = ~torch.eye(30, dtype=torch.bool)
    ratio = (torch.cdist(small, small) / torch.cdist(x, x))[:, apart]
    assert abs(float(ratio.mean()) - 0.5**0.5) < 0.02 and float(ratio.std()) < 0.06  # distances, up to one factor


def test_colours_are_components_of_the_last_step():
    generator = torch.Generator().manual_seed(0)
    along = torch.rand(2, 50, 1, generator=generator) * 10
    last = along * torch.tensor([3.0, 4.0, 0.0]) / 5 + 0.01 * torch.randn(2, 50, 3, generator=generator)
    first = torch.full_like(last, -20.0)
    found = film.projected(torch.stack([first, last, last]).numpy())
    assert found.shape == (3, 2, 50, 3) and found.dtype == np.uint8
    order = along.flatten().argsort()
    red = found[2].reshape(-1, 3)[order, 0].astype(int)
    assert red[0] == 0 and red[-1] == 255 and np.diff(red).min() >= -3  # the first component, in its own direction
    assert np.array_equal(found[1], found[2])
    assert (found[0] == found[0, 0, 0]).all() and found[0, 0, 0, 0] == 0  # far outside is clipped
    assert np.array_equal(film.projected(np.stack([first, last, last]) * 2.0), found)
    assert film.projected(np.zeros((2, 1, 2, 8), np.float16)).shape == (2, 1, 2, 3)  # two patches, all alike
