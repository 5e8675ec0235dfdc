import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import nbformat
import pytest

import mimlab.errors
from mimlab import notebook, watch
from mimlab.errors import Failed, Refused
from mimlab.notebook import execute, export_html, parameters

ROOT = str(Path(mimlab.errors.__file__).parents[1])


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Run in an empty folder; kernels find this mimlab even where it is not installed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ROOT)
    monkeypatch.delenv("MIMLAB_BATCH", raising=False)


def write(path, *cells, tag="parameters", config=None):
    node = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    node.cells[0].metadata.tags = [tag]
    if config:
        node.metadata.mimlab = {"config": config}
    nbformat.write(node, path)
    return Path(path)


def texts(path):
    """What the cells printed."""
    node = nbformat.read(path, as_version=4)
    return [out.text for cell in node.cells for out in cell.get("outputs", []) if out.output_type == "stream"]


@pytest.fixture
def stub(monkeypatch):
    """A stand-in for mimlab.config: types values as the real one does, refuses a negative lr. No kernel knows it."""

    @dataclasses.dataclass(frozen=True)
    class Train:
        lr: float = 0.1
        epochs: int = 2
        name: str = "a"

        @classmethod
        def read(cls, values):
            cfg = cls(**{f.name: f.type(values[f.name]) for f in dataclasses.fields(cls)})
            if cfg.lr <= 0:
                raise Refused(f"lr = {cfg.lr} is not above 0")
            return cfg

        def folder(self):
            return Path("runs") / f"{self.name}-{self.epochs}"

        def log(self):
            return self.folder() / "metrics.jsonl"

    module = types.ModuleType("mimlab.config")
    module.Train = Train
    monkeypatch.setitem(sys.modules, "mimlab.config", module)
    monkeypatch.setattr(mimlab, "config", module, raising=False)
    monkeypatch.setitem(sys.modules, "torch", sys.modules.get("torch", types.ModuleType("torch")))  # checked here, then


CELL = "lr = 0.1  # learning rate\nepochs = 2\nname = 'a'"


def test_parameters_are_values_with_help(tmp_path):
    path = write("a.ipynb", "lr = 1e-3  # the rate\nnone = None\nargs = {'a': 1}  # options\nflag = True")
    assert parameters(path) == {
        "lr": {"default": 1e-3, "help": "the rate"},
        "none": {"default": None, "help": ""},
        "args": {"default": {"a": 1}, "help": "options"},
        "flag": {"default": True, "help": ""},
    }


def test_a_run_types_its_values_and_lands_in_the_folder(stub, capfd):
    source = write(
        "03_train.ipynb",
        CELL,
        "import os, sys\nprint(repr(lr), epochs, os.environ['MIMLAB_BATCH'], os.getcwd(), sys.executable)",
        "import plotly.graph_objects as go\ngo.Figure(go.Scatter(y=[1, 2]))",
        config="Train",
    )
    before, bytes_before = dict(os.environ), source.read_bytes()
    done = execute(source, {"lr": "2e-2", "epochs": "5"})
    assert done == Path("runs/a-5/train.ipynb")
    assert texts(done) == [f"0.02 5 1 {os.getcwd()} {sys.executable}\n"]
    assert dict(os.environ) == before and source.read_bytes() == bytes_before
    assert [path.name for path in done.parent.iterdir()] == ["train.ipynb"]
    saved = done.read_text()
    node = json.loads(saved)
    assert "papermill" not in saved and "widgets" not in node["metadata"]
    assert os.getcwd() not in json.dumps(node["metadata"])
    assert not any("execution" in cell["metadata"] for cell in node["cells"])
    assert "encryption" not in capfd.readouterr().err

    figures = [out.data for cell in nbformat.read(done, as_version=4).cells for out in cell.outputs if "data" in out]
    assert [set(data) for data in figures] == [{"application/vnd.plotly.v1+json"}]  # the data alone
    assert done.stat().st_size < 30_000

    html = export_html(done)
    page = html.read_text()
    assert html == Path("runs/a-5/train.html") and "<title>train</title>" in page
    assert page.count("data-plotly=") == 1 and page.count('id="mimlab-plotly"') == 1  # the library is there, and once
    assert 1_000_000 < len(page) < 2_600_000
    for loader in ("cdn.plot.ly", 'src="http', "MathJax.js?config"):
        assert f'<script src="{loader}' not in page and f'src="{loader}' not in page


