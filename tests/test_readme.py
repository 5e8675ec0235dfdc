"""The README keeps its word: files, commands, settings and names that it shows exist."""

import ast
import re
import shlex
from pathlib import Path

import pytest

import mimlab
from mimlab import config
from mimlab.__main__ import parser
from mimlab.notebook import parameters

ROOT = Path(mimlab.__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", TEXT, re.S)


def test_every_file_of_the_tree_exists():
    tree = next(block for _, block in BLOCKS if block.startswith("notebooks/"))
    inside, missing = "", []
    for line in tree.splitlines():
        names = [n for n in re.split(r" {2,}", line.strip())[0].split() if re.search(r"[./]", n) or n == "Makefile"]
        inside = "mimlab/" if line.startswith("  ") else ""
        missing += [name for name in names if not (ROOT / inside / name).exists()]
    assert missing == []
    listed = set(re.findall(r"(\w+\.py)", tree))
    assert {path.name for path in (ROOT / "mimlab").glob("*.py")} - listed == {"__init__.py", "__main__.py"}


def commands():
    lines = [line for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("mimlab ")]


def test_every_command_parses_with_settings_that_exist():
    assert len(commands()) >= 3
    for words in commands():
        given = parser().parse_args(words[1:])
        if given.command != "run":
            continue
        known = parameters(ROOT / given.notebook)
        assert [name for name, _ in given.parameter if name not in known] == []


def test_every_make_target_is_there():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert [name for name in re.findall(r"(?:^|`)make ([\w-]+)", TEXT, re.M) if name not in targets] == []


@pytest.mark.parametrize("source", [block for kind, block in BLOCKS if kind == "python"])
def test_python_examples_use_names_that_exist(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mimlab":
            assert hasattr(mimlab, node.attr)
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("Pretrain", "Evaluate")
        ):
            fields = getattr(config, node.func.attr).defaults()
            assert {word.arg for word in node.keywords} <= set(fields)


def test_names_of_every_folder_are_told():
    from mimlab.data import sources
    from mimlab.find import names

    for kind in ("methods", "masks", "tokenizers", "evals"):
        assert [name for name in names(kind) if f"`{name}`" not in TEXT] == []
    assert [name for name in sources() if f"`{name}`" not in TEXT] == []


def test_the_picture_is_there():
    for path in re.findall(r"!\[.*?\]\((.*?)\)", TEXT):
        assert (ROOT / path).stat().st_size > 10_000
