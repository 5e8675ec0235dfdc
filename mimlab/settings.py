"""What all settings classes share: reading, coercion by type, help, and the text of a notebook's cell."""

import contextlib
import dataclasses
import difflib
import glob
import math
import os
import re
import types
import typing
import unicodedata
from collections.abc import Callable
from dataclasses import field
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from mimlab import files, remote, strict, trusted, yaml_text
from mimlab.errors import Refused, shown
from mimlab.find import closest, label

LONGEST = 1_000_000  # characters of a text: names of many runs with commas between them


def setting(default, help, many=False):
    """A field with its help line; a dict default is copied for each instance. `many`: its text is a list of names or numbers."""
    metadata = {"help": help, "many": many}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def place(folder):
    """A relative `out` or run folder under $MIMLAB_ROOT, else under the current folder.

    `make lab` sets it to the clone, since a kernel's current folder is its notebook's.
    """
    if remote.away(folder):
        raise Refused(
            f"out or run = {shown(str(folder))}: runs are made on a disk of this machine; --upload of mimlab run and study sends them there"
        )
    return Path(os.environ.get("MIMLAB_ROOT", "")) / folder


def folder_of(cfg, name):
    """`out` / `name`-hash of a settings class with a `fingerprint`, or the folder of the earlier format with the same settings.

    That one has six digits of a hash in its name, so all settings are compared. So is the folder of a run on the same
    images that lay elsewhere then.
    """
    from mimlab.run import Run, differing, is_run, moved

    clean = "".join(sign if sign.isprintable() and sign not in "/\\" else "_" for sign in name).lstrip(".")
    clean = clean.encode("utf-8", "replace")[:180].decode("utf-8", "ignore")
    folder = place(cfg.out) / f"{clean}-{cfg.fingerprint}"
    for earlier in () if is_run(folder) else sorted(folder.parent.glob(f"{glob.escape(clean)}-??????")):
        if re.fullmatch("[0-9a-f]{6}", earlier.name[-6:]) and is_run(earlier):
            with contextlib.suppress(Refused):  # a damaged one is no run of these settings
                about = Run(earlier).config
                if about["format"] < 2 and not differing(cfg, about["settings"]):
                    return earlier
    if not is_run(folder) and hasattr(cfg, "cache_size"):
        for earlier in sorted(folder.parent.glob(f"{glob.escape(clean)}-{'[0-9a-f]' * 16}")):
            if is_run(earlier) and moved(cfg, earlier):
                return earlier
    return folder


