"""What is written as JSON is JSON."""

import ast
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import mimlab
from mimlab import log, strict
from mimlab.methods import Output
from mimlab.run import Run


def test_numbers_that_are_not_finite_are_null_wherever_they_lie():
    value = {
        "a": [1, math.nan, (math.inf, "NaN")],
        "b": {"c": -math.inf, "d": np.float64("nan")},
        math.nan: True,
        2: 0.5,
    }
    found = strict.dumps(value)
    assert json.loads(found, parse_constant=pytest.fail) == {
        "a": [1, None, [None, "NaN"]], "b": {"c": None, "d": None}, "nan": True, "2": 0.5,
    }  # fmt: skip
    assert strict.dumps({"b": 1.5, "a": [True, None]}, sort_keys=True) == '{"a": [true, null], "b": 1.5}'


FILES = sorted(Path(mimlab.__file__).parent.rglob("*.py"))


def test_no_file_writes_json_by_another_way():
    """json.dumps writes NaN and Infinity, which are no JSON, unless it is told not to."""
    loose = []
    for path in FILES:
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or not isinstance(call.func, (ast.Attribute, ast.Name)):
                continue
            name = ast.unparse(call.func)
            told = {one.arg: ast.unparse(one.value) for one in call.keywords}
            if name in ("json.dumps", "json.dump", "dumps", "dump") and told.get("allow_nan") != "False":
                loose.append(f"{path.name}:{call.lineno}")
    assert len(FILES) > 100 and not loose


class Alone:
    """What `Log` asks of an accelerator, of one process."""

    device, is_main_process = torch.device("cpu"), True

    def reduce(self, value, how):
        return value

    def gather(self, value):
        return value


def test_a_gradient_that_overflows_is_null_in_the_log_and_plain_numbers_are_kept(tmp_path):
    run = Run.at(tmp_path)
    kept = log.Log(mimlab.Pretrain(batch_size=4), run, Alone(), 10, 5, 0, None, None)
    for step in range(2):
        kept.add(
            step, torch.arange(4), Output(torch.tensor(1.0), {"share": torch.tensor(0.5)}, None), torch.tensor(math.inf)
        )
    kept.write(2, 0.1, None)
    kept.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    row = json.loads(line, parse_constant=pytest.fail)
    assert row["grad_norm"] is None and row["loss"] == 1 and row["share"] == 0.5 and row["memory_mb"] > 10
