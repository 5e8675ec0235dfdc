"""Runs written for other programs, and read back."""

import json

import pytest
import timm
import torch
from oracle_cases import cases, load

import mimlab
from mimlab import checkpoints
from mimlab.__main__ import main
from mimlab.errors import Refused
from mimlab.export import export, official
from mimlab.run import Run

VIT = {"dim": 24, "depth": 2, "heads": 3}
DECODER = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
SETTINGS = {
    "mae": {"method": "mae", "encoder_args": VIT, "method_args": DECODER},
    "components": {"method": "mae", "encoder_args": VIT, "method_args": DECODER | {"target": "pca"}},
    "masked_encoder": {"method": "mae", "encoder_args": VIT, "method_args": DECODER | {"mask_in_encoder": True}},
    "beit": {"method": "beit", "encoder": "beit", "encoder_args": VIT, "vocab": 16},
    "splitmask": {"method": "splitmask", "encoder_args": VIT, "vocab": 16},
    "dino": {"method": "dino", "encoder_args": VIT, "method_args": {"out_dim": 8, "head_dim": 8, "bottleneck_dim": 4}},
    "simmim": {"method": "simmim", "encoder": "beit", "encoder_args": VIT | {"absolute": True, "normalise": "imagenet"}},
    "no_class_token": {"method": "mae", "encoder_args": VIT | {"class_token": False}, "method_args": DECODER},
    "per_block": {"method": "beit", "encoder": "beit", "encoder_args": VIT | {"bias": "per_block"}, "vocab": 16},
    "xcit": {"method": "simmim", "encoder": "xcit", "encoder_args": {"dim": 32, "depth": 1, "heads": 2}, "patch_size": 8, "image_size": 32},
}  # fmt: skip


def finished(name, folder):
    """A run folder as a training leaves it, but with random weights."""
    cfg = mimlab.Pretrain(**{"patch_size": 7, "out": str(folder), "keep_weights": True} | SETTINGS[name]).resolved()
    run = Run.at(folder / name)
    run.path.mkdir()
    torch.manual_seed(0)
    method = cfg.build()
    for parameter in method.parameters():  # so that no table is zero, no norm one
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    about = {
        "settings": cfg.dict(),
        "data_fingerprint": "abc",
        "images": 960,
        "classes": None,
        "timm": method.encoder.spec,
    }
    (run.path / "config.json").write_text(json.dumps(about | {"versions": {"torch": "2"}, "commit": "0123abc"}))
    run.append({"step": 10, "loss": 0.5, "note": "text"})
    run.append({"step": 20, "loss": 0.25})
    run.write_weights("method", method)
    run.write_weights("encoder", method.deployed.trunk)
    (run.path / "weights").mkdir()
    (run.path / "weights" / "00000010.safetensors").write_bytes((run.path / "method.safetensors").read_bytes())
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("runs"), {}

    def get(name):
        if name not in made:
            made[name] = finished(name, folder)
        return made[name]

    return get


def equal(one, two):
    one, two = one.state_dict(), two.state_dict()
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.mark.parametrize("name", ["masked_encoder", "components"])
def test_a_method_that_maes_code_does_not_have_is_no_file_of_it(name, runs, tmp_path):
    folder = export(runs(name), "mae", str(tmp_path / "out"))
    assert (folder / "encoder.pth").exists() and not (folder / "method.pth").exists()


def test_maes_files_come_back_bit_for_bit(runs, tmp_path):
    run = runs("mae")
    out = export(run, "mae", tmp_path / "out")
    assert sorted(p.name for p in out.iterdir()) == ["README.md", "encoder.pth", "method.pth"]
    method = run.method()
    back = checkpoints.method(out / "method.pth", heads=3, decoder_heads=2, norm_pix=True)
    assert equal(back, method) and back.loaded == ("mae", [], [], [])
    encoder = checkpoints.encoder(out / "encoder.pth", heads=3)
    assert equal(encoder, method.encoder) and encoder.loaded.format == "mae_encoder"
    images = torch.rand(2, 3, 28, 28)
    assert torch.equal(encoder(images)[1], method.encoder(images)[1])
    names = set(torch.load(out / "method.pth", weights_only=True)["model"])
    real = set(load(cases("mae_pretrain")[0])[0])
    assert {n for n in names if "blocks." not in n} == {n for n in real if "blocks." not in n}


