"""No stored number is left unasked: every case of the oracle folder belongs to a test, and every array of it is one that they name."""

import ast
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from oracle_cases import cases, folder

HERE = Path(__file__).parent
UNASKED = "jacobgil_"  # rollouts by code that scales columns for rows (TRAPS 58), stored to show how far off they are


@cache
def prefixes(path):
    """What a test file gives to `cases`: prefixes of names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "cases":
            found |= {one.value for one in node.args if isinstance(one, ast.Constant)}
    return found


def asking(name):
    """Test files that ask for a case."""
    return [
        str(path)
        for path in sorted(HERE.rglob("test_*.py"))
        if name.startswith(tuple(prefixes(path)) or ("\0",)) and path.name != Path(__file__).name
    ]


@cache
def spoken(path):
    """Pieces of text in a test file from which keys can be made."""
    tree = ast.parse(path.read_text())
    return {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def test_every_case_is_some_tests():
    asked = tuple(sorted(set().union(*(prefixes(path) for path in HERE.rglob("test_*.py")))))
    files = [path for path in folder().iterdir() if path.suffix in (".json", ".npz", ".safetensors")]
    assert files and [path.name for path in files if not path.stem.startswith(asked)] == []
    assert [path.name for path in files if not path.with_suffix(".json").exists()] == []  # which no test would open
    assert {name for prefix in asked for name in cases(prefix)} == {path.stem for path in files}


def test_every_array_is_spoken_of_by_the_tests_that_ask_for_its_case():
    """Some text in them is the array's name, or begins or ends it."""
    unspoken = {}
    for path in sorted(folder().glob("*.npz")):
        words = set().union(*(spoken(Path(file)) for file in asking(path.stem)))
        with np.load(path, allow_pickle=False) as opened:
            left = [
                key
                for key in opened.files
                if not any(key == w or (len(w) > 1 and (key.startswith(w) or key.endswith(w))) for w in words)
                and not key.startswith(UNASKED)
            ]
        if left:
            unspoken[path.stem] = left
    assert unspoken == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in folder().glob("*.json")))
def test_a_number_that_is_changed_is_noticed(name):
    """Each stored number in turn is changed, and a test that asks for the case must fail."""
    done = subprocess.run(
        [sys.executable, str(HERE / "oracle_mutations.py"), name],
        capture_output=True,
        text=True,
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    unnoticed = json.loads(done.stdout.splitlines()[-1])[name]
    assert [key for key in unnoticed if not key.startswith(UNASKED)] == []
