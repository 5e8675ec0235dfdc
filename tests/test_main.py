"""The command line: quick, thin, one clear line where it refuses."""

import json
import subprocess
import sys
import time

import pytest

import mimlab
from mimlab.__main__ import main, parser

HEAVY = ("torch", "numpy", "timm", "torchvision", "datasets", "plotly", "papermill", "accelerate", "pandas", "sklearn")


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    "what",
    [
        ["-c", "import mimlab, sys; print(*sys.modules)"],
        ["-c", "import sys, mimlab.__main__ as m\ntry: m.main(['--help'])\nexcept SystemExit: print(*sys.modules)"],
    ],
)
def test_import_and_help_load_nothing_heavy(what):
    done = python(*what)
    assert done.returncode == 0, done.stderr
    assert not set(HEAVY) & set(done.stdout.split())


@pytest.mark.slow  # seconds, so on a quiet machine
@pytest.mark.parametrize(("what", "limit"), [(["-c", "import mimlab"], 0.3), (["-m", "mimlab", "--help"], 0.5)])
def test_start_is_quick(what, limit):
    """The best of five, since others may use the machine."""
    best = min(timed(what) for _ in range(5))
    assert best < limit


def timed(what):
    began = time.perf_counter()
    assert python(*what).returncode == 0
    return time.perf_counter() - began


def test_help_has_every_setting():
    done = python("-m", "mimlab", "pretrain", "--help")
    assert all(f"--{name} " in done.stdout for name in mimlab.Pretrain.defaults()), done.stderr
    assert "the paper's" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pretrain", "--method", "splitmsk"], "did you mean 'splitmask'"),
        (["pretrain", "--epochs", "2.5"], "epochs = '2.5' is not a whole number"),
        (["evaluate", "--run", "nowhere"], "is no run folder"),
        (["run", "notebooks/no_such.ipynb"], "there is no file"),
        (["evaluate", "--out", "nothing_here"], "no finished run in 'nothing_here'"),
    ],
)
def test_a_refusal_is_one_line_and_code_2(arguments, said, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("mimlab: ") and said in error and "\n" not in error


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pretrain", "--no_such", "1"], "unrecognized arguments: --no_such 1"),
        (["pretrain", "--da\nta", "\x1b[31mx"], r"--da ta \x1b[31mx"),
        (["pretrain", "--run"], "argument --run: expected one argument"),
        (["pretrain", "--run", "--epochs", "3"], "argument --run: expected one argument"),
        (["run", "x.ipynb", "-p", "run"], "-p/--parameter: expected 2 arguments"),
        (["study", "x", "--jobs", "many"], "argument --jobs: invalid int value: 'many'"),
        (["nothing"], "invalid choice: 'nothing'"),
        ([], "required: command"),
    ],
)
def test_an_argument_that_is_none_is_one_line_and_code_2(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out = capsys.readouterr()
    assert (
        ended.value.code == 2 and said in out.err and out.err.count("\n") == 1 and "\x1b" not in out.err and not out.out
    )


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["run", "x.ipynb", "-p", "run", "-dash", "-p", "lr", "-1"], {"parameter": [["run", "-dash"], ["lr", "-1"]], "notebook": "x.ipynb"}),
        (["pretrain", "--run", "-dash", "--lr=-1e-3", "--seed", "-1"], {"run": "-dash", "lr": "-1e-3", "seed": "-1"}),
        (["pretrain", "--run=--two", "--out", "--x"], {"run": "--two", "out": "--x"}),
        (["study", "s.yaml", "--slurm", "account", "-a", "--jobs", "2"], {"slurm": [["account", "-a"]], "jobs": 2, "what": ["s.yaml"]}),
        (["export", "r", "--format", "timm", "--out", "-o", "--step", "-3"], {"out": "-o", "step": -3}),
    ],
)  # fmt: skip
def test_values_may_begin_with_a_dash(arguments, found):
    given = vars(parser().parse_args(arguments))
    assert {name: given[name] for name in found} == found


def test_pretrain_then_evaluate(tmp_path, capsys):
    flags = [
        "--method",
        "splitmask",
        "--fraction",
        "0.016",
        "--patch_size",
        "7",
        "--epochs",
        "1",
        "--out",
        str(tmp_path),
    ]
    flags += [
        "--encoder_args",
        '{"dim": 24, "depth": 1, "heads": 2}',
        "--vocab",
        "32",
        "--batch_size",
        "32",
        "--device",
        "cpu",
    ]
    assert main(["pretrain", *flags]) == 0
    path = capsys.readouterr().out.strip()
    options = ["--evaluation", "knn", "--evaluation_args", "{k: 5}", "--seeds", "1"]
    assert main(["evaluate", "--run", path, *options]) == 0
    results = json.loads(capsys.readouterr().out)
    assert set(results) == {"after splitmask", "random features"}
    written = mimlab.Run.open(path).evaluations()["knn"]
    assert written["results"] == results and written["config"]["evaluation_args"] == {"k": 5}


def test_a_failing_notebook_tells_its_own_error(tmp_path, capsys):
    import nbformat

    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1"), nbformat.v4.new_code_cell("1 / 0")])
    book.cells[0].metadata["tags"] = ["parameters"]
    nbformat.write(book, tmp_path / "book.ipynb")
    assert main(["run", str(tmp_path / "book.ipynb"), "--output", str(tmp_path / "done.ipynb")]) == 1
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said and "done.failed.ipynb" in said and "papermill" not in said


def test_public_names_exist_and_nothing_else():
    assert all(callable(getattr(mimlab, name)) for name in mimlab.__all__)
    assert callable(mimlab.evaluate) and callable(mimlab.evaluate)  # twice: a submodule must not shadow it
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mimlab.nothing  # noqa: B018