def test_beits_files_come_back_with_the_index_tables(runs, tmp_path):
    run = runs("beit")
    out = export(run, "beit", tmp_path / "out")
    method = run.method()
    back = checkpoints.method(out / "method.pth", method.tokenizer)
    assert equal(back, method) and back.loaded.format == "beit"
    encoder = checkpoints.encoder(out / "encoder.pth")
    assert equal(encoder, method.encoder) and encoder.loaded.format == "beit_encoder" and encoder.loaded.missing == []
    per_block = export(runs("per_block"), "beit", tmp_path / "per_block")
    encoder = checkpoints.encoder(per_block / "encoder.pth")
    assert equal(encoder, runs("per_block").encoder())


@pytest.mark.parametrize("name", cases("beit_pretrain"))
def test_the_index_table_is_the_official_one(name):
    from mimlab.checkpoints.beit import index_tables
    from mimlab.encoders import create

    state, _, case = load(name)
    config = case["config"]
    size = config["img_size"] if isinstance(config["img_size"], int) else tuple(config["img_size"])
    trunk = create("beit", size, config["patch_size"], dim=24, depth=1, heads=3).trunk
    for key, index in index_tables(trunk).items():
        assert key == "rel_pos_bias.relative_position_index"
        assert index.dtype == torch.int64 and (key not in state or torch.equal(index, state[key]))


@pytest.mark.parametrize("name", cases("official_names"))
def test_full_size_names_and_shapes_are_the_official_ones(name, monkeypatch, tmp_path):
    """What a full-size run would write, without its 350 MB."""
    written = {}
    monkeypatch.setattr(torch, "save", lambda content, path: written.update({path.name: content["model"]}))
    for method, kind, encoder in (("mae", "mae_pretrain", "vit_base"), ("beit", "beit_pretrain", "beit_base")):
        cfg = mimlab.Pretrain(
            method=method, encoder=encoder, encoder_args={}, image_size=224, patch_size=16, vocab=8192
        )
        cfg, run = cfg.resolved(), Run.at(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps({"settings": cfg.dict()}))
        with torch.device("meta"):
            built = cfg.build()
        official(run, built, built.encoder, method, tmp_path)
        want = {n: tuple(shape) for n, shape in load(name)[2]["models"][kind].items()}
        assert {n: tuple(v.shape) for n, v in written["method.pth"].items()} == want
        alone = {n for n in want if not n.startswith(("decoder", "mask_token", "lm_head"))}
        assert set(written["encoder.pth"]) == alone


