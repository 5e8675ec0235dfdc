"""Names are files."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Annotated, Literal

import pytest

from mimlab import find
from mimlab.errors import Refused
from mimlab.find import Option, check_options, label, ranges


def test_a_name_is_its_file():
    assert find.find("masks", "random").__name__ == "mimlab.masks.random"
    assert "blockwise" in find.names("masks") and "__init__" not in find.names("masks")


def test_a_users_own_module_and_function(tmp_path, monkeypatch):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "__init__.py").write_text("")
    (tmp_path / "theirs" / "mask.py").write_text("def rank(batch, grid, generator): ...")
    monkeypatch.syspath_prepend(tmp_path)
    assert callable(find.find("masks", "theirs.mask").rank)

    def diagonal(batch, grid, generator): ...

    assert find.find("masks", diagonal).rank is diagonal
    assert find.find("masks", SimpleNamespace(rank=diagonal)).rank is diagonal


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("blokwise", "no masks called 'blokwise' .did you mean 'blockwise'..; there are: .*blockwise.*random.*split"),
        ("not.there", "no module called 'not.there' can be imported"),
        ("", "'' is not a name"),
        (3, "3 is not a name"),
    ],
)
def test_what_is_not_there(name, said):
    with pytest.raises(Refused, match=said):
        find.find("masks", name)


def test_options():
    def build(a, *, depth=2, dim): ...

    assert list(find.options(build)) == ["depth", "dim"]
    find.check_options("args", {"dim": 3}, build)
    with pytest.raises(Refused, match="args: no option 'dept' .did you mean 'depth'..; there are: depth, dim"):
        find.check_options("args", {"dept": 3}, build)
    with pytest.raises(Refused, match="args = 3 is not a dict"):
        find.check_options("args", 3, build)


def test_a_refusal_is_one_line_in_a_notebook():
    assert Refused("x = 1 cannot work")._render_traceback_() == ["Refused: x = 1 cannot work"]


def test_annotations_give_ranges_and_checks():
    def rank(batch, *, unit: Annotated[int, (1, 8)] = 2, share: Annotated[float, (0.1, 0.9, 0.05)] = 0.5,
             by: Literal["rows", "columns"] = "rows", flip: bool = False, low: Annotated[float | int | None, (0.0, 1.0)] = None,
             free=3.0):  # fmt: skip
        pass

    found = ranges(rank)
    assert found["unit"] == Option(2, int, 1, 8, 1)
    assert found["share"] == Option(0.5, float, 0.1, 0.9, 0.05)
    assert found["by"] == Option("rows", str, choices=("rows", "columns"))
    assert found["flip"].kind is bool and found["free"].kind is float and found["free"].low is None
    assert found["low"].none and found["low"].mixed
    check_options("mask_args", {"unit": 8, "share": 0.1, "by": "columns", "flip": True, "low": 16, "free": 99}, rank)
    check_options("mask_args", {"low": None, "share": 0.9}, rank)
    for given, said in (
        ({"unit": 9}, "mask_args: unit = 9 is not a whole number from 1 to 8"),
        ({"unit": 1.5}, "unit = 1.5 is not a whole number"),
        ({"unit": True}, "unit = True"),
        ({"share": 1}, "share = 1 is not a number from 0.1 to 0.9"),
        ({"by": "row"}, "by = 'row' is unknown .did you mean 'rows'..; there are: rows, columns"),
        ({"low": 1.5}, "low = 1.5 is not a number from 0.0 to 1.0"),
        ({"share": None}, "share = None"),
        ({"flip": "no"}, "flip = 'no' should be true or false"),
        ({"flip": 1}, "flip = 1 should be true or false"),
        ({"sized": 1}, "no option 'sized'"),
    ):
        with pytest.raises(Refused, match=said):
            check_options("mask_args", given, rank)


def test_a_label_changes_with_the_code():
    one, other = (lambda batch: batch + 1), (lambda batch: batch + 2)
    assert label(one) != label(other) and label(one) == label(one)
    strength = 1
    assert label(lambda batch: strength) != label(lambda batch: batch)
    scope = {}
    exec("def typed(batch):\n    return batch", scope)  # no source to be found
    assert label(scope["typed"]).startswith("typed (function ")


def test_a_module_that_another_thread_imports_is_waited_for(tmp_path):
    """In a fresh process: one thread is in the middle of an import when another asks for the same file."""
    code = """
import importlib.abc, importlib.machinery, sys, threading, time
from mimlab.find import find

began = threading.Event()

class Slow(importlib.machinery.SourceFileLoader):
    def exec_module(self, module):
        began.set()
        time.sleep(0.5)
        super().exec_module(module)

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "mimlab.masks.random":
            spec = importlib.machinery.PathFinder.find_spec(name, path)
            spec.loader = Slow(spec.loader.name, spec.loader.path)
            return spec

sys.meta_path.insert(0, Finder())
other = threading.Thread(target=find, args=("masks", "random"))
other.start()
began.wait()
assert callable(find("masks", "random").rank)
other.join()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", find.DEFINES)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../photos", "is no dotted name"), ("./mine.py", "is no dotted name"), (".", "is no dotted name"), ("..", "is no dotted name"), (".x", "is no dotted name"),
        ("a..b", "is no dotted name"), ("a.b.", "is no dotted name"), ("/x/y.z", "is no dotted name"), ("a b.c", "is no dotted name"), ("runs.evil-run.payload", "is no dotted name"),
        ("os.path", "defines no"), ("json.decoder", "defines no"), ("strange_one.syntax", "raised SyntaxError: .*, line 2"), ("strange_one.missing", "No module named 'nowhere'"),
        ("strange_one.exits", "raised SystemExit"), ("strange_one.raises", "raised KeyError"), ("strange_one.gone", "raised ImportError"), ("strange_one.silent", "raised ValueError: no word why"),
        ("strange_one.none", "No module named 'strange_one.none'"), ("x." + "y" * 10_000, "no module called"),
    ],
)  # fmt: skip
def test_a_dotted_name_that_is_no_module_of_the_kind(kind, name, said, tmp_path, monkeypatch):
    (tmp_path / "strange_one").mkdir()
    for file, text in {
        "__init__": "", "syntax": "x = 1\ndef (", "missing": "import nowhere", "exits": "raise SystemExit(3)", "raises": "{}['\\x1b[31m\\n']",
        "gone": "from math import nothing", "silent": "raise ValueError",
    }.items():  # fmt: skip
        (tmp_path / "strange_one" / f"{file}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Refused, match=said) as error:
        find.find(kind, name)
    assert str(error.value).startswith(f"{kind}: ") and "\n" not in str(error.value) and "\x1b" not in str(error.value)
    assert len(str(error.value)) < 1500
