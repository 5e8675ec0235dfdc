"""No stored number is left unasked: every case of the oracle folder belongs to a test."""

import ast
from pathlib import Path

from oracle_cases import cases, folder


def asked():
    """What the tests give to `cases`: prefixes of names."""
    found = set()
    for path in Path(__file__).parent.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "cases":
                found |= {one.value for one in node.args if isinstance(one, ast.Constant)}
    return found


def test_every_case_is_some_tests():
    prefixes = tuple(sorted(asked()))
    files = [path for path in folder().iterdir() if path.suffix in (".json", ".npz", ".safetensors")]
    assert files and [path.name for path in files if not path.stem.startswith(prefixes)] == []
    assert [path.name for path in files if not path.with_suffix(".json").exists()] == []  # which no test would open
    assert {name for prefix in prefixes for name in cases(prefix)} == {path.stem for path in files}
