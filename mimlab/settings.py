"""What all settings classes share: reading, coercion by type, help, and the text of a notebook's cell."""

import dataclasses
import difflib
import json
import os
import types
import typing
from collections.abc import Callable
from dataclasses import field
from pathlib import Path

from mimlab import remote
from mimlab.errors import Refused
from mimlab.find import closest, label


def setting(default, help):
    """A field with its help line; a dict default is copied for each instance."""
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


def place(folder):
    """A relative `out` or run folder under $MIMLAB_ROOT, else under the current folder.

    `make lab` sets it to the clone, since a kernel's current folder is its notebook's.
    """
    if remote.away(folder):
        raise Refused(
            f"'{folder}': runs are made on a disk of this machine; --upload of mimlab run and study sends them there"
        )
    return Path(os.environ.get("MIMLAB_ROOT", "")) / folder


class Settings:
    """Reading, checking and writing, shared by the dataclasses of `config`."""

    def __post_init__(self):
        """Every value as its field's type, whoever gives it: `coerce`. An empty text stays one, as a recipe may have it."""
        for f in dataclasses.fields(self):
            if (value := getattr(self, f.name)) != "":
                object.__setattr__(self, f.name, coerce(f.name, value, f.type))  # they are frozen

    @classmethod
    def read(cls, source):
        """From a dict, or a notebook's `globals()`; there an empty text is None where that is allowed.

        Unknown names are refused. In `globals()` other names are normal, so there only a name that is
        nearly a field's is.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        notebook = "__name__" in source
        for name, value in source.items():
            if name in fields or name.startswith("_"):
                continue
            scalar = isinstance(value, (str, int, float, bool, type(None)))
            near = difflib.get_close_matches(name, fields, n=1, cutoff=0.8)
            if not notebook or (scalar and near):
                raise Refused(f"no parameter {name!r}{closest(name, fields)}; there are: {', '.join(fields)}")
        return cls(**{name: coerce(name, source[name], f.type) for name, f in fields.items() if name in source})

    @classmethod
    def defaults(cls):
        return {f.name: getattr(cls(), f.name) for f in dataclasses.fields(cls)}

    @classmethod
    def cell(cls):
        """The source of a notebook's parameters cell: `name = value  # help`, one line a field."""
        helps = {f.name: f.metadata["help"] for f in dataclasses.fields(cls)}
        return "\n".join(f"{name} = {plain(value)}  # {helps[name]}" for name, value in cls.defaults().items())

    def log(self):
        """The file that grows while a notebook with these settings works, or None."""
        return None

    def dict(self):
        """Name -> value as json can hold it; a function is named with a hash of its code."""
        return {name: label(value) if callable(value) else value for name, value in dataclasses.asdict(self).items()}

    def replace(self, **changes):
        return dataclasses.replace(self, **changes)


def plain(value):
    """A Python literal in the house style: double quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{plain(name)}: {plain(item)}" for name, item in value.items()) + "}"
    return json.dumps(value) if isinstance(value, str) else repr(value)


def coerce(name, value, kind):
    """`value` as the field type `kind`: text is parsed, 2.5 is no int, None only where the type allows it."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None or value in ("None", "null", ""):
        if type(None) in kinds:
            return None
        if str in kinds and value == "":
            return ""
        raise Refused(f"{name} = {value!r}: needs a value ({kinds[0].__name__})")
    problems = []
    for wanted in (k for k in kinds if k is not type(None)):
        try:
            return _as(value, wanted)
        except (ValueError, TypeError):
            problems.append(
                {
                    "int": "a whole number",
                    "float": "a number",
                    "bool": "True or False",
                    "dict": "a dict such as {}",
                    "Callable": "a function",
                }.get(wanted.__name__, "text")
            )
    raise Refused(f"{name} = {value!r} is not {' or '.join(problems)}")


def _as(value, wanted):
    if wanted is bool:
        text = str(value).lower()
        if text not in ("true", "false", "1", "0", "yes", "no"):
            raise ValueError
        return text in ("true", "1", "yes")
    if wanted is Callable:
        if not callable(value):
            raise ValueError
        return value
    if wanted is dict:
        import yaml

        value = yaml.safe_load(value) if isinstance(value, str) else value
        if not isinstance(value, dict):
            raise ValueError
        return dict(value)
    if wanted is str:
        if not isinstance(value, (str, int, float, Path)):
            raise ValueError
        return str(value)
    if isinstance(value, bool):
        raise ValueError
    number = float(value)
    if wanted is int and number != int(number):
        raise ValueError
    return int(number) if wanted is int else number


def within(name, value, low, high, note=""):
    if not low <= value <= high:
        raise Refused(f"{name} = {value} must lie between {low} and {high}{note}")
