"""The loop: it learns, goes on where it stopped, and refuses before it begins."""

import json
import os
import signal

import pytest
import torch

from mimlab.config.detect import Detect
from mimlab.detection import data, metrics, start, task, training
from mimlab.detection.training import groups, learning_rate, train
from mimlab.encoders import create
from mimlab.errors import Refused
from mimlab.segmentation import task as segmentation

TINY = {
    "encoder_args": {"dim": 16, "depth": 2, "heads": 2},
    "data_args": {"size": 64, "train": 5, "test": 2, "classes": "any"},
    "image_size": 64,
    "channels": 8,
    "hidden": 16,
    "regions": 8,
    "proposals": 20,
    "epochs": 2,
    "batch_size": 2,
    "log_every": 1,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    cfg = Detect(out=str(tmp_path_factory.mktemp("out")), run="whole", **TINY)
    rows = []
    return cfg, train(cfg, report=rows.append), rows


def test_a_result(done):
    cfg, found, rows = done
    stored = json.loads((cfg.folder() / "evals" / "detect.json").read_text())
    assert stored == found == training.result(cfg.folder(), "detect") and "COCO" in found["protocol"]
    assert (found["train_images"], found["test_images"], found["steps"], found["seed"]) == (5, 2, 6, 0)
    assert found["classes"] == ["emoji"] and found["test_objects"] > 0 and 0 <= found["numbers"]["box_ap50"] <= 100
    assert found["init"] == "fresh weights" and found["config"]["lr"] == 5e-4
    ((start, told),) = found["results"].items()
    assert start == "from scratch" and told["metric"] == "box_ap" and told["value"] == found["numbers"]["box_ap"]
    assert told["interval"] == found["intervals"]["box_ap"] and told["interval_over"] == "test images"
    losses = [row for row in rows if "loss" in row]
    assert [row["step"] for row in losses] == [1, 2, 3, 4, 5, 6]
    for row in losses:
        assert row["loss"] == pytest.approx(sum(v for name, v in row.items() if name.startswith("loss_")), rel=1e-4)
    assert rows == [
        {n: v for n, v in row.items() if n != "seconds"} for row in map(json.loads, cfg.log().read_text().splitlines())
    ]
    assert train(cfg) == found  # there already


def test_what_is_interrupted_goes_on_to_the_same_weights(done, tmp_path, monkeypatch):
    cfg = done[0].replace(out=str(tmp_path), run="cut")
    plain, calls = task.mask_rcnn, []

    def count(*_):
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGINT)

    def counted(*a, **k):
        model = plain(*a, **k)
        model.register_forward_pre_hook(count)
        return model

    monkeypatch.setattr(task, "mask_rcnn", counted)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 4 of 6"):
        train(cfg)
    monkeypatch.undo()
    found = train(cfg)
    assert found["numbers"] == done[1]["numbers"]
    ours, theirs = (training.opened(one)[0].state_dict() for one in (cfg, done[0]))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [json.loads(line)["step"] for line in cfg.log().read_text().splitlines()] == [1, 2, 3, 4, 5, 6, 6]


def test_test_images_that_were_trained_on_are_counted_or_refused(tmp_path, monkeypatch, capsys):
    cfg = Detect(out=str(tmp_path), run="shared", **(TINY | {"epochs": 1}))
    monkeypatch.setattr("mimlab.detection.data.scenes.Scenes.shared", lambda self, other: len(self))
    with pytest.raises(Refused, match="all 2 test images are also training images"):
        train(cfg)
    assert not cfg.folder().exists()
    monkeypatch.setattr("mimlab.detection.data.scenes.Scenes.shared", lambda self, other: 1)
    assert train(cfg)["test_images_in_train"] == 1
    assert "1 of 2 test images are also training images" in capsys.readouterr().err


def test_another_configuration_in_the_folder_is_refused(done):
    with pytest.raises(Refused, match="lr = 0.0005 there, 0.1 now"):
        train(done[0].replace(lr=0.1))


@pytest.mark.slow
def test_it_learns_one_image(tmp_path):
    """Boxes, labels and masks arrive where they should: the picture that it trains on is found."""
    pictures = {"size": 64, "train": 1, "test": 1, "classes": "any", "layout": "object"}
    bigger = {"encoder_args": {"dim": 32, "depth": 2, "heads": 2}, "channels": 16, "hidden": 32, "regions": 16}
    cfg = Detect(
        out=str(tmp_path),
        run="one",
        **(TINY | bigger | {"data_args": pictures, "epochs": 160, "lr": 3e-3, "log_every": 160}),
    )
    train(cfg)
    model, _ = training.opened(cfg)
    picture = data.open("scenes", "train", pictures).item(0)
    numbers, *_ = metrics.score([picture], task.predict(model, [picture.image]), ["emoji"])
    assert numbers["box_ap50"] == 100 and numbers["mask_ap50"] == 100


