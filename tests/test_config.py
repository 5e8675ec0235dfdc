"""Settings: coercion, recipes, refusals; notebooks and files that must agree with them."""

import dataclasses
import json
import math
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from mimlab import config, settings
from mimlab.config import Evaluate, Pretrain
from mimlab.errors import Refused
from mimlab.find import find, names

ROOT = Path(config.__file__).parent.parent.parent
CLASSES = [getattr(config, name) for name in config.__all__]
METHODS = names("methods")


def test_values_are_coerced_by_type():
    cfg = Pretrain.read(
        {"lr": "1e-4", "epochs": "3", "mask_args": "{min_block: 2}", "fraction": 1, "run": "x", "mask": None}
    )
    assert (cfg.lr, cfg.epochs, cfg.mask_args, cfg.fraction) == (1e-4, 3, {"min_block": 2}, 1.0)
    assert isinstance(cfg.fraction, float) and cfg.run == "x" and cfg.mask is None
    assert Evaluate.read({"baseline": "false"}).baseline is False
    cfg = Pretrain(updates=100, lr="1e-4", out=Path("runs"), epochs=np.int64(3)).replace(log_every="5")
    assert (cfg.updates, cfg.lr, cfg.out, cfg.epochs, cfg.log_every) == ("100", 1e-4, "runs", 3, 5)
    assert type(cfg.epochs) is int and Pretrain(updates=100).resolved().updates == "100"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"epochs": 2.5}, "epochs = 2.5 is not a whole number"),
        ({"epochs": "many"}, "epochs = 'many' is not a whole number"),
        ({"lr": "fast"}, "lr = 'fast' is not a number"),
        ({"batch_size": True}, "batch_size = True is not a whole number"),
        ({"batch_size": None}, "batch_size = None: needs a value"),
        ({"mask_args": "[1]"}, "mask_args = '.1.' is not a dict"),
        ({"mask_ration": 0.5}, "no parameter 'mask_ration' .did you mean 'mask_ratio'"),
        ({"foo": 1}, "no parameter 'foo'; there are: method,"),
    ],
)
def test_values_that_do_not_fit(given, said):
    with pytest.raises(Refused, match=said):
        Pretrain.read(given)


@pytest.mark.parametrize(
    ("kind", "value", "found"),
    [
        (int, 10**17 + 1, 10**17 + 1), (int, "100000000000000001", 10**17 + 1), (int, "1e3", 1000), (int, " 7 ", 7), (int, "1_000", 1000), (int, 2.0, 2), (int, "2.50e1", 25),
        (int, "1.5", None), (int, "1e-1", None), (int, "inf", None), (int, math.inf, None), (int, math.nan, None), (int, 10**400, None), (int, "1e400", None), (int, 2**63, None),
        (int, "²", None), (int, "१", None), (int, b"3", None), (int, True, None), (int, "1e999999999999", None), (int, "9" * 5000, None), (int, "0x10", None), (int, 1 + 0j, None),
        (float, "1e-3", 1e-3), (float, ".5", 0.5), (float, "+1E3", 1000.0), (float, 3, 3.0), (float, np.float32(0.5), 0.5), (float, "nan", None), (float, "-inf", None), (float, 10**400, None),
        (float, "1e400", None), (float, b"1", None), (float, "१", None), (float, True, None), (bool, "no", False), (bool, "YES", True), (bool, "off", False), (bool, 1, True), (bool, 0, False),
        (bool, 2, None), (bool, "maybe", None), (bool, 1.0, None), (bool, [], None), (str, 7, "7"), (str, Path("a/b"), "a/b"), (str, "no", "no"), (str, False, None), (str, b"x", None),
        (str, math.nan, None), (str, ["a"], None), (str, "a\0b", None), (str, "\ud800", None), (str, "a\nb", None), (str, "x" * 300, None), (str, "caf\udce9", "caf\udce9"), (str, "0" * 100, "0" * 100),
        (dict, "{a: 1e-3, b: no}", {"a": 1e-3, "b": "no"}), (dict, {"a": Path("x"), "b": (np.int64(1), [np.float32(0.5)])}, {"a": "x", "b": (1, [0.5])}), (dict, {"a": math.nan}, None),
        (dict, {1: 2}, None), (dict, {"a": {None: 1}}, None), (dict, {"a": {1}}, None), (dict, {"a": print}, None), (dict, {"a": 10**30}, None), (dict, [], None), (dict, {"a": b"x"}, None),
    ],
)  # fmt: skip
def test_a_value_is_exact_or_refused(kind, value, found):
    if found is not None:
        made = settings.coerce("field", value, kind)
        assert made == found and type(made) is type(found)
        return
    with pytest.raises(Refused, match="^field") as error:
        settings.coerce("field", value, kind)
    assert len(str(error.value)) < 700


