"""Many processes are one: every method, whole copies (DDP) and parts (FSDP), two and four processes, on gloo."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mimlab
from mimlab import launch
from mimlab.errors import Refused
from mimlab.find import names
from mimlab.run import Run

STEPS = 6
TINY = {
    "data": "emoji", "image_size": 16, "patch_size": 4, "encoder_args": {"dim": 24, "depth": 2, "heads": 2}, "vocab": 16, "batch_size": 32,
    "updates": str(STEPS), "drop_path": 0.0, "knn_every": 0, "checkpoint_every": 0, "log_every": 1, "film": 0, "device": "cpu", "fraction": 0.2,
}  # fmt: skip
PARTS = {
    "cae": {"method_args": {"regressor_depth": 1, "decoder_depth": 1}},
    "cim": {"method_args": {"generator_dim": 48, "generator_depth": 3, "generator_heads": 3}},
    "dino": {"method_args": {"out_dim": 64, "head_dim": 32, "bottleneck_dim": 16, "head_bn": True}},
    "mae": {"method_args": {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}},
    "splitmask": {"method_args": {"temperature": 0.2}},
}
WORK = """
import json, multiprocessing, sys
import mimlab
if __name__ == "__main__":  # a worker that is not forked imports this file anew
    for given in json.loads(sys.argv[1]):
        multiprocessing.set_start_method(given.pop("start", None), force=True)
        mimlab.pretrain(mimlab.Pretrain(**given))