class Settings:
    """Reading, checking and writing, shared by the dataclasses of `config`."""

    FOLDERS = ()

    def __post_init__(self):
        """Every value as its field's type, whoever gives it: `coerce`. An empty text stays one, as a recipe may have it."""
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if not (isinstance(value, str) and not value and str in _kinds(f.type)):
                found = coerce(f.name, value, f.type, f.metadata["many"])
                object.__setattr__(self, f.name, found)  # they are frozen
        trusted.told(vars(self))
        self.check_folder()

    def check_folder(self):
        """Refuse a name of the run's folder that is none; `FOLDERS` are the fields that hold one."""
        for name in self.FOLDERS:
            if getattr(self, name) is not None:
                files.one_name(name, getattr(self, name))

    @classmethod
    def read(cls, source):
        """From a dict, or a notebook's `globals()`; there an empty text is None where that is allowed.

        Unknown names are refused. In `globals()` other names are normal, so there only a name that is
        nearly a field's is.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        if not isinstance(source, dict):
            raise Refused(f"settings = {shown(source)} should be names with values; there are: {', '.join(fields)}")
        notebook = "__name__" in source
        for name, value in source.items():
            if name in fields or (isinstance(name, str) and name.startswith("_")):
                continue
            scalar = isinstance(value, (str, int, float, bool, type(None)))
            near = difflib.get_close_matches(str(name)[:100], fields, n=1, cutoff=0.8)
            if not notebook or (scalar and near):
                raise Refused(f"no parameter {shown(name)}{closest(name, fields)}; there are: {', '.join(fields)}")
        return cls(
            **{
                name: coerce(name, source[name], f.type, f.metadata["many"])
                for name, f in fields.items()
                if name in source
            }
        )

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
    return strict.dumps(value) if isinstance(value, str) else repr(value)


def coerce(name, value, kind, many=False):
    """`value` as the field type `kind`: text is parsed, 2.5 is no int, None only where the type allows it.

    Text may be long only where it is a list of `many`, with commas.

    Numbers are finite, whole ones exact and within 64 bits; a dict is a copy of plain data (`data_only`). Raises `Refused`,
    whatever the value is and whatever its own methods do.
    """
    kinds = _kinds(kind)
    try:
        if value is None or (isinstance(value, str) and str.__str__(value) in ("None", "null", "")):
            if type(None) in kinds:
                return None
            if str in kinds and value is not None and not value:
                return ""
            raise Refused(f"{name} = {shown(value)}: needs a value ({_WHAT.get(kinds[0].__name__, 'text')})")
        problems = []
        for wanted in (k for k in kinds if k is not type(None)):
            try:
                return _as(name, value, wanted, many)
            except (ValueError, TypeError, OverflowError) as error:
                if isinstance(error, Refused):
                    raise
                problems.append(f"{_WHAT.get(wanted.__name__, 'text')}{f' ({error})' if str(error) else ''}")
    except Refused:
        raise
    except Exception as error:  # a method of the value's own
        raise Refused(f"{name} = {shown(value)} cannot be read ({type(error).__name__})") from None
    raise Refused(f"{name} = {shown(value)} is not {' or '.join(problems)}")


_WHAT = {
    "int": "a whole number",
    "float": "a number",
    "bool": "True or False",
    "dict": "a dict such as {}",
    "Callable": "a function",
    "str": "text",
}


def _kinds(kind):
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


def _as(name, value, wanted, many):
    """`value` as one type. ValueError or TypeError where it is none, with a word why where that helps."""
    if wanted is bool:
        text = str.__str__(value).strip().lower() if isinstance(value, str) else _scalar(value)
        if isinstance(text, float) or text not in (True, False, "true", "false", "1", "0", "yes", "no", "on", "off"):
            raise ValueError
        return text in (True, "true", "1", "yes", "on")
    if wanted is Callable:
        if not callable(value):
            raise ValueError
        for attribute in ("__name__", "__code__", "score"):  # one whose own methods raise is found out here
            getattr(value, attribute, None)
        return value
    if wanted is dict:
        if isinstance(value, str):
            value = yaml_text.load(value, f"{name} = {shown(value)} is not a dict such as {{}}")
        if not isinstance(value, dict):
            raise ValueError
        return data_only(name, value)
    if wanted is str:
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        value = value if isinstance(value, str) else _scalar(value)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError
        return _named(value, many) if isinstance(value, str) else str(_number(value))
    return whole(value) if wanted is int else number(value)


def whole(value):
    """A whole number, exactly; of text also 1e3 and 1_000. ValueError or TypeError for what is none, or has over 64 bits."""
    value = _scalar(value)
    if isinstance(value, str):
        value = _decimal(value)
    elif isinstance(value, bool) or not isinstance(value, (int, float, Decimal, Fraction)):
        raise ValueError
    if not isinstance(value, int) and (not math.isfinite(float(value)) or value != int(value)):
        raise ValueError
    return _number(int(value))


def number(value):
    """A finite float. ValueError or TypeError for what is none."""
    value = _scalar(value)
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal, Fraction)):
        raise ValueError
    return _number(float(_decimal(value) if isinstance(value, str) else value))


def _scalar(value):
    """The number inside a scalar of numpy or torch; anything else as it is, text without the spaces around it."""
    if isinstance(value, str):
        return str.__str__(value).strip()
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind(kind.__index__(value)) if kind is not float else float.__float__(value)
    if type(value).__module__ in ("numpy", "torch") and getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return value.item()
    return value


def _decimal(text):
    """A number in ASCII digits, 1_000 and 1e3 among them, as an exact int or Decimal."""
    if len(text) > 400 or not re.fullmatch(_NUMBER, text, re.ASCII):
        if re.fullmatch(r"[+-]?\.?(inf|infinity|nan)", text[:20], re.IGNORECASE | re.ASCII):
            raise ValueError("it must be finite")
        raise ValueError
    if re.fullmatch(r"[+-]?[\d_]+", text, re.ASCII):
        return int(text)
    return Decimal(text)


_DIGITS = r"\d+(?:_\d+)*"
_NUMBER = rf"[+-]?(?:\.{_DIGITS}|{_DIGITS}(?:\.(?:{_DIGITS})?)?)(?:[eE][+-]?\d{{1,6}})?"


def _number(value):
    """A finite float, or an int of 64 bits; ValueError says which it is not."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("it must be finite")
    elif not -(2**63) <= value < 2**63:
        raise ValueError("at most 64 bits")
    return value


