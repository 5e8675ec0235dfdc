"""YAML as all of mimlab reads it: YAML 1.2's words, one line with the place for what is wrong, nothing that unfolds."""

import math
import subprocess

import pytest

from mimlab import config, notebook, preset, settings, yaml_text
from mimlab.config import Pretrain
from mimlab.errors import Refused
from mimlab.study import command, spec

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3), ("2E5", 2e5), ("+1e3", 1e3), (".5", 0.5), ("-1.5e+3", -1500.0), ("5.", 5.0), ("-7", -7), ("0", 0), ("0x1F", 31),
        ("no", "no"), ("off", "off"), ("on", "on"), ("yes", "yes"), ("y", "y"), ("true", True), ("False", False), ("null", None), ("~", None),
        ("None", None), ("", None), ("2024-01-01", "2024-01-01"), ("2024-13-45", "2024-13-45"), ("2024-01-01 10:00:00", "2024-01-01 10:00:00"),
        ("12:30", "12:30"), ("007", "007"), ("1_000", "1_000"), ("1e999", "1e999"), (".inf", math.inf), ("'1e-3'", "1e-3"), ("!!str 5", "5"),
        ("{a: 1e-1, b: [6e-1, 1]}", {"a": 0.1, "b": [0.6, 1]}), ("{on: 1, no: 2}", {"on": 1, "no": 2}), ("\ufeffa: 1", {"a": 1}),
        ("a: &x {p: 1, q: 2}\nb: {<<: *x, p: 3}", {"a": {"p": 1, "q": 2}, "b": {"p": 3, "q": 2}}), ("=", "="), ("caf\udce9", "caf\udce9"),
    ],
)  # fmt: skip
def test_words_are_what_was_meant(text, value):
    found = yaml_text.load(text, "x")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{path: photos", "line 1, column 14: expected ',' or '}', but got the end"), ("a:\n\tb: 1", "line 2, column 1"), ("a: b: c", "column 5"),
        ("a: 'x", "line 1, column 6"), ("a: \x01", "line 1, column 4"), ("\ud800", "line 1, column 1"), ("--- 1\n--- 2", "another document"),
        ("a: 1\na: 2", "line 2, column 1: the name 'a' stands twice"), ("{1: 2, 1.0: 3}", "stands twice"), ("{[a]: 1}", "cannot be a name"),
        ("{{a: 1}: 2}", "cannot be a name"), ("&a [*a]", "stands inside itself"), ("&a {a: *a}", "stands inside itself"), ("*x", "undefined alias"),
        ("[" * 100_000, "column 33: more than 32 levels"), ("- " * 100_000, "more than 32 levels"), ("{a: " * 100_000, "more than 32 levels"),
        (BOMB, "more than 50,000 values"), ("a" * 1_000_001, "1,000,001 characters"), ("9" * 6000, "a number of 6,000 digits"),
        ("!!python/object/apply:os.system [ls]", "tag"), ("!!int abc", "tag"), ("!!timestamp x", "tag"), ("!!set {a}", "tag"), ("!x y", "tag"),
        ("{<<: 3}", "column 6: expected a mapping"), ("- <<", "tag"), ("@x", "line 1, column 1"), (None, "no text"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(text, said):
    with pytest.raises(Refused) as error:
        yaml_text.load(text, "x = 'y'")
    assert said in str(error.value) and str(error.value).startswith("x = 'y': ") and "\n" not in str(error.value)
    assert len(str(error.value)) < 300


def test_what_unfolds_is_refused_while_it_is_read(monkeypatch):
    """Not more values are made of a bomb than the limit lets through."""
    made = []
    construct = yaml_text._loader().construct_object

    def counted(self, node, deep=False):
        made.append(node)
        return construct(self, node, deep)

    monkeypatch.setattr(yaml_text._loader(), "construct_object", counted)
    with pytest.raises(Refused, match="more than 50,000 values"):
        yaml_text.load(BOMB, "x")
    assert len(made) < 1000


def test_merges_that_multiply_are_counted():
    text = "a0: &a0 {x: 1}\n" + "".join(
        f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}\n" for i in range(1, 12)
    )
    with pytest.raises(Refused, match="more than 50,000 values"):
        yaml_text.load(text, "x")


@pytest.mark.parametrize(
    "value",
    ["1e-3", "no", "2024-01-01", "007", "1:30", "<<", "=", "", "None", "é", "a: b", "\n x", "0o17", "true", None, True, 1e-5, 1e20, 3, [1, [2]], {"a": {}}],
)  # fmt: skip
def test_what_is_written_reads_back(value):
    found = yaml_text.load(yaml_text.dump({"k": value, "l": value}), "x")
    assert found == {"k": value, "l": value} and type(found["k"]) is type(value)


@pytest.mark.parametrize("text", [BOMB, "{path: photos", "&a {a: *a}", "{a: 1, a: 2}", "[" * 10_000], ids=range(5))
def test_every_reader_is_this_one(text, tmp_path):
    """Flags and cells, presets, files of parameters, studies and their parameters."""
    file = tmp_path / "x.yaml"
    file.write_text(text)
    for read in (
        lambda: Pretrain.read({"data_args": text}),
        lambda: config.Evaluate.read({"evaluation_args": text}),
        lambda: settings.coerce("augment", text, dict),
        lambda: preset.read(file),
        lambda: notebook.read_parameters(file),
        lambda: spec.read(file),
        lambda: command.study(file, parameters=[("x", text)]),
    ):
        with pytest.raises(Refused, match=r"line \d+, column \d+: ") as error:
            read()
        assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_no_other_reader_is_left():
    root = yaml_text.Path(yaml_text.__file__).parent
    found = subprocess.run(
        ["grep", "-rlE", r"yaml\.(safe_|full_|unsafe_)?load|yaml\.safe_dump", root, "--include=*.py"], capture_output=True, text=True
    )  # fmt: skip
    assert not found.stdout


def test_what_no_file_is(tmp_path):
    (tmp_path / "latin.yaml").write_bytes(b"a: caf\xe9")
    for path, said in (("none.yaml", "No such file"), ("latin.yaml", "UTF-8"), (".", "it is no file")):
        with pytest.raises(Refused, match=said):
            yaml_text.read(tmp_path / path, "preset")