"""


def given(method, out, **more):
    return TINY | {"method": method, "out": str(out)} | PARTS.get(method, {}) | more


def together(processes, settings):
    """Pre-train with each of the settings, one after another, in the same few processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(mimlab.__file__).parent.parent)}
    script = Path(settings[0]["out"]) / "work.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(WORK)
    done = subprocess.run([*command, str(script), json.dumps(settings)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def losses(run):
    return [row["loss"] for row in run.metrics() if "loss" in row]


def run_of(settings):
    return Run.at(mimlab.Pretrain(**settings).folder())


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Each method on one process, when first asked for: name -> `Run`."""
    out = tmp_path_factory.mktemp("alone")
    return cache(lambda name: mimlab.pretrain(mimlab.Pretrain(**given(name, out))))


def same_training(alone, many):
    """Losses of every step, and the weights that are kept."""
    assert len(losses(many)) == STEPS
    assert losses(alone)[0] == pytest.approx(losses(many)[0], rel=1e-5)  # before any step
    assert losses(alone) == pytest.approx(losses(many), rel=1e-3)
    one, other = (load_file(run.path / "method.safetensors") for run in (alone, many))
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.allclose(value.float(), other[name].float(), atol=2e-3), name


EVERY = [(name, kind) for name in names("methods") for kind in ("ddp", "fsdp")]
SOME = [
    ("splitmask", "ddp"),
    ("cim", "ddp"),
    ("dino", "fsdp"),
]  # two minutes less; steps: methods/test_two_processes.py


@pytest.mark.parametrize(
    ("processes", "which"),
    [(2, SOME), pytest.param(2, EVERY, marks=pytest.mark.slow), pytest.param(4, EVERY, marks=pytest.mark.slow)],
    ids=["2", "2-every", "4-every"],
)
def test_many_processes_train_as_one(processes, which, alone, tmp_path):
    kinds = [given(name, tmp_path / kind, processes=processes, parallel=kind) for name, kind in which]
    together(processes, kinds)
    for settings in kinds:
        same_training(alone(settings["method"]), run_of(settings))


@pytest.mark.parametrize("starts", [["fork", "forkserver"], ["spawn"]])
@pytest.mark.slow
def test_loader_workers_make_each_process_s_own_rows_however_they_start(starts, alone, tmp_path):
    """forkserver is Python 3.14's usual way on Linux, spawn that of macOS; neither inherits the process group."""
    kinds = {start: given("mae", tmp_path / start, processes=2, workers=1) for start in starts}
    together(2, [settings | {"start": start} for start, settings in kinds.items()])
    for settings in kinds.values():
        same_training(alone("mae"), run_of(settings))


@pytest.mark.slow
def test_what_is_learned_from_the_images_is_the_same_on_every_process(tmp_path):
    """MAE's principal components, and the tokenizer of its tokens."""
    args = PARTS["mae"]["method_args"]
    forms = {"pca": {}, "tokens": {"tokenizer": "kmeans"}}
    forms = {name: more | {"method_args": args | {"target": name}} for name, more in forms.items()}
    one = {n: mimlab.pretrain(mimlab.Pretrain(**given("mae", tmp_path / "one", **more))) for n, more in forms.items()}
    many = {
        (name, kind): given("mae", tmp_path / kind, processes=2, parallel=kind, **more)
        for name, more in forms.items()
        for kind in ("ddp", "fsdp")
    }
    together(2, list(many.values()))
    for (name, _), settings in many.items():
        same_training(one[name], run_of(settings))
    kept = [load_file(run.path / "method.safetensors") for run in (one["pca"], run_of(many["pca", "fsdp"]))]
    assert torch.equal(*(state["components.basis"] for state in kept)) and kept[0]["components.basis"].any()


@pytest.mark.slow
def test_parts_are_looked_at_saved_and_go_on_as_copies(tmp_path):
    """k-NN and film in training are of the whole method; two processes with parts stop, one alone goes on."""
    more = {"knn_every": 1, "film": 1, "checkpoint_every": 1, "updates": None, "epochs": 3, "clip": 0.1}
    whole = mimlab.pretrain(mimlab.Pretrain(**given("mae", tmp_path / "whole", **more)))
    parts = given("mae", tmp_path / "parts", processes=2, parallel="fsdp", **more)
    together(2, [parts])
    run = run_of(parts)
    same = [
        [row[name] for row in one.metrics() if name in row] for one in (whole, run) for name in ("loss", "grad_norm")
    ]
    assert same[0] == pytest.approx(same[2], rel=1e-3) and same[1] == pytest.approx(same[3], rel=1e-2)
    known = [[row["knn_top1"] for row in one.metrics() if "knn_top1" in row] for one in (whole, run)]
    assert len(known[0]) == 3 and known[0] == pytest.approx(known[1], abs=5)
    assert sorted(path.name for path in (run.path / "film").glob("*.npz")) == sorted(
        path.name for path in (whole.path / "film").glob("*.npz")
    )

    last = max(run.checkpoints())
    longer = {"updates": str(last + 4)}
    for kind, processes in (("ddp", 1), ("fsdp", 2)):  # Accelerate reads what parts have saved, and the other way round
        source, out = (run, tmp_path / "a") if kind == "ddp" else (whole, tmp_path / "b")
        settings = given("mae", out, processes=processes, parallel=kind, run="r", **more | longer)
        (out / "r" / "checkpoint").mkdir(parents=True)
        (source.path / "checkpoint" / f"{last:08d}").rename(out / "r" / "checkpoint" / f"{last:08d}")
        together(2, [settings]) if kind == "fsdp" else mimlab.pretrain(mimlab.Pretrain(**settings))
        assert [row["step"] for row in Run.at(out / "r").metrics() if "loss" in row] == list(range(last + 1, last + 5))
    after = [losses(Run.at(tmp_path / name / "r")) for name in ("a", "b")]
    assert after[0] == pytest.approx(after[1], rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parallel": "zero"}, "there are: ddp, fsdp"),
        ({"parallel": "fsdp"}, "use processes = 2 or more"),
        ({"parallel": "fsdp", "processes": 2, "mask": "attention"}, "asks the whole method"),
        ({"nodes": 3, "processes": 2}, "cannot be shared by 6 processes"),
    ],
)
def test_what_cannot_be_cut_is_refused(changes, said, tmp_path):
    with pytest.raises(Refused, match=said):
        mimlab.Pretrain(**given("mae", tmp_path, **changes)).resolved()


def test_more_nodes_than_there_are_is_refused_before_a_folder_is_made(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_NUM_NODES", raising=False)
    with pytest.raises(Refused, match="nodes = 2: there is 1 here; start inside a SLURM job of 2 nodes"):
        mimlab.pretrain(mimlab.Pretrain(**given("mae", tmp_path, nodes=2)))
    assert not list(tmp_path.iterdir())


def test_the_command_of_many_nodes_is_a_torchrun_on_each(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    monkeypatch.setattr("socket.gethostname", lambda: "n1")
    said = launch.command(mimlab.Pretrain(**given("mae", tmp_path, nodes=2, processes=8)), "s.json")
    assert said[:2] == ["srun", "--overlap"] and {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1"} <= set(said)
    assert {"--nnodes=2", "--nproc_per_node=8", "--rdzv_endpoint=n1:20123", "--rdzv_id=123"} <= set(said)
    assert said[-2:] == ["--settings", "s.json"]


def test_accelerate_config_is_honoured_on_gpus(tmp_path, monkeypatch):
    """What the command leaves open, such as which GPUs, comes from the user's file."""
    from accelerate.commands import launch as accelerates
    from accelerate.commands.config import config_args

    file = tmp_path / "default_config.yaml"
    file.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\ngpu_ids: '2,3'\nmixed_precision: fp16\nnum_processes: 8\n"
        "num_machines: 1\nmachine_rank: 0\nuse_cpu: false\n"
    )
    for module in (config_args, accelerates):
        monkeypatch.setattr(module, "default_config_file", str(file))
    with monkeypatch.context() as gpus:
        gpus.setattr(torch.cuda, "is_available", lambda: True)
        said = launch.command(mimlab.Pretrain(method="mae", processes=2, precision="bf16"), "s.json")
    assert said[1:3] == ["-m", "accelerate.commands.launch"]
    args = accelerates.launch_command_parser().parse_args(said[3:])
    args, _, _ = accelerates._validate_launch_command(args)
    assert args.gpu_ids == "2,3"  # the file's
    assert (args.num_processes, args.mixed_precision, args.multi_gpu) == (2, "bf16", True)  # the run's
