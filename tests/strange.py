"""Strange values that a setting or an option may be given, each made anew: name -> maker, the same in every run."""

import datetime
import decimal
import fractions
import math
import pathlib
import random
import types

import numpy as np
import torch


class Hostile:
    """Every method that a check might call raises."""

    def _raise(self, *_, **__):
        raise RuntimeError("no")

    __repr__ = __str__ = __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __float__ = __int__ = __index__ = __len__ = (
        __iter__
    ) = _raise
    __hash__ = object.__hash__

    def __bool__(self):
        raise RuntimeError("no")


class Text(str):
    def __eq__(self, other):
        raise RuntimeError("no")

    __hash__ = str.__hash__

    def __str__(self):
        raise RuntimeError("no")


class Number(int):
    def __index__(self):
        raise RuntimeError("no")

    __int__ = __float__ = __repr__ = __str__ = __index__


class Names(dict):
    def items(self):
        raise RuntimeError("no")

    keys = __iter__ = __len__ = __repr__ = items


def _deep(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


def _loop():
    value = {}
    value["a"] = value
    return value


def _callable_that_hides():
    class Hidden:
        def __getattr__(self, name):
            raise RuntimeError(name)

        def __call__(self, *_, **__):
            raise RuntimeError("called")

    return Hidden()


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
TEXTS = [
    "", " ", "none", "None", "null", "nan", "inf", "-inf", "1e400", "1e-3", "1e3", "-1", "0", "1", "2", "7", "0.5", "²", "१", "½", "1_000", "0x10", "1,5", "1 2", "--", "-dash",
    "true", "no", "auto", "all", "newest", "paper", "small", "../photos", "./mymask.py", ".", "..", "os.path", "os", "mimlab.masks", "no.such", "a..b", "a.b.", "/",
    "/dev/null", "/etc/passwd", "a/b", "a\0b", "a\nb", "\x1b[31mred", "\u202e", "\ud800", "caf\udce9", "é" * 300, "x" * 100_000, "a/" * 3000, "{", "{a: 1", "{a: 1}", "{1: 2}", "[1]",
    "2024-01-01", "9" * 400, "{a: " * 10_000, "[" * 100_000, BOMB, "&a {a: *a}", "%s%d{x}", "' or 1", "memory://none", "cls", "7,7", "1,2,3", "nosuchscheme://a", "*", "[a]", "a,b,,c",
]  # fmt: skip
OBJECTS = {
    "None": lambda: None, "True": lambda: True, "False": lambda: False, "zero": lambda: 0, "one": lambda: 1, "minus": lambda: -1, "two": lambda: 2, "seven": lambda: 7,
    "1000": lambda: 1000, "10**6": lambda: 10**6, "10**9": lambda: 10**9, "2**63": lambda: 2**63, "10**17+1": lambda: 10**17 + 1, "10**400": lambda: 10**400,
    "10**6000": lambda: 10**6000, "-10**20": lambda: -(10**20), "half": lambda: 0.5, "1.0": lambda: 1.0, "1.5": lambda: 1.5, "nan": lambda: math.nan, "inf": lambda: math.inf,
    "-inf": lambda: -math.inf, "1e308": lambda: 1e308, "5e-324": lambda: 5e-324, "-0.0": lambda: -0.0, "complex": lambda: 1 + 2j, "bytes": lambda: b"3", "bytearray": lambda: bytearray(b"x"),
    "list": lambda: [], "list of 1": lambda: [1], "tuple": lambda: (1, 2), "set": lambda: {1, 2}, "frozenset": lambda: frozenset(), "dict": lambda: {}, "dict of 1": lambda: {1: 2},
    "dict of a": lambda: {"a": 1}, "dict of nan": lambda: {"a": math.nan}, "dict of set": lambda: {"a": {1}}, "dict of None": lambda: {None: None}, "deep": lambda: _deep(5000),
    "dict of deep": lambda: {"a": _deep(5000)}, "loop": _loop, "dict of many": lambda: {str(k): k for k in range(100_000)}, "range": lambda: range(10**9), "generator": lambda: iter([1]),
    "object": object, "hostile": Hostile, "hostile text": lambda: Text("mae"), "hostile number": lambda: Number(3), "hostile dict": lambda: Names(a=1), "dict of hostile": lambda: {"a": Hostile()},
    "list of hostile": lambda: [Hostile()], "class": lambda: Hostile, "int": lambda: int, "print": lambda: print, "lambda": lambda: lambda *a, **k: None, "raising": lambda: _callable_that_hides(),
    "len": lambda: len, "module": lambda: math, "namespace": lambda: types.SimpleNamespace(a=1), "path": lambda: pathlib.Path("a/b"), "date": lambda: datetime.date(2024, 1, 1),
    "datetime": lambda: datetime.datetime(2024, 1, 1), "timedelta": lambda: datetime.timedelta(1), "decimal": lambda: decimal.Decimal("1e9999999"), "decimal 3": lambda: decimal.Decimal(3),
    "fraction": lambda: fractions.Fraction(1, 3), "np.int64": lambda: np.int64(3), "np.float32": lambda: np.float32(0.5), "np.nan": lambda: np.float64("nan"), "np.bool": lambda: np.bool_(True),
    "np.str": lambda: np.str_("mae"), "array 0": lambda: np.array(3), "array": lambda: np.arange(3), "big array": lambda: np.zeros((1000, 1000)), "object array": lambda: np.array([None, {}], dtype=object),
    "np.datetime": lambda: np.datetime64("2024-01-01"), "np.void": lambda: np.void(b"ab"), "tensor 0": lambda: torch.tensor(3), "tensor": lambda: torch.arange(3), "meta": lambda: torch.empty(3, device="meta"),
    "meta 0": lambda: torch.empty((), device="meta"), "dtype": lambda: torch.float32, "Ellipsis": lambda: ..., "NotImplemented": lambda: NotImplemented, "slice": lambda: slice(1),
    "type": lambda: type, "error": lambda: ValueError("x"), "memoryview": lambda: memoryview(b"1"), "file": lambda: pathlib.Path,
}  # fmt: skip


def values():
    """Name -> a function that makes the value."""
    return {**{f"text {text[:20]!r}": (lambda text=text: text) for text in TEXTS}, **OBJECTS}


def sample(cases, count, seed=0):
    """Some of the cases, the same for a seed."""
    return random.Random(seed).sample(cases, min(count, len(cases)))