def test_an_export_without_figures_has_no_library(stub):
    done = execute(write("plain.ipynb", "x = 1", "print(x)"), output="done.ipynb")
    assert "mimlab-plotly" not in export_html(done).read_text()
    assert nbformat.read(done, as_version=4).cells[1].outputs[0].text == "1\n"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"epoch": 3}, r"no parameter 'epoch' \(did you mean 'epochs'\?\); there are: lr, epochs, name"),
        ({"lr": "-1"}, r"lr = -1.0 is not above 0"),
    ],
)
def test_bad_settings_are_refused_before_anything_starts(stub, given, said, monkeypatch):
    monkeypatch.setattr(notebook.kernel, "run", lambda *_: pytest.fail("started"))
    with pytest.raises(Refused, match=said) as error:
        execute(write("03_train.ipynb", CELL, config="Train"), given)
    assert "\n" not in str(error.value)
    assert sorted(os.listdir()) == ["03_train.ipynb"]


def test_what_is_no_runnable_notebook_is_refused(stub):
    write("train.ipynb", CELL, "1", tag="other")
    with pytest.raises(Refused, match=r"no cell is tagged 'parameters'"):
        execute("train.ipynb")
    with pytest.raises(Refused, match=r"no file 'trian.ipynb' \(did you mean 'train.ipynb'"):
        execute("trian.ipynb")
    Path("text.ipynb").write_text("no json")
    with pytest.raises(Refused, match="not a Jupyter notebook"):
        execute("text.ipynb")
    with pytest.raises(Refused, match=r"line 1 of the parameters cell is 'lr = compute\(\)'"):
        execute(write("b.ipynb", "lr = compute()"), output="out.ipynb")
    with pytest.raises(Refused, match=r"config 'Trian' .did you mean 'Train'"):
        execute(write("c.ipynb", CELL, config="Trian"))


def test_without_a_config_the_output_must_be_given():
    source = write("plain.ipynb", "x = 1", "print(x + 1)")
    with pytest.raises(Refused, match=r"output: plain.ipynb names no config"):
        execute(source)
    with pytest.raises(Refused, match="not the notebook itself"):
        execute(source, output="./plain.ipynb")
    assert texts(execute(source, {"x": 4}, output="o{1}/done.ipynb")) == ["5\n"]  # braces are no template


def test_without_a_config_text_is_read_by_the_default(tmp_path):
    write(tmp_path / "plain.ipynb", "n = 1\nname = 'a'\nshares = None", "print(n + 1, name * 2, shares)")
    done = execute(tmp_path / "plain.ipynb", {"n": "2.5", "name": "7", "shares": "[0.1, 1]"}, output="done.ipynb")
    assert texts(done) == ["3.5 77 [0.1, 1]\n"]
    with pytest.raises(Refused, match=r"n = '\[2' is no value such as"):
        execute(tmp_path / "plain.ipynb", {"n": "[2"}, output="done.ipynb")


def test_a_failure_tells_the_cell_and_keeps_the_finished_copy():
    source = write("plain.ipynb", "x = 1", "print(1 / x)")
    done = execute(source, output="done.ipynb")
    before = done.read_bytes()
    with pytest.raises(Failed) as error:
        execute(source, {"x": 0}, output="done.ipynb")
    first, *last = str(error.value).splitlines()
    assert first == "done: cell [3] raised ZeroDivisionError: division by zero; kept as done.failed.ipynb"
    assert last[-1] == "ZeroDivisionError: division by zero"
    assert done.read_bytes() == before
    kept = Path("done.failed.ipynb").read_text()
    assert "ZeroDivisionError" in kept and '"papermill": {' not in kept
    assert not Path("done.running.ipynb").exists()

    execute(source, output="done.ipynb")  # a success clears the failed copy away
    assert not Path("done.failed.ipynb").exists()


def test_refused_in_a_cell_is_its_own_line():
    source = write("plain.ipynb", "x = 1", "from mimlab.errors import Refused\nraise Refused('x = 1 is not even')")
    with pytest.raises(Refused) as error:
        execute(source, output="done.ipynb")
    assert str(error.value) == "x = 1 is not even"
    assert Path("done.failed.ipynb").exists()


def test_a_dead_kernel_is_told():
    source = write("plain.ipynb", "x = 1", "import os\nos._exit(9)")
    with pytest.raises(Failed, match=r"the kernel died .* in cell \[2\]; kept as done.failed.ipynb"):
        execute(source, output="done.ipynb")
    assert Path("done.failed.ipynb").exists() and not Path("done.ipynb").exists()


