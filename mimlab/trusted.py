"""Whose modules are imported: those of mimlab, and those that the user named.

A dotted name that stands in a cell, a `-p`, a flag, or a preset or study given by a local path is the user's. One that only
stands in a run folder's config.json, or in a file fetched from an address, was chosen by whoever wrote that: it is
imported once the user names it too, here or with `--trust MODULE` (MIMLAB_TRUST in the environment of child processes).
"""

import contextlib
import contextvars
import importlib.machinery
import os
import re
import sys
from pathlib import Path

from mimlab import files
from mimlab.errors import Refused, shown

FIELDS = ("method", "encoder", "data", "mask", "tokenizer", "evaluation")  # settings that may name a module
DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
VARIABLE = "MIMLAB_TRUST"
_named = set()
_source = contextvars.ContextVar("where the settings that are read now come from", default=None)


def trust(*names):
    """Let modules be imported whose names stand in files that others wrote; a package's name stands for all in it."""
    for name in names:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            raise Refused(f"trust: {shown(name)} is no name of a module, such as my_package.masks")
    there = [name for name in os.environ.get(VARIABLE, "").split(",") if name]
    os.environ[VARIABLE] = ",".join(dict.fromkeys([*there, *names]))


def known(name):
    """Whether a dotted name may be imported wherever it stands."""
    good = _named | {"mimlab", *filter(None, os.environ.get(VARIABLE, "").split(","))}
    return any(name == one or name.startswith(f"{one}.") for one in good)


@contextlib.contextmanager
def foreign(source):
    """Settings made inside come from `source`, a file of somebody: modules that they name must be `known`."""
    token = _source.set(str(source))
    try:
        yield
    finally:
        _source.reset(token)


@contextlib.contextmanager
def quiet():
    """Settings made inside are only looked at: what they name is neither noted nor imported."""
    token = _source.set("")
    try:
        yield
    finally:
        _source.reset(token)


def told(settings):
    """Note the modules that the user's settings (name -> value) name, or check those of a `foreign` file."""
    source = _source.get()
    for field in FIELDS:
        name = settings.get(field)
        if isinstance(name, str) and "." in name and "(" not in name:
            if source is None:
                _named.add(name)
            elif source:
                check(field, name, source)


def check(field, name, source):
    """Refuse a dotted name that only `source` names."""
    if isinstance(name, str) and "." in name and "(" not in name and not known(name):
        raise Refused(
            f"{field} = {shown(name)} stands only in {source}, and importing it would run code that you did not name; "
            f"if you know it, use --trust {name}, or mimlab.trust({shown(name)})"
        )


def check_all(content, source):
    """The same for any names with values, and lists of values, as a study or a file of parameters holds them."""
    todo = [content]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            for name, value in one.items():
                values = value if isinstance(value, list) else [value]
                for single in values if name in FIELDS else ():
                    check(name, single, source)
                todo += [value]
        elif isinstance(one, list):
            todo += one


def importable(name):
    """Refuse a module that lies inside a run folder: what trains nothing there is data, whoever named it.

    The packages above it are looked up one by one, and each before it is imported.
    """
    path, parts = None, name.split(".")
    for k in range(1, len(parts) + 1):
        full = ".".join(parts[:k])
        if full in sys.modules:
            path = getattr(sys.modules[full], "__path__", None)
            if k < len(parts) and path is None:
                return
            continue
        try:
            spec = importlib.machinery.PathFinder.find_spec(full, path)
        except (ImportError, ValueError, AttributeError):
            return
        if spec is None:  # none there, or of another finder: the import itself tells
            return
        for place in [spec.origin, *(spec.submodule_search_locations or ())]:
            run = place and run_folder(place)
            if run:
                raise Refused(
                    f"{shown(name)} lies in the run folder {run}, from which nothing is imported; keep it elsewhere"
                )
        path = spec.submodule_search_locations
        if path is None:
            return


def run_folder(place):
    """The run folder that a path lies in, or None."""
    here = Path(place).resolve()
    for folder in (here, *here.parents):
        try:
            about = files.load(folder / "config.json", most=64 * 2**20)
        except (OSError, Refused):
            continue
        if isinstance(about.get("settings"), dict):
            return folder
    return None
