"""A run's weights for other programs: MAE's and BEiT's official files, or a folder that timm and its hub load.

`mae` and `beit` write encoder.pth and, of a run of that method, method.pth: {"model": state dict} with the official
names. `timm` writes config.json and model.safetensors as `timm.models.save_for_hf` does, for
`timm.create_model("local-dir:FOLDER", pretrained=True)`. Each folder gets a model card, README.md.
"""

import json
import secrets
import shutil

from mimlab import strict
from mimlab.errors import Refused, reason, shown
from mimlab.settings import place

FORMATS = ("mae", "beit", "timm")
SOURCE = ("tag", "license", "origin_url", "paper_ids", "paper_name", "notes")  # of timm's own weights, not of ours


def export(run, format, out, step=None):
    """Write the folder `out` from a `Run` or its name, of its end or of a kept `step`; returns its path.

    `format`: one of `FORMATS`. An `out` that is there already is `Refused`, and so is an encoder that the
    format has no names for; then nothing is written.
    """
    from safetensors import SafetensorError

    from mimlab.run import Run, not_finite

    if format not in FORMATS:
        raise Refused(f"format = {shown(format)}; there are: {', '.join(FORMATS)}")
    run, out = run if isinstance(run, Run) else Run.find(str(run)), place(out)
    if out.exists():
        raise Refused(f"out = '{out}' is there already, and nothing is overwritten; choose another folder")
    method = run.method(step)
    if bad := int(not_finite(method.state_dict())):
        raise Refused(f"run {run.path} has {bad:,} weights that are not finite (nan or inf); export an earlier step")
    encoder = method.deployed
    aside = out.with_name(f".{out.name[:80]}.{secrets.token_hex(6)}.part")
    try:
        aside.mkdir(parents=True)
        files = timm_folder(encoder, aside) if format == "timm" else official(run, method, encoder, format, aside)
        (aside / "README.md").write_text(card(run, encoder, format, files, step, out.name))
        aside.rename(out)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise Refused(f"out = '{out}' cannot be written ({reason(error)})") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return out


def official(run, method, encoder, format, folder):
    """encoder.pth and perhaps method.pth in `folder`; the names of the files."""
    import torch

    from mimlab.checkpoints import beit, mae
    from mimlab.encoders.beit import Beit
    from mimlab.encoders.vit import ViT

    names, kind = (mae, ViT) if format == "mae" else (beit, Beit)
    fits = isinstance(encoder, kind) and encoder.trunk.cls_token is not None
    if not fits:
        good = "timm" if not isinstance(encoder, (ViT, Beit)) else "timm, or " + ("beit" if format == "mae" else "mae")
        have = run.settings.encoder + ("" if encoder.has_cls else " without a class token")
        raise Refused(f"format = {shown(format)} has no names for encoder = {have}; use {good}")
    index = beit.index_tables(encoder.trunk) if format == "beit" else {}
    files = {"encoder.pth": encoder.trunk.state_dict() | index}
    told = run.settings.method_args
    ours = told.get("mask_in_encoder") or told.get("target", "pixels") != "pixels"  # of which MAE's code has nothing
    if run.settings.method == format and not ours:
        state = {n: value for n, value in method.state_dict().items() if not n.startswith("tokenizer.")}
        files["method.pth"] = {names.theirs(n): value for n, value in state.items()} | index
    for name, state in files.items():
        torch.save({"model": {n: value.detach().clone().contiguous() for n, value in state.items()}}, folder / name)
    return list(files)


