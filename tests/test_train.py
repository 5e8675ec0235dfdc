"""The loop: resumes to the bit, repeats itself, learns, and stops with a clear word."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

import mimlab
from mimlab import train
from mimlab.errors import Refused
from mimlab.find import names
from mimlab.run import Run

TINY = {
    "encoder_args": {"dim": 24, "depth": 2, "heads": 3},
    "fraction": 0.016,
    "image_size": 28,
    "patch_size": 7,
    "vocab": 32,
    "batch_size": 32,
    "epochs": 4,
    "knn_every": 0,
    "checkpoint_every": 1,
    "log_every": 1,
    "device": "cpu",
}
SMALL_DECODER = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
SMALL_PARTS = {
    "cae": {"method_args": {"regressor_depth": 1, "decoder_depth": 1}},
    "cim": {"method_args": {"generator_dim": 48, "generator_depth": 3, "generator_heads": 3}},
    "dino": {"method_args": {"out_dim": 64, "head_dim": 32, "bottleneck_dim": 16}, "augment": {"local_crops": 2}},
    "mae": {"method_args": SMALL_DECODER},
}


def few(every, *first):
    """Those `first` in the default suite, the others beside the slow tests."""
    return [pytest.param(name, marks=() if name in first else pytest.mark.slow) for name in sorted(every)]


def settings(out, **changes):
    given = TINY | {"out": str(out)} | changes
    if given.get("method") in SMALL_PARTS:
        given = SMALL_PARTS[given["method"]] | given
    return mimlab.Pretrain(**given)


def losses(run, key="loss"):
    return [row[key] for row in run.metrics() if key in row]


def weights(run):
    return load_file(run.path / "method.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_test_of_two_processes_has_all_methods_that_need_it():
    coupled = {name for name in names("methods") if settings("", method=name).resolved().build().couples_images}
    assert coupled == set(COUPLED)


def test_the_loop_knows_no_method():
    source = Path(train.__file__).read_text()
    assert [name for name in names("methods") if name in source] == []


@pytest.mark.parametrize("method", names("methods"))
def test_every_method_leaves_a_complete_run_folder(method, tmp_path):
    rows = []
    run = mimlab.pretrain(settings(tmp_path, method=method, knn_every=2), report=rows.append)
    assert run.finished and rows == run.metrics()
    config = run.config
    assert config["settings"] == settings(tmp_path, method=method, knn_every=2).resolved().dict()
    assert config["images"] == 190 and config["versions"]["torch"] and config["data_fingerprint"]
    logged = [row for row in rows if "loss" in row]
    assert [row["step"] for row in logged] == list(range(1, 21))
    assert all({"epoch", "lr", "images_per_s", "seconds_left", "memory_mb"} <= row.keys() for row in logged)
    assert [row["step"] for row in rows if "knn_top1" in row] == [10, 20]
    if run.settings.tokenizer != "none":
        assert {"tokenizer_used", "tokenizer_entropy_bits", "tokenizer_top_share"} <= rows[0].keys()
        assert {"token_accuracy", "token_majority", "token_uniform", "tokens_used"} <= logged[0].keys()
    model = timm.create_model(**config["timm"], checkpoint_path=str(run.path / "encoder.safetensors"))
    encoder = run.encoder()
    images = torch.rand(2, 3, 28, 28)
    with torch.no_grad():
        assert torch.equal(model.eval().forward_features(images), encoder.trunk.forward_features(images))
    assert not list(run.path.rglob("*.part"))
    assert same(weights(run), run.method().state_dict())


def test_a_finished_run_is_returned_as_it_is(tmp_path):
    run = mimlab.pretrain(settings(tmp_path))
    before = (run.path / "method.safetensors").stat().st_mtime_ns
    again = mimlab.pretrain(settings(tmp_path))
    assert again.path == run.path and (run.path / "method.safetensors").stat().st_mtime_ns == before


def test_workers_and_log_steps_change_no_loss(tmp_path):
    base = losses(mimlab.pretrain(settings(tmp_path / "a")))
    assert len(base) == 20
    for k, changes in enumerate(({"workers": 1}, {"workers": 2}, {"checkpoint_every": 0}, {"knn_every": 1})):
        assert losses(mimlab.pretrain(settings(tmp_path / f"b{k}", **changes))) == base, changes
    assert losses(mimlab.pretrain(settings(tmp_path / "c", seed=1))) != base


def test_half_precision_in_the_same_process(tmp_path):
    """bf16 on a CPU learns as full precision does, to its three digits; a run before it had another precision."""
    full, half = (mimlab.pretrain(settings(tmp_path / p, precision=p)) for p in ("no", "bf16"))
    assert losses(half) != losses(full) and losses(half) == pytest.approx(losses(full), rel=2e-2)
    assert {value.dtype for value in weights(half).values() if value.is_floating_point()} == {torch.float32}
    assert losses(mimlab.pretrain(settings(tmp_path / "again"))) == losses(full)


@pytest.mark.parametrize("method", few(["mae", "splitmask"], "splitmask"))
def test_accumulated_parts_give_the_loss_and_weights_of_the_whole(method, tmp_path):
    args = {"method": method} | ({"method_args": {"match": False}} if method == "splitmask" else {})
    one, parts = (mimlab.pretrain(settings(tmp_path / str(k), accumulate=k, drop_path=0.0, **args)) for k in (1, 4))
    assert losses(one) == pytest.approx(losses(parts), rel=1e-4)
    assert len(losses(parts)) == 20


def child(out, *, env=None, **changes):
    """The same settings as another process, through the command line."""
    flags = []
    for name, value in settings(out, **changes).dict().items():
        if value is not None:
            flags += [f"--{name}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return subprocess.Popen(
        [sys.executable, "-m", "mimlab", "pretrain", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | (env or {}),
    )


def wait_for_step(folder, step, process, patience=120):
    run, end = Run.at(folder), time.monotonic() + patience
    while not any(row["step"] >= step for row in run.metrics()):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end, "no step in time"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "step"), [(signal.SIGKILL, 7), pytest.param(signal.SIGTERM, 13, marks=pytest.mark.slow)]
)
def test_killed_and_started_again_ends_with_the_same_weights(number, step, tmp_path):
    """Bit for bit; after SIGTERM nothing is lost, after SIGKILL what came after the checkpoint is done again."""
    torch.set_num_threads(1)
    whole = mimlab.pretrain(settings(tmp_path / "whole", epochs=12))
    cut = settings(tmp_path / "cut", epochs=12)
    process = child(tmp_path / "cut", epochs=12)
    wait_for_step(cut.folder(), step, process)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    run = Run.at(cut.folder())
    assert not run.finished
    if number == signal.SIGTERM:
        assert process.returncode == 130 and "start the same run again" in said
        assert max(run.checkpoints()) >= step
    else:
        assert process.returncode == -signal.SIGKILL
    run = mimlab.pretrain(cut)
    assert same(weights(whole), weights(run))
    steps = [row["step"] for row in run.metrics() if "loss" in row]
    assert steps == list(range(1, 61))
    assert losses(run) == losses(whole)


@pytest.mark.parametrize("method", few(names("methods"), "dino", "mae"))
def test_ctrl_c_saves_and_goes_on(method, tmp_path):
    """The weights and the log are those of a run that was never stopped, bit for bit, for every method."""
    torch.set_num_threads(1)
    whole = mimlab.pretrain(settings(tmp_path / "whole", method=method))
    cut = settings(tmp_path / "cut", method=method)

    def interrupt(row):
        if row["step"] == 7:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"stopped at step \d+ of 20"):
        mimlab.pretrain(cut, report=interrupt)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert max(Run.at(cut.folder()).checkpoints()) in (7, 8)
    rows = []
    run = mimlab.pretrain(cut, report=rows.append)
    assert same(weights(whole), weights(run)) and losses(whole) == losses(run) and rows == run.metrics()


# whose losses look across the batch: SplitMask's InfoNCE, DINO's centre and the BatchNorm of its head
COUPLED = {
    "splitmask": {"method_args": {"temperature": 0.2}},
    "dino": {"method_args": SMALL_PARTS["dino"]["method_args"] | {"head_bn": True}},
}


@pytest.mark.parametrize("method", few(COUPLED))
def test_two_processes_are_one(method, tmp_path):
    """Two of 32 images against one of 64: losses over 30 steps, gradient norms of the first."""
    same_work = {"method": method, "batch_size": 64, "drop_path": 0.0, "epochs": 6} | COUPLED[method]
    one = mimlab.pretrain(settings(tmp_path / "one", **same_work))
    rows = []
    two = mimlab.pretrain(settings(tmp_path / "two", processes=2, **same_work), report=rows.append)
    assert losses(one)[:1] == pytest.approx(losses(two)[:1], rel=1e-5)  # before any step
    assert losses(one) == pytest.approx(losses(two), rel=2e-3)
    if method == "splitmask":  # DINO clips each gradient by itself
        first = [row["grad_norm"] for run in (one, two) for row in run.metrics() if row["step"] == 1]
        assert first[0] == pytest.approx(first[1], rel=1e-4)
        assert {row["match_chance"] for row in two.metrics() if "match_chance" in row} == {1 / 64}
    assert rows == two.metrics()


@pytest.mark.slow
def test_a_dead_worker_ends_the_run_with_its_own_words(tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text("")
    (tmp_path / "broken" / "mask.py").write_text(
        "import os, torch\n"
        "def rank(batch, grid, generator):\n"
        "    if batch > 1 and os.environ.get('RANK') == '1':\n"
        "        raise RuntimeError('worker one has had enough')\n"
        "    return torch.rand(batch, grid[0] * grid[1], generator=generator)\n"
    )
    code = (
        "import mimlab, json, sys\n"
        "cfg = mimlab.Pretrain.read(json.loads(sys.argv[1]))\n"
        "try:\n    mimlab.pretrain(cfg)\nexcept RuntimeError as error:\n    print(error)\n"
    )
    given = json.dumps(settings(tmp_path, mask="broken.mask", processes=2).dict())
    env = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, given], capture_output=True, text=True, env=env, timeout=180)
    assert "worker one has had enough" in done.stdout, done.stdout + done.stderr


def test_a_loss_that_is_not_finite_names_step_images_and_checkpoint(tmp_path, monkeypatch):
    from mimlab.methods.mae import MAE

    plain = MAE.forward

    def poisoned(self, batch, mask, progress):
        output = plain(self, batch, mask, progress)
        return output._replace(loss=output.loss * float("nan")) if progress.step == 12 else output

    monkeypatch.setattr(MAE, "forward", poisoned)
    with pytest.raises(
        FloatingPointError, match=r"loss = nan at step 12, on images \[\d+, .*last good checkpoint: step 10"
    ):
        mimlab.pretrain(settings(tmp_path, method="mae"))


@pytest.mark.parametrize("method", sorted({*names("methods")} - {"dino"}))  # DINO's starts low: test_dino.py
@pytest.mark.slow
def test_overfits_one_batch(method, tmp_path):
    """32 images, one batch, no augmentation: the loss falls far below where it starts."""
    changes = {"fraction": 0.003, "epochs": 300, "lr": 2e-2, "drop_path": 0.0, "checkpoint_every": 0, "log_every": 10}
    changes |= {"augment": {"scale": None, "flip": 0.0, "jitter": 0.0}, "warmup_epochs": 10}
    changes |= {"encoder_args": {"dim": 48, "depth": 3, "heads": 3}}
    if method == "cim":  # other tokens are drawn, and other patches hidden, at each step
        changes |= {"epochs": 800, "lr": 1e-2}
    run = mimlab.pretrain(settings(tmp_path, method=method, **changes))
    found = losses(run, "loss_generator" if method == "cim" else "loss")  # CIM's enhancer sees other samples each step
    assert found[-1] < 0.6 * found[0], found
    if run.settings.tokenizer != "none":
        accuracy, majority = (losses(run, name)[-1] for name in ("token_accuracy", "token_majority"))
        assert accuracy > majority + 0.1


def test_ema_free_methods_change_no_weight_in_forward(tmp_path):
    from mimlab.methods import Batch, Progress

    run = mimlab.pretrain(settings(tmp_path, epochs=1))
    method = run.method().train()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    mask = torch.zeros(4, 16, dtype=torch.bool)
    mask[:, :8] = True
    method(Batch(torch.rand(4, 3, 28, 28), torch.rand(4, 16), 8), mask, Progress())
    assert same(before, method.state_dict())


def test_another_configuration_in_the_same_folder_is_refused(tmp_path):
    run = mimlab.pretrain(settings(tmp_path, run="mine", epochs=1))
    before = (run.path / "method.safetensors").read_bytes()
    with pytest.raises(Refused, match=r"another configuration: epochs = 1 there, 2 now; warmup_epochs"):
        mimlab.pretrain(settings(tmp_path, run="mine", epochs=2))
    assert (run.path / "method.safetensors").read_bytes() == before


def test_two_writers_of_one_run_are_refused(tmp_path):
    run = Run.at(settings(tmp_path).folder())
    with run.lock(), pytest.raises(Refused, match="being written by another process"):
        mimlab.pretrain(settings(tmp_path))


def test_a_truncated_checkpoint_is_refused_and_kept(tmp_path):
    stop = {"at": 7}

    def interrupt(row):
        if row["step"] == stop["at"]:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        mimlab.pretrain(settings(tmp_path), report=interrupt)
    run = Run.at(settings(tmp_path).folder())
    (folder,) = run.checkpoints().values()
    state = folder / "model.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(Refused, match="truncated or damaged"):
        mimlab.pretrain(settings(tmp_path))
    assert state.exists() and len(losses(run)) >= 7


def test_a_full_disk_is_said_and_loses_nothing(tmp_path, monkeypatch):
    from accelerate import Accelerator

    saves = []
    plain = Accelerator.save_state

    def save(self, folder, **options):
        saves.append(folder)
        if len(saves) == 3:
            Path(folder, "half").write_bytes(b"x")
            raise OSError(28, "No space left on device")
        return plain(self, folder, **options)

    monkeypatch.setattr(Accelerator, "save_state", save)
    with pytest.raises(Refused, match="No space left on device; the last good checkpoint is step 10"):
        mimlab.pretrain(settings(tmp_path))
    run = Run.at(settings(tmp_path).folder())
    assert list(run.checkpoints()) == [10] and not list(run.path.rglob("*.part"))
    monkeypatch.setattr(Accelerator, "save_state", plain)
    assert mimlab.pretrain(settings(tmp_path)).finished


def test_data_without_labels_trains_without_probes(tmp_path):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for k in range(40):
        Image.new("RGB", (40, 30), (k * 6, 255 - k * 6, k)).save(tmp_path / "photos" / f"{k}.png")
    changes = {"data": "folder", "data_args": {"path": str(tmp_path / "photos")}, "fraction": 1.0, "knn_every": 1}
    run = mimlab.pretrain(settings(tmp_path, method="mae", batch_size=16, **changes))
    assert run.finished and not any("knn_top1" in row for row in run.metrics())
    with pytest.raises(Refused, match="no labels"):
        mimlab.evaluate(mimlab.Evaluate(run=str(run.path)))


def test_labels_without_test_images_are_refused_before_training(tmp_path):
    """One image a class leaves none to hold out; without probes it trains."""
    from PIL import Image

    for k in range(20):
        (tmp_path / "photos" / f"class{k}").mkdir(parents=True)
        Image.new("RGB", (30, 30), (k * 12, 0, 200)).save(tmp_path / "photos" / f"class{k}" / "one.png")
    out, photos = (
        tmp_path / "runs",
        {"data": "folder", "data_args": {"path": str(tmp_path / "photos")}, "fraction": 1.0},
    )
    with pytest.raises(Refused, match=r"split = 'test'.*; knn_every = 0 trains without probes"):
        mimlab.pretrain(settings(out, method="mae", batch_size=10, knn_every=1, **photos))
    assert not out.exists() or not list(out.iterdir())
    assert mimlab.pretrain(settings(out, method="mae", batch_size=10, knn_every=0, **photos)).finished


def test_a_vocabulary_larger_than_the_patches_is_refused(tmp_path):
    with pytest.raises(Refused, match="vocab = 90000 is more than the"):
        mimlab.pretrain(settings(tmp_path, tokenizer="kmeans", vocab=90000))
    assert not list(tmp_path.iterdir())  # nothing is left behind


def left_half(batch, grid, generator, *, noisy=0.0):
    column = -torch.arange(grid[1]).repeat(grid[0]).float()
    return column + noisy * torch.rand(batch, grid[0] * grid[1], generator=generator)


def test_a_function_of_ones_own_masks_a_run(tmp_path):
    cfg = settings(tmp_path, method="mae", mask=left_half, mask_ratio=0.5, mask_args={"noisy": 0.1}, epochs=1)
    run = mimlab.pretrain(cfg)
    assert run.finished
    named = json.loads((run.path / "config.json").read_text())["settings"]["mask"]
    assert named.startswith("left_half (function ")
    assert mimlab.pretrain(cfg).path == run.path  # the same code is the same run
    with pytest.raises(Refused, match="was a function of a notebook cell"):
        mimlab.Look(run=str(run.path)).resolved()
    with pytest.raises(Refused, match="lives in this kernel only"):
        cfg.replace(processes=2).resolved()
    with pytest.raises(Refused, match="no option 'noise'"):
        cfg.replace(mask_args={"noise": 1}).resolved()


def test_the_ratio_changes_over_training(tmp_path, monkeypatch):
    from mimlab.methods.mae import MAE

    hidden, plain = [], MAE.forward
    monkeypatch.setattr(
        MAE, "forward", lambda self, batch, mask, p: hidden.append(mask.sum(1).unique()) or plain(self, batch, mask, p)
    )
    schedule = {"end": 0.75, "shape": "linear"}
    run = mimlab.pretrain(settings(tmp_path, method="mae", mask_ratio=0.25, mask_schedule=schedule, epochs=4))
    assert run.finished and all(len(counts) == 1 for counts in hidden)
    counts = [int(c) for c in hidden]
    assert counts == sorted(counts) and counts[0] == 4 and counts[-1] in (11, 12) and len(set(counts)) > 5
    with pytest.raises(Refused, match="shape = 'liner'.*did you mean 'linear'"):
        settings(tmp_path, mask_schedule={"end": 0.5, "shape": "liner"}).resolved()
    with pytest.raises(Refused, match="end = 1.5 is not a number from 0.01 to 0.99"):
        settings(tmp_path, mask_schedule={"end": 1.5}).resolved()


def test_weight_decay_follows_its_cosine(tmp_path, monkeypatch):
    seen, plain = [], torch.optim.AdamW.step

    def step(self, closure=None):
        seen.append([group["weight_decay"] for group in self.param_groups])
        return plain(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    mimlab.pretrain(settings(tmp_path, method="mae", weight_decay=0.0, weight_decay_end=0.4, epochs=2))
    kept, free = zip(*seen)
    assert set(free) == {0.0} and kept[0] == 0.0 and kept[len(kept) // 2] == pytest.approx(0.2) and kept[-1] > 0.35


def test_kept_weights_show_how_a_run_developed(tmp_path):
    run = mimlab.pretrain(settings(tmp_path, method="mae", keep_weights=True, epochs=3))
    steps = list(run.weights())
    assert len(steps) == 3 and steps == sorted(steps) and len(run.checkpoints()) == 1
    first, last = (run.method(step).state_dict()["head.weight"] for step in (steps[0], steps[-1]))
    assert not torch.equal(first, last) and torch.equal(last, run.method().state_dict()["head.weight"])
    with pytest.raises(Refused, match="no checkpoint of step 7"):
        run.method(7)


def test_probes_stay_cheap_beside_what_is_trained(tmp_path):
    assert [train.probe_size(5, n) for n in (100, 12_000, 30_000, 10**6)] == [1000, 1000, 2500, 5000]
    cfg = settings(tmp_path, fraction=0.5, knn_every=5).resolved()
    bank, test = train.probed(cfg, train.open_data(cfg, "train"))
    assert len(bank) == len(test) == 1000
    assert set(np.bincount(bank.labels)) == set(np.bincount(test.labels)) == {100}


@pytest.mark.parametrize("method", few(["splitmask", "cae", "cim"], "splitmask"))
def test_recomputed_blocks_train_to_the_same_losses(method, tmp_path):
    found = []
    for name, recompute in (("kept", False), ("again", True)):
        cfg = settings(tmp_path, method=method, run=name, recompute=recompute, drop_path=0.3)
        found.append(losses(mimlab.pretrain(cfg)))
    assert found[0] == found[1] and len(found[0]) > 1