@pytest.mark.parametrize("name", list(SETTINGS))
def test_timm_loads_the_folder_offline_with_equal_features(name, runs, tmp_path):
    run = runs(name)
    out = export(run, "timm", tmp_path / "out")
    assert sorted(p.name for p in out.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    encoder = run.encoder()
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    images = torch.rand(2, 3, *(side * encoder.patch for side in encoder.grid))
    with torch.no_grad():
        cls, patches = encoder(images)
        got = model.forward_features(encoder.normalise(images))
    assert torch.allclose(got[:, encoder.prefix :], patches, atol=1e-5)
    assert cls is None or torch.allclose(got[:, 0], cls, atol=1e-5)
    found = timm.data.resolve_model_data_config(model)
    assert found["mean"] == pytest.approx(encoder.normalise.mean.flatten().tolist())
    assert found["std"] == pytest.approx(encoder.normalise.std.flatten().tolist())
    assert list(found["input_size"]) == [3, *images.shape[2:]] and model.num_classes == 0
    written = json.loads((out / "config.json").read_text())["pretrained_cfg"]
    assert not {"license", "tag"} & set(written)  # of timm's own weights
    if name != "xcit":  # its shapes do not tell all
        back = checkpoints.encoder(out / "model.safetensors")
        assert equal(back, encoder) and torch.equal(back.normalise.mean, encoder.normalise.mean)
        with torch.no_grad():
            assert torch.equal(back(images)[1], patches)  # the heads, too


def test_a_timm_folder_of_an_official_file_has_its_timm_name(tmp_path):
    from mimlab.export import timm_folder

    small = timm.create_model("vit_small_patch16_224", img_size=32, num_classes=0)
    torch.save({"model": small.state_dict()}, tmp_path / "official.pth")
    encoder = checkpoints.encoder(tmp_path / "official.pth")
    (tmp_path / "out").mkdir()
    timm_folder(encoder, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architecture"] == "vit_small_patch16_224"
    assert equal(timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True), small)


@pytest.mark.parametrize("name", list(SETTINGS))
def test_files_of_a_run_folder_are_opened_with_its_settings(name, runs):
    """Heads of 8 channels and the pixels' statistics are told by config.json."""
    run = runs(name)
    images = torch.rand(2, 3, *(side * run.encoder().patch for side in run.encoder().grid))
    for file in ("encoder.safetensors", "method.safetensors"):
        encoder = checkpoints.encoder(run.path / file)
        assert torch.equal(encoder(images)[1], run.encoder()(images)[1]) and encoder.loaded.missing == []
    opened = checkpoints.open(run.path / "method.safetensors")
    assert opened.format == "mimlab" and equal(opened.method(), run.method())
    early = checkpoints.open(run.path / "weights" / "00000010.safetensors")
    assert equal(early.method(), run.method(10)) and early.encoder().grid == encoder.grid
    with pytest.raises(Refused, match="lies in a run folder, whose config.json tells heads"):
        opened.encoder(heads=6)


def test_a_file_taken_out_of_its_run_tells_less(runs, tmp_path):
    for file in ("encoder.safetensors", "method.safetensors"):
        (tmp_path / file).write_bytes((runs("mae").path / file).read_bytes())
        with pytest.raises(Refused, match="nothing tells the heads of a width of 24; give heads"):
            checkpoints.encoder(tmp_path / file)
        encoder = checkpoints.encoder(tmp_path / file, heads=3)
        assert equal(encoder, runs("mae").encoder()) and encoder.grid == (4, 4)
    with pytest.raises(Refused, match="config.json of its run is needed"):
        checkpoints.method(tmp_path / "method.safetensors")


def test_the_card_tells_what_it_is(runs, tmp_path):
    run = runs("splitmask")
    (run.path / "evals").mkdir()
    results = {"after splitmask": {"top1": 61.25, "values": [61.0, 61.5], "spread": None, "k": 20}}
    (run.path / "evals" / "knn.json").write_text(json.dumps({"results": results}))
    text = (export(run, "timm", tmp_path / "final") / "README.md").read_text()
    for said in (
        "library_name: timm", "pre-trained with splitmask (recipe paper) on fashion_mnist: 960 images, epochs 20, seed 0",
        "| loss | 0.25 |", "- knn, after splitmask: top1 61.25, k 20", "less the mean [0.485, 0.456, 0.406]", 
        'timm.create_model("local-dir:FOLDER", pretrained=True)', "commit 0123abc; data fingerprint abc", "torch 2",
    ):  # fmt: skip
        assert said in text
    assert str(run.settings.out) not in text and '"mask_ratio": 0.5' in text  # settings, but no place on a disk
    text = (export(run, "timm", tmp_path / "early", step=10) / "README.md").read_text()
    assert "| loss | 0.5 |" in text and "as it was at step 10" in text and "61.25" not in text


def test_nothing_is_overwritten_and_nothing_half_done(runs, tmp_path, capsys):
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(Refused, match="taken' is there already"):
        export(runs("mae"), "mae", taken)
    for name, format, said in (
        ("splitmask", "beit", "'beit' has no names for encoder = vit; use timm, or mae"),
        ("beit", "mae", "'mae' has no names for encoder = beit; use timm, or beit"),
        ("xcit", "mae", "'mae' has no names for encoder = xcit; use timm$"),
        ("no_class_token", "mae", "encoder = vit without a class token"),
        ("mae", "onnx", "format = 'onnx'; there are: mae, beit, timm"),
    ):
        with pytest.raises(Refused, match=said):
            export(runs(name), format, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [taken]
    out = export(runs("splitmask"), "mae", tmp_path / "out")  # no decoder of MAE's: the encoder alone
    assert not (out / "method.pth").exists() and (out / "encoder.pth").exists()
    path = str(runs("mae").path)
    assert main(["export", path, "--format", "mae", "--out", str(tmp_path / "cli")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "cli")
    assert main(["export", path, "--format", "mae", "--out", str(tmp_path / "cli")]) == 2
    assert "is there already" in capsys.readouterr().err
