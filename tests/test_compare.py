"""Runs side by side, on folders written by hand and on small real runs."""

import fcntl
import json
import os

import numpy as np
import pytest

from mimlab import compare
from mimlab.config import Compare
from mimlab.errors import Refused
from mimlab.figures.tables import table
from mimlab.groups import groups, seeds_of


def test_runs_are_named_or_matched(folder):
    for name in ("mae-a", "mae-b", "dino-a"):
        folder(name)
    os.utime(os.path.join(folder.out, "mae-b", "encoder.safetensors"), (2e9, 2e9))

    def names(text):
        return [run.path.name for run in compare.select(text, folder.out)]

    assert names("*") == ["dino-a", "mae-a", "mae-b"] and names("mae-*") == ["mae-a", "mae-b"]
    assert names("mae-b, dino-a") == ["mae-b", "dino-a"] and names("newest") == ["mae-b"]
    assert names("mae-*,mae-a") == ["mae-a", "mae-b"]  # nothing twice
    assert names(os.path.join(folder.out, "dino-a")) == ["dino-a"]
    for text, said in (
        ("mea-a", "no run 'mea-a' .did you mean 'mae-a'"),
        ("x*", "no run in .* fits"),
        (" ,", "nothing is named"),
    ):
        with pytest.raises(Refused, match=said):
            names(text)


def test_hours_count_training_alone_and_a_gap_in_the_rows_not(folder):
    logged = [
        {"step": 0, "tokenizer_used": 5},
        {"step": 10, "loss": 1.0, "images_per_s": 8.0},  # 80 images at 8 a second
        {"step": 10, "knn_top1": 1.0},
        {"step": 30, "loss": 0.5, "images_per_s": 16.0},  # 160 images at 16 a second
    ]
    rows = compare.rows(folder("a", logged))
    assert [row["hours"] * 3600 for row in rows] == pytest.approx([0, 10, 10, 20])
    assert [row["images"] for row in rows] == [0, 80, 80, 240]


def test_seeds_go_together_and_labels_are_short(folder):
    runs = [
        folder("a0", seed=0),
        folder("a1", seed=1),
        folder("b", mask_ratio=0.9),
        folder("c", method="dino", mask=None),
    ]
    found = groups(runs)
    assert {label: len(some) for label, some in found.items()} == {
        "mae, mask_ratio 0.75": 2,
        "mae, mask_ratio 0.9": 1,
        "dino, mask_ratio 0": 1,
    }
    assert list(groups(runs[:2])) == ["mae"]
    rows = compare.settings(runs[:3])
    ratio = next(row for row in rows if row["setting"] == "mask_ratio")
    assert ratio == {"setting": "mask_ratio", "mae, mask_ratio 0.75": "0.75", "mae, mask_ratio 0.9": "0.9"}
    assert [row["setting"] for row in rows] == ["mask_ratio"]
    assert compare.who(runs[:3]) == [
        {"#": 1, "label": "mae, mask_ratio 0.75", "run": "a0, a1", "seed": "0, 1", "state": "finished"},
        {"#": 2, "label": "mae, mask_ratio 0.9", "run": "b", "seed": "0", "state": "finished"},
    ]
    assert list(compare.metrics(runs[:3])) == ["mae, mask_ratio 0.75 (2 seeds)", "mae, mask_ratio 0.9"]


def fingerprint(run, content):
    (run.path / "config.json").write_text(json.dumps(run.config | {"data_fingerprint": content}))
    return run


def test_a_share_of_the_images_drawn_with_the_seed_tells_no_runs_apart(folder):
    given = {"fraction": 0.25, "workers": 0}
    runs = [fingerprint(folder(f"s{seed}", seed=seed, **given), f"share {seed}") for seed in (0, 1)]
    runs.append(fingerprint(folder("named", seed=2, run="mine", device="cpu", **(given | {"workers": 2})), "share 2"))
    assert {label: len(some) for label, some in groups(runs).items()} == {"mae": 3}
    assert list(compare.metrics(runs)) == ["mae (3 seeds)"]
    whole = [fingerprint(folder(f"w{seed}", seed=seed), f"other {seed}") for seed in (0, 1)]
    assert list(groups(whole)) == ["w0", "w1"]  # the whole data: other images
    changed = fingerprint(folder("again", seed=0, **given), "another share")  # of images that have changed
    assert list(groups([*runs, changed])) == ["s0", "s1", "named", "again"]


def test_the_same_seed_twice_is_not_called_two_seeds(folder):
    runs = [folder("a"), folder("b", run="b"), folder("c", seed=1)]
    assert list(compare.metrics(runs)) == ["mae (3 runs, seeds 0, 1)"]


def test_the_seeds_of_a_run_lie_beside_it_and_are_finished(folder):
    run = folder("a", finished=False)
    folder("b", seed=1), folder("c", seed=2, finished=False), folder("d", seed=1, mask_ratio=0.5)
    assert [one.path.name for one in seeds_of(run)] == ["a", "b"]