def _named(value, many):
    """Text of a field, which names things that are shown and printed: without what moves a terminal's cursor."""
    found = _text(value, many)
    if any(unicodedata.category(c) == "Cc" and not (many and c in "\t\n\r") for c in found):
        raise ValueError("a line break or another control character can be in no name")
    return found


def _text(value, many=False):
    """Text that can be a name: short enough between two slashes or commas, nothing that no file name can hold."""
    value = str.__str__(value)
    if len(value) > LONGEST:
        raise ValueError(f"at most {LONGEST:,} characters")
    if "\0" in value:
        raise ValueError("a zero byte can be in no name")
    try:
        whole = os.fsencode(value)
    except UnicodeEncodeError:
        raise ValueError("half a pair of UTF-16 can be in no name") from None
    for path in whole.split(b",") if many else [whole]:
        if b"://" in path and len(path) < 4000:
            continue
        if len(path) > 4000 or any(len(part) > 255 for part in path.split(b"/")):
            raise ValueError("a file's name has at most 255 bytes, a path 4,000")
    return value


def data_only(name, value, most=yaml_text.MOST, deepest=yaml_text.DEEPEST):
    """A copy of a dict, list or tuple that holds plain data alone, as YAML and JSON do. `Refused` names what is not.

    A path becomes text, a scalar of numpy or torch its number; names are text, numbers finite and of 64 bits at most.
    """
    left = [most]

    def copied(value, where, depth):
        left[0] -= 1
        if left[0] < 0 or depth > deepest:
            much = f"more than {most:,} values" if left[0] < 0 else f"more than {deepest} levels deep"
            raise Refused(f"{name} = {shown(value)} is {much}")
        if isinstance(value, dict):
            for key in dict.keys(value):
                if not isinstance(key, str):
                    raise Refused(f"{where}: {shown(key)} is no name; names are text")
            return {
                _text(key): copied(one, f"{where}: {shown(key)[1:-1]}", depth + 1) for key, one in dict.items(value)
            }
        if isinstance(value, (list, tuple)):
            found = [copied(one, where, depth + 1) for one in value]
            return tuple(found) if isinstance(value, tuple) else found
        if value is None:
            return None
        try:
            value = os.fspath(value) if isinstance(value, os.PathLike) else value
            value = str.__str__(value) if isinstance(value, str) else _scalar(value)
            if isinstance(value, bool):
                return value
            if isinstance(value, str):
                return _text(value)
            if isinstance(value, (int, float)):
                return _number(value)
        except ValueError as error:
            raise Refused(f"{where} = {shown(value)}: {error}") from None
        raise Refused(f"{where} = {shown(value)} is no plain value such as 3, 0.5, true, text or a list of them")

    return copied(value, name, 0)


def within(name, value, low, high, note=""):
    if not low <= value <= high:
        raise Refused(f"{name} = {shown(value)} must lie between {low} and {high}{note}")


SEEDS = 2**32 - 1  # the largest that numpy and scikit-learn take; torch's is 2^64


def check_seed(seed):
    """Refuse a seed that one of the libraries would not take."""
    within("seed", seed, 0, SEEDS)