def test_the_schedule_is_the_papers():
    steps = 360
    rates = [learning_rate(step, steps, 10, 1.0) for step in range(steps)]
    assert (
        rates[0] == pytest.approx(0.001)
        and rates[5] == pytest.approx(0.001 + 0.999 / 2)
        and rates[10] == rates[269] == 1
    )
    assert rates[270] == pytest.approx(0.1) == rates[329] and rates[330] == pytest.approx(0.01) == rates[-1]


def test_layer_decay_and_what_is_not_decayed():
    cfg = Detect(**TINY).resolved()
    model = task.build(start.encoder(cfg)[0], ["a"], cfg)
    found = groups(model, 0.05, 0.5, task.spared)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    where = {names[id(p)]: (g["scale"], g["weight_decay"]) for g in found for p in g["params"]}
    trunk = "backbone.encoder.trunk."
    assert where[f"{trunk}patch_embed.proj.weight"] == (0.125, 0.05)
    assert where[f"{trunk}cls_token"] == (0.125, 0.05) and where[f"{trunk}blocks.0.norm1.weight"] == (0.25, 0)
    assert where[f"{trunk}blocks.0.mlp.fc1.weight"] == (0.25, 0.05) and where[f"{trunk}blocks.1.mlp.fc1.weight"] == (
        0.5,
        0.05,
    )
    assert where["backbone.neck.fpn1.0.weight"] == (1, 0.05) and where["roi_heads.box_head.fc6.bias"] == (1, 0.05)
    assert f"{trunk}pos_embed" not in where and f"{trunk}norm.weight" not in where
    assert sum(len(g["params"]) for g in found) == sum(p.requires_grad for p in model.parameters())


def test_what_segmentation_spares_are_beits_biases_too():
    linear = torch.nn.Linear(2, 2)
    assert segmentation.spared("head.bias", linear.bias) and not segmentation.spared("head.weight", linear.weight)
    for name in ("pos_embed", "cls_token", "blocks.0.attn.relative_position_bias_table"):
        assert segmentation.spared(f"backbone.encoder.trunk.{name}", linear.weight)
    assert not task.spared("head.bias", linear.bias) and task.spared("trunk.norm.bias", linear.bias)


def cuts(count, high, wide, long_side=1333):
    """Cut-outs by the paper's recipe of one picture with an object in the middle, of what is not left whole."""
    cfg = Detect(recipe="paper", long_side=long_side).resolved()
    image = torch.zeros(3, high, wide, dtype=torch.uint8)
    mask = torch.zeros(1, high, wide, dtype=torch.uint8)
    top, left = high // 4, wide // 4
    mask[:, top : 3 * top, left : 3 * left], image[:, top : 3 * top, left : 3 * left] = 1, 200
    picture = data.annotated([[left, top, 3 * left, 3 * top]], [1], mask, image)
    found = [task.augmented(picture, cfg, torch.Generator().manual_seed(seed)) for seed in range(count)]
    return picture, [one for one in found if one is not picture]


def test_half_of_the_papers_images_are_cut_out():
    picture, found = cuts(24, 480, 640)
    assert 5 <= len(found) <= 19
    for one in found:
        high, wide = one.image.shape[1:]
        assert 384 <= high <= 600 and 384 <= wide <= 600
        inside = one.masks[0].nonzero()
        (left, top), (right, bottom) = one.boxes[0, :2], one.boxes[0, 2:]
        assert abs(inside[:, 1].min() - left) <= 1 and abs(inside[:, 1].max() + 1 - right) <= 1
        assert abs(inside[:, 0].min() - top) <= 1 and abs(inside[:, 0].max() + 1 - bottom) <= 1
        assert ((one.image[0] > 100) == one.masks[0].bool()).float().mean() > 0.98
    assert len({tuple(one.image.shape) for one in found}) > len(found) // 2
    assert Detect(recipe="small").resolved().multi_scale is False
    assert task.augmented(picture, Detect(recipe="small").resolved(), torch.Generator()) is picture