def test_seeds_are_what_every_library_takes():
    for cls in CLASSES:
        if "seed" in cls.defaults():
            for seed in (-1, 2**32, 10**18):
                with pytest.raises(Refused, match=f"seed = {seed} must lie between 0 and 4294967295"):
                    cls(seed=seed).resolved()
    assert Pretrain(seed=2**32 - 1).resolved().seed == 2**32 - 1


def test_a_notebooks_globals():
    """Other names are normal there; one that is nearly a field's is a typo."""
    other = {"__name__": "__main__", "In": [], "torch": math, "step": 3, "_i": "x", "lr": "2e-3"}
    assert Pretrain.read(other).lr == 2e-3
    with pytest.raises(Refused, match="did you mean 'batch_size'"):
        Pretrain.read(other | {"batchsize": 3})


@pytest.mark.parametrize("method", METHODS)
def test_recipes_fill_every_none(method):
    for recipe in find("methods", method).RECIPE:
        cfg = Pretrain(method=method, recipe=recipe, epochs=None, batch_size=256).resolved()
        assert [name for name, value in cfg.dict().items() if value is None] == ["preset", "run"]
        json.dumps(cfg.dict())
        paper = find("methods", method).RECIPE[recipe]
        assert cfg.epochs == paper["epochs"] and cfg.lr == paper["lr"]
        assert cfg.warmup_epochs == pytest.approx(paper["warmup_epochs"])
        assert set(paper) <= {f.name for f in dataclasses.fields(Pretrain)}
        assert Pretrain.read(cfg.dict()).resolved() == cfg  # reading back changes nothing


def test_published_numbers():
    """Papers.md 1.6, 2.4, 6.1: learning rates are for 256 images."""
    lr = {m: find("methods", m).RECIPE["paper"]["lr"] for m in ("mae", "beit", "splitmask")}
    assert lr["mae"] * 4096 / 256 == pytest.approx(2.4e-3)
    assert lr["beit"] * 2048 / 256 == lr["splitmask"] * 2048 / 256 == pytest.approx(1.5e-3)
    small = find("methods", "splitmask").RECIPE["small"]
    assert (small["mask"], small["mask_ratio"], small["epochs"]) == ("random", 0.75, 5000)


def test_warmup_is_the_papers_share():
    assert Pretrain(method="mae", epochs=20).resolved().warmup_epochs == pytest.approx(1.0)


