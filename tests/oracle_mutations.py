"""Changes each stored number of an oracle case by itself and says which changes no test notices.

    python tests/oracle_mutations.py CASE ...

prints a line of JSON, {case: [keys that may be anything]}. Of an array one value is changed, of an entry of the JSON file its
first number. A test file is asked if it names a prefix of the case. Each change is tried in a fork, so that libraries are
loaded once.
"""

import contextlib
import copy
import io
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle_cases import folder
from test_oracle import asking

TOLD = {"source", "tolerance", "patched", "fp32_vs_fp64", "means", "standard_error_of_means"}  # what is only said


def changed(value):
    """A copy of an array in which one value is another."""
    value = np.array(value)
    middle = value.size // 2
    if value.dtype == bool:
        value.flat[middle] = ~value.flat[middle]
    elif value.dtype.kind in "iu":
        value.flat[middle] = value.flat[middle] + (-1 if value.flat[middle] else 1)
    else:
        value.flat[middle] += 1 + abs(value.flat[middle])
    return value


def first(entry):
    """Whether a JSON entry holds a number, after adding 1 + |number| to its first one, in place; [entry] for a bare number."""
    for key in range(len(entry)) if isinstance(entry, list) else list(entry):
        value = entry[key]
        if isinstance(value, (dict, list)):
            if first(value):
                return True
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            entry[key] = value + (1 if isinstance(value, int) else 1 + abs(value))
            return True
    return False


def mutants(name):
    """(key, how to write the changed case into a folder) of each stored number."""
    path = folder() / name
    if path.with_name(f"{name}.npz").exists():
        with np.load(path.with_name(f"{name}.npz"), allow_pickle=False) as opened:
            arrays = {key: opened[key] for key in opened.files}
        for key in arrays:
            yield key, lambda to, key=key: np.savez(to / f"{name}.npz", **(arrays | {key: changed(arrays[key])}))
    about = json.loads(path.with_name(f"{name}.json").read_text())
    for key in about:
        other = copy.deepcopy(about)
        held = [other[key]]
        if key not in TOLD and first(held):
            other[key] = held[0]
            yield f"json:{key}", lambda to, other=other: (to / f"{name}.json").write_text(json.dumps(other))


def noticed(name, write, files):
    """Whether a test fails on the changed case, found out in a fork."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
    code = 1
    try:
        with tempfile.TemporaryDirectory() as to, contextlib.redirect_stdout(io.StringIO()):
            for path in folder().iterdir():
                (Path(to) / path.name).symlink_to(path)
            for suffix in ("npz", "json"):  # the one that is written is no link
                target = Path(to) / f"{name}.{suffix}"
                if target.exists():
                    content = target.read_bytes()
                    target.unlink()
                    target.write_bytes(content)
            write(Path(to))
            os.environ["MIMLAB_ORACLE_DIR"] = to
            plain = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", *files]
            code = int(pytest.main([*plain, "-k", name]))
            if code in (0, 5):  # not every test has the case's name
                code = int(pytest.main(plain))
    finally:
        os._exit(code if code in (0, 1) else 1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {}
    for name in sys.argv[1:]:
        files = asking(name)
        found[name] = [key for key, write in mutants(name) if not noticed(name, write, files)]
        print(name, found[name], file=sys.stderr, flush=True)
    print(json.dumps(found))