def test_long_pictures_are_cut_within_their_own_sides_and_objects_outside_are_left_out():
    _, found = cuts(24, 100, 1500, long_side=1000)  # the shorter side ends at 67, below the least side of a cut
    for one in found:
        high, wide = one.image.shape[1:]
        assert high == 67 and 384 <= wide <= 600 and len(one.boxes) == len(one.masks) == len(one.labels) <= 1
    picture = data.annotated([[0, 0, 2, 2], [6, 6, 8, 8]], [1, 2], torch.ones(2, 8, 8), torch.ones(3, 8, 8).byte())
    part = picture.cut(1, 1, 4, 6)
    assert part.boxes.tolist() == [[0, 0, 1, 1]] and part.labels.tolist() == [1] and part.masks.shape == (1, 4, 6)
    empty = picture.cut(3, 3, 2, 2)
    assert len(empty.boxes) == 0 and empty.target()["masks"].shape == (0, 2, 2)
    assert empty.resized(4, 100).masks.shape == (0, 4, 4)


def test_it_trains_on_cut_outs_and_the_same_ones_each_time(tmp_path):
    cfg = Detect(out=str(tmp_path), multi_scale=True, **TINY | {"epochs": 1}).resolved()
    batches = [
        training.Batches(data.open(cfg.data, "train", cfg.data_args), task.target, cfg, task.augmented)
        for _ in range(2)
    ]
    shapes = [[tuple(image.shape) for step in range(6) for image in one[step][0]] for one in batches]
    assert shapes[0] == shapes[1] and len(set(shapes[0])) > 1
    assert train(cfg)["steps"] == 3


def test_starts(tmp_path, monkeypatch):
    encoder = create("vit", 32, 8, dim=16, depth=2, heads=2)
    torch.nn.init.normal_(encoder.trunk.cls_token)
    from safetensors.torch import save_file

    save_file(encoder.trunk.state_dict(), tmp_path / "vit.safetensors")
    cfg = Detect(init=str(tmp_path / "vit.safetensors"), load={"heads": 2}, **TINY).resolved()
    found, said = start.encoder(cfg)
    assert (
        torch.equal(found.trunk.cls_token, encoder.trunk.cls_token)
        and "replaced by sine-cosine" in said
        and "vit.safetensors" in said
    )
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: None)
    with pytest.raises(Refused, match="not on this machine and nothing is downloaded"):
        start.encoder(cfg.replace(init="vit_tiny_patch16_224"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"task": "detec"}, "did you mean 'detect'"),
        ({"recipe": "papers"}, "did you mean 'paper'"),
        ({"data": "coc"}, "did you mean 'coco'"),
        ({"data_args": {"layouts": "scene"}}, "did you mean 'layout'"),
        ({"patch_size": 14}, "2, 4, 8 or 16"),
        ({"epochs": 0}, "epochs = 0"),
        ({"head": "fcn"}, "there are: uper, linear"),
        ({"init": "nowhere"}, "^init = .nowhere. is no run folder"),
        ({"encoder": "resnet18", "encoder_args": {}}, "images of any size"),
    ],
)
def test_refusals_leave_no_folder(given, said, tmp_path):
    with pytest.raises(Refused, match=said):
        train(Detect.read({"out": str(tmp_path)} | TINY | given))
    assert not list(tmp_path.iterdir())


def test_the_papers_recipe():
    cfg = Detect(recipe="paper").resolved()
    assert (cfg.epochs, cfg.lr, cfg.batch_size, cfg.weight_decay, cfg.image_size, cfg.long_side) == (
        36,
        1e-4,
        16,
        0.05,
        800,
        1333,
    )
    encoder = create("vit", 64, 16, dim=16, depth=12, heads=2, positions="sincos")
    model = task.build(encoder, ["a"], cfg)
    assert (
        model.transform.min_size == (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
        and model.transform.max_size == 1333
    )
    assert model.backbone.layers == (3, 5, 7, 11) and model.roi_heads.box_head.fc6.out_features == 1024
    assert model.rpn.anchor_generator.sizes == ((32,), (64,), (128,), (256,), (512,))


def test_a_loss_far_above_the_first_is_told(tmp_path, capsys):
    rows = []
    try:
        train(Detect(out=str(tmp_path), run="far", **(TINY | {"lr": 1.0, "epochs": 3})), report=rows.append)
    except FloatingPointError:
        assert rows  # not finite in the end, which is told too
    assert any(row.get("diverged") for row in rows) and capsys.readouterr().err.count("training diverges") == 1
