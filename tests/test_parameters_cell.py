"""A parameters cell is Python: names, values and the comment behind each, whatever stands in texts and comments."""

import pytest

from mimlab import config, parameters_cell
from mimlab.errors import Refused


@pytest.mark.parametrize(
    ("cell", "found"),
    [
        ('args = {"path": "/data/split=train"}  # options', {"args": ({"path": "/data/split=train"}, "options")}),
        ("seed = 3  # seed=3 was unlucky", {"seed": (3, "seed=3 was unlucky")}),
        ('args = {"background": "#7f7f7f"}', {"args": ({"background": "#7f7f7f"}, "")}),
        ("a = b = 3  # both", {"a": (3, "both"), "b": (3, "both")}),
        ("x: int | None = None  # help", {"x": (None, "help")}),
        ('x: "dict[str, int]" = {}', {"x": ({}, "")}),
        ("args = {\n  'a': [1,  # inside\n        2],\n}  # the end", {"args": ({"a": [1, 2]}, "the end")}),
        ("args = {  # the begin\n  'a': 1,\n}", {"args": ({"a": 1}, "the begin")}),
        ("text = '''a = 1\n# no comment\n'''", {"text": ("a = 1\n# no comment\n", "")}),
        ("text = 'a' \\\n  'b'", {"text": ("ab", "")}),
        ("n = -1e-3 # type: float the rate", {"n": (-1e-3, "the rate")}),
        ("# only a comment\n\nlr = 1\nlr = 2", {"lr": (2, "")}),
        ("a = 1; b = 2", {"a": (1, ""), "b": (2, "")}),
        ("größe = 3", {"größe": (3, "")}),
        ("", {}),
    ],
)
def test_names_values_and_help(cell, found):
    assert {name: (one["default"], one["help"]) for name, one in parameters_cell.read(cell, "x.ipynb").items()} == found


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("lr = compute()", "line 2 of the parameters cell is 'lr = compute()'"), ("lr = other", "lr = other"), ("import os", "import os"),
        ("for i in range(3): x = i", "for i in range"), ("a, b = 1, 2", "a, b = 1, 2"), ("a.b = 1", "a.b = 1"), ("a[0] = 1", "a"), ("a += 1", "a += 1"),
        ("x: int", "x: int"), ("def f(): pass", "def f"), ("%matplotlib inline", "%matplotlib inline"), ("!ls", "!ls"), ("a = 1 +", "a = 1 +"),
        ("a = f'{1}'", "a = f"), ("a = 10 ** 6", "a = 10 ** 6"), ("x = {[1]: 2}", "x = {[1]: 2}"), ("'a text'", "a text"), ("a = '", "a = "),
        ("a = " + "[" * 10_000, "a = [["), ("a = " + "-" * 100_000 + "1", "a = ---"), ("a = " + "9" * 6000, "999"), ("a = 1\0", "null bytes"),
    ],
)  # fmt: skip
def test_any_other_line_is_named(line, said):
    with pytest.raises(Refused) as error:
        parameters_cell.read(f"seed = 0  # of all\n{line}", "x.ipynb")
    assert str(error.value).startswith("x.ipynb: line ") and said in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize("name", config.__all__)
def test_every_cell_of_ours_is_read_as_it_runs(name):
    cls, own = getattr(config, name), {}
    found = parameters_cell.read(cls.cell(), "x.ipynb")
    exec(cls.cell(), own)
    assert {key: one["default"] for key, one in found.items()} == cls.defaults()
    assert all(own[key] == one["default"] and one["help"] for key, one in found.items())