def test_an_interrupt_stops_the_kernel_and_goes_on(tmp_path):
    write("slow.ipynb", "x = 1", "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(60)")
    code = """
        import os, signal, threading, time
        from mimlab.notebook import execute
        def press():
            while not (os.path.exists("pid") and open("pid").read()):
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=press, daemon=True).start()
        try:
            execute("slow.ipynb", output="done.ipynb")
        except KeyboardInterrupt:
            print("interrupted")
    """
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=50, check=False
    )
    assert child.stdout == "interrupted\n", child.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path("pid").read_text()), 0)
    assert Path("done.failed.ipynb").exists() and not Path("done.ipynb").exists()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_kernel_that_is_done_is_not_interrupted(capfd):
    """At the end it may still be in a message, of which it has sent the reply; here it stays there for a second."""
    slow = """
        import time
        kernel = get_ipython().kernel
        answer = kernel.shell_handlers["kernel_info_request"]
        async def slowly(*message):
            await answer(*message)
            time.sleep(1)
        kernel.shell_handlers["kernel_info_request"] = slowly
    """
    source = write("plain.ipynb", "x = 1", textwrap.dedent(slow), "print(x)")
    assert texts(execute(source, output="done.ipynb", progress=False)) == ["1\n"]
    assert "KeyboardInterrupt" not in capfd.readouterr().err


def test_a_foreign_python3_kernelspec_is_not_used(tmp_path, monkeypatch):
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    wrong = {"argv": ["/bin/false", "{connection_file}"], "display_name": "another", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(wrong))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    source = write("plain.ipynb", "x = 1", "import sys\nprint(sys.executable)")
    assert texts(execute(source, output="done.ipynb")) == [sys.executable + "\n"]


def test_progress_speaks_in_lines_where_there_is_no_terminal(stub, monkeypatch, capfd):
    monkeypatch.setattr(watch, "SPEAK", 0)
    code = """
        import json, time
        for step in range(1, 7):
            with open("runs/a-2/metrics.jsonl", "a") as file:
                file.write(json.dumps({"step": step, "steps": 10, "loss": 1 / step}) + "\\n")
            time.sleep(0.5)
    """
    Path("runs/a-2").mkdir(parents=True)
    Path("runs/a-2/metrics.jsonl").write_text('{"step": 999, "steps": 1000, "loss": 7}\n')  # an earlier attempt
    execute(write("03_train.ipynb", CELL, textwrap.dedent(code), config="Train"))
    lines = capfd.readouterr().err.splitlines()
    assert any(line.startswith("train: 1 of 2 cells, step ") and line.endswith("left") for line in lines), lines
    assert not any("999" in line for line in lines)


def test_pictures_need_a_browser(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    with pytest.raises(Refused, match=r"static: .* need kaleido and a Chrome or Chromium"):
        execute(write("a.ipynb", "x = 1"), output="b.ipynb", static=True)


def test_reading_a_notebook_does_not_compile_grammars():
    """A notebook's start and its first figure are seconds shorter; what is hidden for it is there again afterwards."""
    for first in ("from mimlab import light; light.nbformat()", "import mimlab.figures.curves, plotly.io._renderers"):
        code = (
            f"import sys; {first}; assert 'nbformat' in sys.modules; found = [n for n in sys.modules if n.startswith('lark')];"
            "assert not found, found; assert 'rfc3987_syntax' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


def alone(code):
    """Run code in a process that has not loaded torch; what it printed."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_the_kernel_checks_settings_where_torch_is_not_loaded():
    """Torch and timm are loaded once; what the kernel refuses is refused here, with no cell run and nothing written."""
    write("03_train.ipynb", 'patch_size = 4\nout = "runs"\nrun = "a"', "open('ran', 'w')", config="Pretrain")
    code = """
        import pathlib, sys
        from mimlab.errors import Refused
        from mimlab.notebook import execute
        try:
            execute("03_train.ipynb", {"patch_size": "5"})
        except Refused as error:
            print(error)
        print(pathlib.Path("runs").exists() or pathlib.Path("ran").exists())
        print(execute("03_train.ipynb", {"patch_size": "7"}), pathlib.Path("ran").exists(), "torch" in sys.modules)
    """
    refused, begun, done = alone(code)
    assert "does not divide" in refused and begun == "False" and done == "runs/a/train.ipynb True False"


def test_a_kernel_that_dies_while_it_checks_is_told():
    """A module of the user's that ends the process stands for one that the system kills."""
    Path("deadly").mkdir()
    Path("deadly/mask.py").write_text("import os\nos._exit(9)")
    write("03_train.ipynb", 'mask = "deadly.mask"\nrun = "a"', config="Pretrain")
    code = """
        from mimlab.errors import Failed
        from mimlab.notebook import execute
        try:
            execute("03_train.ipynb")
        except Failed as error:
            print(error)
    """
    assert alone(code) == ["the kernel died (out of memory, or killed) before the first cell"]
