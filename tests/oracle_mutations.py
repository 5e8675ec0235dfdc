"""Changes each stored number of an oracle case by itself and says which changes no test notices.

    python tests/oracle_mutations.py CASE ...

prints a line of JSON, {case: [keys that may be anything]}; it fails if the tests fail on the case as it is. Of an array or weight one
value is changed, of an entry of the JSON file each number, of lists the first, middle and last; of names that differ in a number
(one block's and the next's) one. The tests that open the case are asked; those that read it once for all are asked with their whole
file. Libraries are loaded once, each change is tried in a fork.
"""

import contextlib
import copy
import importlib
import io
import json
import os
import re
import signal
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from oracle_cases import folder
from safetensors.torch import load_file, save_file
from test_oracle import asking

# What is only said: where a case is from, how exact it is, and seeds of generators whose code is not here.
TOLD = {
    "source",
    "tolerance",
    "patched",
    "fp32_vs_fp64",
    "standard_error_of_means",
    "checked",
    "python_random_seed",
    "post_gain",
    "smallest_margin",
}
SECONDS = 300  # for the tests of one change
PASSED, FAILED, BROKEN, NONE = 0, 1, 2, 5  # pytest's exit statuses; BROKEN: a file could not be collected


def changed(value):
    """A copy of an array in which one value is another."""
    value = np.array(value)
    middle = value.size // 2
    if value.dtype == bool:
        value.flat[middle] = ~value.flat[middle]
    elif value.dtype.kind in "iu":
        value.flat[middle] = value.flat[middle] + (-1 if value.flat[middle] else 1)
    elif value.dtype.kind == "f":
        value.flat[middle] += 1 + abs(value.flat[middle])
    else:
        value.flat[middle] = ""
    return value


def kinds(names):
    """One of all names that differ in numbers only, the last."""
    return list({re.sub(r"(?<![A-Za-z])\d+", "#", name): name for name in names}.values())


def numbers(entry, path=()):
    """Paths of the numbers of a JSON entry, yes and no among them."""
    if isinstance(entry, (dict, list)):
        keys = list(entry) if isinstance(entry, dict) else list(range(len(entry)))
        for key in kinds(keys) if isinstance(entry, dict) else sorted({0, len(keys) // 2, len(keys) - 1} & set(keys)):
            yield from numbers(entry[key], (*path, key))
    elif isinstance(entry, (int, float)):
        yield path


def altered(about, path):
    """A copy of a JSON file's content in which the number at `path` is another."""
    about = copy.deepcopy(about)
    place = about
    for key in path[:-1]:
        place = place[key]
    value = place[path[-1]]
    place[path[-1]] = (
        not value if isinstance(value, bool) else value + (1 if isinstance(value, int) else 1 + abs(value))
    )
    return about


def mutants(name):
    """(key, how to write the changed case into a folder) of each stored number."""
    path = folder() / name
    if path.with_name(f"{name}.npz").exists():
        with np.load(path.with_name(f"{name}.npz"), allow_pickle=False) as opened:
            arrays = {key: opened[key] for key in opened.files}
        for key in arrays:
            yield key, lambda to, key=key: np.savez(to / f"{name}.npz", **(arrays | {key: changed(arrays[key])}))
    if path.with_name(f"{name}.safetensors").exists():
        state = load_file(path.with_name(f"{name}.safetensors"))
        for key in kinds(state):
            other = torch.from_numpy(changed(state[key].numpy())).contiguous()
            yield (
                f"weight:{key}",
                lambda to, key=key, other=other: save_file(state | {key: other}, to / f"{name}.safetensors"),
            )
    about = json.loads(path.with_name(f"{name}.json").read_text())
    for key in numbers({k: v for k, v in about.items() if k not in TOLD}):
        other = altered(about, key)
        said = ".".join(map(str, key))
        yield f"json:{said}", lambda to, other=other: (to / f"{name}.json").write_text(json.dumps(other))


def ask(name, tests, write=None, log=None):
    """The exit status of `tests` on a copy of the oracle that `write` has changed, in a fork; None: it took too long.

    `log` is filled with {"tests": those that opened the case, "modules": what they imported}.
    """
    child = os.fork()
    if child:
        return {256: FAILED, 512: BROKEN}.get(status := os.waitpid(child, 0)[1], PASSED if status == 0 else None)
    code = BROKEN
    try:
        signal.alarm(SECONDS)
        os.close(2), os.open(os.devnull, os.O_WRONLY)
        with tempfile.TemporaryDirectory() as to, contextlib.redirect_stdout(io.StringIO()):
            for path in folder().iterdir():
                (Path(to) / path.name).symlink_to(path)
            for suffix in ("npz", "json", "safetensors"):  # what is written is no link
                target = Path(to) / f"{name}.{suffix}"
                if target.exists():
                    content = target.read_bytes()
                    target.unlink()
                    target.write_bytes(content)
            if write is not None:
                write(Path(to))
            os.environ["MIMLAB_ORACLE_DIR"] = to
            seen = set()
            if log is not None:
                ours = str(Path(to) / name) + "."

                def opened(event, args):
                    if event == "open" and isinstance(args[0], (str, Path)) and str(args[0]).startswith(ours):
                        seen.add(os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0])

                sys.addaudithook(opened)
            slow = ["-m", "not packs and not browser and not slurm"]
            code = int(
                pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", *slow, *tests])
            )
            code = {PASSED: PASSED, NONE: PASSED, FAILED: FAILED}.get(code, BROKEN)
            if log is not None:
                modules = [m for m in sys.modules if m.split(".")[0] in ("mimlab", "timm", "torch", "transformers")]
                Path(log).write_text(json.dumps({"tests": sorted(seen - {""}), "modules": modules}))
    finally:
        os._exit(code)


def unnoticed(name):
    """Keys of one case that may be anything."""
    files = asking(name)
    with tempfile.TemporaryDirectory() as held:
        log = Path(held) / "log"
        if ask(name, files, log=log) != PASSED:
            raise SystemExit(f"{name}: the tests fail on the case as it is")
        log = json.loads(log.read_text())
    for module in log["modules"]:
        with contextlib.suppress(Exception):
            importlib.import_module(module)
    found = []
    print(name, "passes as it is", file=sys.stderr, flush=True)
    for key, write in mutants(name):
        status = ask(name, log["tests"], write) if log["tests"] else PASSED
        if status == PASSED:  # a file that reads its cases once, whoever asks first
            status = ask(name, files, write)
        if status not in (FAILED, BROKEN):
            found.append(key if status == PASSED else f"{key} (took more than {SECONDS} s)")
            print(name, found[-1], file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({name: unnoticed(name) for name in sys.argv[1:]}))