def timm_folder(encoder, folder):
    """config.json and model.safetensors in `folder`; the names of the files."""
    from timm.models import save_for_hf

    mean, std = (getattr(encoder.normalise, name).flatten().tolist() for name in ("mean", "std"))
    size = [3, *(side * encoder.patch for side in encoder.grid)]
    pixels = {"mean": rounded(mean), "std": rounded(std), "input_size": size, "num_classes": 0}
    pixels |= {"fixed_input_size": True, "crop_pct": 1.0, "interpolation": "bicubic"}
    arguments = {name: value for name, value in encoder.spec.items() if name != "model_name"}
    save_for_hf(
        encoder.trunk,
        folder,
        model_config={"pretrained_cfg": pixels | {"architecture": encoder.spec["model_name"]}},
        model_args=arguments,
        safe_serialization=True,
    )
    path = folder / "config.json"
    about = json.loads(path.read_text())
    for name in SOURCE:
        about["pretrained_cfg"].pop(name, None)
    path.write_text(strict.dumps(about, indent=1))
    return ["config.json", "model.safetensors"]


def rounded(values):
    """Float32 numbers as they were written."""
    return [round(value, 6) for value in values]


def card(run, encoder, format, files, step, name):
    """The model card, Markdown: what was trained on what, how it did, and how to load it."""
    cfg, config, rows = run.settings, run.config, run.metrics()
    last = max((row for row in rows if step is None or row["step"] <= step), key=lambda row: row["step"], default={})
    mean, std = (rounded(getattr(encoder.normalise, kind).flatten().tolist()) for kind in ("mean", "std"))
    sides = " x ".join(str(side * encoder.patch) for side in encoder.grid)
    share = "" if cfg.fraction == 1 else f", {100 * cfg.fraction:g} % of the training images"
    done = f"{config.get('images')} images" if config.get("images") else "images"
    evaluations = run.evaluations() if step is None else {}  # made with the final weights
    recipe = {n: value for n, value in config["settings"].items() if n not in cfg.FREE}  # no place on a disk
    lines = [
        "---", "library_name: timm" if format == "timm" else "library_name: pytorch", "tags:", "- image-feature-extraction",
        "- masked-image-modeling", f"- {cfg.method}", "---", f"# {name}", "",
        f"`{encoder.spec['model_name']}` ({encoder.dim} wide, {encoder.depth} deep, patches of {encoder.patch} pixels, images of "
        f"{sides}), pre-trained with {cfg.method} (recipe {cfg.recipe}) on {cfg.data}: {done}{share}, epochs {cfg.epochs}, seed "
        f"{cfg.seed}{'' if step is None else f', as it was at step {step}'}. It has no classifier.", "",
        f"Pixels in [0, 1], less the mean {mean}, over the deviation {std}.", "", "## Loading", "", *loading(format, files), "",
        "## Last line of the log", "", *table(last), "", "## Evaluations", "", *(scores(evaluations) or ["None yet."]), "",
        "## Settings", "", "```json", strict.dumps(recipe, indent=1), "```", "",
        f"Versions: {', '.join(f'{k} {v}' for k, v in config.get('versions', {}).items()) or 'unknown'}; commit "
        f"{config.get('commit', 'unknown')}; data fingerprint {config['data_fingerprint']}.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def loading(format, files):
    """How to load the folder, as lines of Markdown."""
    if format == "timm":
        code = ["import timm", 'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()']
        return ["```python", *code, "tokens = model.forward_features(images)  # normalised as above", "```"]
    where = {"mae": "facebookresearch/mae", "beit": "microsoft/unilm, beit"}[format]
    code = ['state = torch.load("FOLDER/encoder.pth", weights_only=True)["model"]']
    said = f"Names of {where}. {' and '.join(f'`{file}`' for file in files)}:"
    return [said, "", "```python", "import torch", *code, "```"]


def table(row):
    """Name and value of each number of a log line, as a Markdown table."""
    kept = [(name, value) for name, value in row.items() if isinstance(value, (int, float))]
    return ["| | |", "| --- | --- |", *(f"| {name} | {value:.6g} |" for name, value in kept)] if kept else ["None."]


def scores(evaluations):
    """A line for each evaluation and start, with all its numbers."""
    return [
        f"- {name}, {start}: {', '.join(f'{k} {v:.4g}' for k, v in result.items() if isinstance(v, (int, float)))}"
        for name, content in evaluations.items()
        for start, result in content["results"].items()
    ]