def test_another_strategy_drops_the_papers_options_for_its_own():
    assert Pretrain(mask="random").resolved().mask_args == {}
    assert Pretrain(tokenizer="kmeans").resolved().tokenizer_args == {}
    assert Pretrain(method_args={"match": False}).resolved().method_args == {"match": False}
    assert Pretrain(method="mae", method_args={"decoder_depth": 1}).resolved().method_args["decoder_dim"] == 512


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"method": "splitmsk"}, "no methods called 'splitmsk' .did you mean 'splitmask'"),
        ({"recipe": "large"}, "splitmask has paper, small"),
        ({"mask": "blokwise"}, "did you mean 'blockwise'.*there are:"),
        ({"mask": "no.such.module"}, "no module called 'no.such.module'"),
        ({"mask_ratio": 1.0}, "mask_ratio = 1.0"),
        ({"mask_ratio": 0.999}, "hides 49 of 49"),
        ({"mask_args": {"min_blok": 3}}, "did you mean 'min_block'"),
        ({"patch_size": 5}, "patch_size = 5 does not divide image_size = 28; try one of: 2, 4, 7, 14"),
        ({"encoder_args": {"dim": 96, "heads": 5}}, "heads = 5 does not divide dim = 96"),
        ({"encoder": "vit_smal"}, "timm has no model called"),
        ({"tokenizer": "none"}, "predicts tokens and needs one"),
        ({"method": "mae", "tokenizer": "kmeans"}, "takes none"),
        ({"method": "mae", "encoder": "beit"}, "vit family"),
        ({"tokenizer_args": {"low": 1, "high": 0}}, "low"),
        ({"augment": {"scal": 1}}, "did you mean 'scale'"),
        ({"data": "fashion"}, "no data called 'fashion' .did you mean 'fashion_mnist'"),
        ({"data": "folder"}, "folder needs the option 'path'"),
        ({"data_args": {"pth": "x"}}, "no option 'pth'"),
        ({"fraction": 0.0}, "fraction = 0.0"),
        ({"fraction": 1.5}, "fraction = 1.5 must lie between"),
        ({"epochs": 0}, "epochs = 0"),
        ({"updates": "lots"}, "updates = 'lots'"),
        ({"schedule": "linear"}, "fraction, table"),
        ({"warmup_epochs": 30}, "warmup_epochs = 30"),
        ({"accumulate": 2}, "accumulate = 2: splitmask's loss compares the images"),
        ({"method": "mae", "accumulate": 3}, "use a multiple of 3"),
        (
            {"method": "simmim", "encoder": "xcit", "image_size": 32, "patch_size": 8, "accumulate": 2},
            "accumulate = 2: encoder = xcit has BatchNorm, .*use accumulate = 1 .* or more processes, or .* vit or beit family",
        ),
        (
            {"method": "supervised", "encoder": "resnet18", "encoder_args": {}, "image_size": 32, "patch_size": 8}
            | {"accumulate": 4},
            "accumulate = 4: encoder = resnet18 has BatchNorm",
        ),
        ({"processes": 3, "device": "cpu"}, "use a multiple of 3"),
        ({"device": "gpu"}, "auto, cpu, cuda, mps"),
        ({"precision": "fp64"}, "no, bf16, fp16"),
        ({"precision": "fp16", "device": "cpu"}, "fp16' needs an NVIDIA GPU"),
        ({"vocab": 1}, "vocab = 1"),
        ({"method_args": {"macth": False}}, "did you mean 'match'"),
    ],
)
def test_refused_before_any_data_is_read(given, said, monkeypatch):
    from mimlab import data

    monkeypatch.setattr(data, "open", lambda *a, **k: pytest.fail("data was opened"))
    with pytest.raises(Refused, match=said) as caught:
        Pretrain.read(given).resolved()
    assert "\n" not in str(caught.value)


def test_a_missing_gpu_is_said(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Refused, match="device = 'cuda': this machine has no usable NVIDIA GPU"):
        Pretrain(device="cuda").resolved()


def test_accumulation_is_fine_where_images_are_independent():
    assert Pretrain(method="mae", accumulate=4).resolved().accumulate == 4
    assert Pretrain(method_args={"match": False}, accumulate=2).resolved().accumulate == 2


def test_steps():
    cfg = Pretrain(epochs=3, batch_size=64).resolved()
    assert cfg.steps(1000) == (45, 15)
    with pytest.raises(Refused, match="only 63 images"):
        cfg.steps(63)
    assert Pretrain(updates="120").resolved().steps(1000) == (120, 15)
    steps, _ = Pretrain(updates="imagenet300", batch_size=2048).resolved().steps(5000)
    assert steps * 2048 / 1_281_167 == pytest.approx(300, rel=1e-4)


def test_run_folder_names():
    one, same = Pretrain().folder(), Pretrain(lr=1.5e-3 / 8, workers=2, log_every=1).folder()
    assert one == same and re.fullmatch(r"splitmask-vit-fashion_mnist-s0-[0-9a-f]{16}", one.name)
    assert Pretrain(seed=1).folder() != one
    assert Pretrain(fraction=0.1).folder().name.startswith("splitmask-vit-fashion_mnist_0.1-s0-")
    assert Pretrain(run="mine", out="there").folder() == Path("there/mine")


def requirement(text):
    """(name, lower bound) of a requirement in either file; conda calls torch pytorch."""
    name, bound = re.fullmatch(r"([A-Za-z_-]+)>=([\d.]+)", text).groups()
    return {"pytorch": "torch"}.get(name, name), bound


def test_environment_and_pyproject_ask_for_the_same():
    import yaml

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    packages = {requirement(text) for text in conda if isinstance(text, str) and text not in ("pip",)}
    python = project["requires-python"].removeprefix(">=")
    assert packages == {requirement(text) for text in project["dependencies"]} | {("python", python)}
    assert conda[-1] == {"pip": ["--editable ."]}


def test_constraints_are_within_the_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lowest = dict(
        requirement(text) for text in project["dependencies"] + extras["browser"] + extras["static"] + extras["peers"]
    )
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            number = [int(part) for part in version.split(".")]
            assert number >= [int(part) for part in lowest[name].split(".")], name
