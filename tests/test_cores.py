"""Threads follow the cores that are allowed and free; how they wait follows what others do."""

import json
import os
import subprocess
import sys

import pytest
import torch

from mimlab import cores
from mimlab.cores import Sample
from mimlab.errors import Refused


@pytest.fixture
def machine(monkeypatch):
    """`machine(cores, other, nice)`: as many, of which others take some, some of it with low priority."""

    def make(count, other, nice=0.0, root=None):
        monkeypatch.setattr(os, "cpu_count", lambda: count)
        monkeypatch.setattr(cores, "allowed", lambda: count)
        told = None if other is None else other * 2.0
        monkeypatch.setattr(cores, "watched", lambda: Sample(2.0, 0.0, told, nice * 2.0))

    return make


@pytest.mark.parametrize(
    ("count", "other", "nice", "free"),
    [(2, 0.0, 0.0, 2), (2, 0.1, 0.0, 2), (2, 1.0, 0.0, 1), (2, 2.0, 0.0, 1), (2, 2.0, 2.0, 2), (16, 5.2, 1.0, 12), (8, None, 0, 8)],
)  # fmt: skip
def test_free_cores_are_those_that_no_one_else_has_a_right_to(machine, count, other, nice, free):
    machine(count, other, nice)
    assert cores.free() == free


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "150000 100000"}, 2),  # the group above binds too
        ("0::/a", {"a/cpu.max": "50000 100000"}, 1),
        ("0::/a", {"a/cpu.max": "nonsense"}, 64),
        ("0::/a", {}, 64),
        ("4:cpu,cpuacct:/x\n2:memory:/y", {"cpu/x/cpu.cfs_quota_us": "300000", "cpu/x/cpu.cfs_period_us": "100000"}, 3),
        ("4:cpu:/x", {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000"}, 64),
        (None, {}, 64),
    ],
)
def test_a_quota_of_the_control_group_is_kept(tmp_path, monkeypatch, groups, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    if groups is not None:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups + "\n")
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert cores.allowed(tmp_path) == expected


def test_threads_are_the_runs_own_then_the_users_then_the_free_ones(machine, monkeypatch):
    machine(4, 0.0)
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with cores.threads(3) as kept:
        assert kept == torch.get_num_threads() == 3
    with cores.threads() as users:
        assert users == torch.get_num_threads() == 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    with cores.threads() as free, cores.threads(processes=3) as share:
        assert (free, share) == (4, 1)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("other", "turns"), [(0.0, cores.WAIT), (1.0, cores.PASSIVE), (None, cores.WAIT)])
def test_beside_others_threads_wait_passively(machine, monkeypatch, other, turns):
    machine(2, other)
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    cores.wait()
    cores.look()
    assert os.environ["GOMP_SPINCOUNT"] == str(turns)


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_what_the_user_says_of_waiting_counts(machine, monkeypatch, name):
    machine(2, 2.0)
    for other in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "ACTIVE" if name == "OMP_WAIT_POLICY" else "7")
    before = dict(os.environ)
    cores.wait()
    cores.look()
    assert dict(os.environ) == before


def test_it_is_said_before_torch_is_loaded():
    program = "import mimlab, os, sys; print('torch' in sys.modules, os.environ['GOMP_SPINCOUNT'])"
    clean = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=clean)
    assert done.stdout.split() == ["False", str(cores.WAIT)], done.stderr


def test_a_run_goes_on_with_the_threads_that_it_was_begun_with(folder):
    run = folder("run", finished=False)
    path = run.path / "config.json"
    about = json.loads(path.read_text())
    assert run.threads is None  # of one that was begun before they were kept
    for said, kept in ((3, 3), ("3", None), (0, None), (True, None), (10**9, None)):
        path.write_text(json.dumps(about | {"threads": said}))
        assert run.threads == kept


@pytest.mark.parametrize(
    ("said", "asked"),
    [("3", 3), (" 2 ", 2), ("4,2", None), ("1e3", None), ("x", None), ("", None), ("0", None), ("-1", None), ("9" * 5000, None), ("99999", None), ("\u0664", None)],
)  # fmt: skip
def test_a_number_of_threads_that_is_none_asks_for_nothing(said, asked, monkeypatch):
    from mimlab.study import local

    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert cores.asked() == asked
    with cores.threads() as count:
        assert count >= 1 and (asked is None or count == asked)
    assert local.run([]) == []


def test_memory_is_what_the_control_group_allows(tmp_path):
    whole = cores.memory()
    assert 2**28 < whole < 2**50 and cores.memory(tmp_path) >= whole
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/a/b\n")
    (tmp_path / "sys/fs/cgroup/a/b").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/a/b/memory.max").write_text("max\n")
    (tmp_path / "sys/fs/cgroup/a/memory.max").write_text("12345678\n")
    assert cores.memory(tmp_path) == 12345678


def test_work_that_does_not_fit_names_both_sizes(monkeypatch):
    from mimlab import encoders

    monkeypatch.setattr(cores, "memory", lambda: 10**6)
    with pytest.raises(Refused, match=r"a table: 0.0 GB, and there are 0.0 GB"):
        cores.room(2 * 10**6, "a table")
    vit = encoders.create("vit", 32, 2, dim=24, depth=2, heads=3).eval()
    with pytest.raises(Refused, match="attention of 2 layers of 2 images with 257 tokens; .*image_size"):
        vit.attention(torch.rand(2, 3, 32, 32), [0, 1])
    with pytest.raises(Refused, match="bias = 'shared' of 1,025 tokens .*absolute = True"):
        encoders.create("beit", 64, 2, dim=24, depth=2, heads=3)
    encoders.create("beit", 64, 2, dim=24, depth=2, heads=3, bias="none", absolute=True)
    with pytest.raises(Refused, match="514 x 512 patches of 2 pixels, and 65,536 is the most"):
        vit(torch.empty(1, 3, 1028, 1024))