def test_settings_of_many_runs_fit_a_page(folder):
    methods = ["mae", "beit", "dino", "simmim", "cae", "cim", "splitmask", "supervised"]
    rows = compare.settings([folder(name, method=name) for name in methods])
    assert list(rows[0]) == ["setting", *"12345678"] and list(rows[0].values()) == ["method", *methods]
    assert table(rows).layout.width <= 1120
    few = [folder(f"r{k}", mask_ratio=0.1 + 0.05 * k) for k in range(12)]
    rows = compare.settings(few)  # one differs: a row a run
    assert rows[1] == {"#": 2, "label": "mae, mask_ratio 0.15", "mask_ratio": "0.15"} and len(rows) == 12
    assert compare.settings(few[:1]) == [{"settings": "the same for all"}]


def test_a_name_that_was_given_to_a_run_is_its_label(folder):
    assert list(groups([folder("x", run="mine"), folder("y", mask_ratio=0.5)])) == [
        "mine",
        "mae, mask_ratio 0.5",
    ]


def test_state_and_speed(folder):
    logged = [{"step": 5, "steps": 9, "loss": 1.0, "images_per_s": 10.0, "memory_mb": 7}]
    run = folder("a", logged, finished=False)
    assert compare.state(run) == "stopped at step 5 of 9" and not compare.running(run)
    with open(run.path / "lock", "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert compare.running(run) and compare.state(run) == "training at step 5 of 9"
    assert not compare.running(run)
    assert compare.speeds([run]) == [
        {"run": "mae", "images/s": 10.0, "hours": pytest.approx(4 / 3600), "steps": 5, "memory (MB)": 7}
    ]
    assert compare.speeds([folder("b")]) == [{"run": "mae"}]


def test_a_running_run_is_followed_until_it_ends(folder, monkeypatch, capsys):
    run = folder("a", [{"step": 1, "loss": 3.0}], finished=False)
    cfg = Compare(runs=str(run.path), smoothing=0.0)
    assert list(compare.frames(cfg)) == []
    lock = os.open(run.path / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    monkeypatch.setattr(compare, "PAUSE", 0.0)
    frames = compare.frames(cfg)
    assert list(next(frames).data[0].y) == [3.0]
    run.append({"step": 2, "loss": 2.0})
    assert list(next(frames).data[0].y) == [3.0, 2.0]
    run.append({"step": 3, "loss": 1.0})  # its last row, then it ends
    os.close(lock)
    assert [list(figure.data[0].y) for figure in frames] == [[3.0, 2.0, 1.0]]


def test_headless_nothing_is_waited_for(folder, monkeypatch, capsys):
    run = folder("a", [{"step": 1, "loss": 3.0}], finished=False)
    monkeypatch.setenv("MIMLAB_BATCH", "1")
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    compare.follow(Compare(runs=str(run.path)))
    assert shown == [] and "no run is training" in capsys.readouterr().out
    with open(run.path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        compare.follow(Compare(runs=str(run.path)))
    assert [list(figure.data[0].y) for figure in shown] == [[3.0]]


def test_settings_are_refused_before_anything_is_drawn(folder):
    folder("a", [{"step": 1, "loss": 3.0}])
    cfg = Compare(out=folder.out)
    assert cfg.resolved().runs == os.path.join(folder.out, "a") and cfg.folder().name == "compared"
    for given, said in (
        ({"x": "hour"}, "x = 'hour' .did you mean 'hours'"),
        ({"quantity": "los"}, "'los' was logged by none .*did you mean 'loss'"),
        ({"smoothing": 1.0}, "smoothing = 1.0"),
        ({"follow": -1.0}, "follow = -1"),
        ({"images": 0}, "images = 0"),
        ({"runs": "nowhere"}, "no run 'nowhere'"),
    ):
        with pytest.raises(Refused, match=said):
            cfg.replace(**given).resolved()


def test_views_show_what_each_run_sees_whatever_its_size(folder):
    runs = [folder("a"), folder("b", image_size=24, patch_size=6), folder("c", method="dino", mask=None)]
    gone = folder("d", seed=3)
    config = json.loads((gone.path / "config.json").read_text())
    config["settings"]["mask"] = "rows (function 123456)"
    (gone.path / "config.json").write_text(json.dumps(config))
    found = compare.views([*runs, gone], images=2)
    assert {pictures.shape for pictures in found.values()} == {(2, compare.SIDE, compare.SIDE, 3)}
    heads = [title.split("<br>")[1] for title in found]
    assert heads[:3] == ["hides 75%", "hides 75%", "hides 0%"] and "function" in heads[3]
    grey = [(np.abs(pictures.astype(int) - 128) < 2).all(-1).mean() for pictures in found.values()]
    assert grey[0] >= 0.74 and grey[2] < 0.5
