"""What an option may be, read from its annotation, and whether a value is that.

    Annotated[int, (1, 64)]                        a whole number: neither True, nor "6", nor 48.0
    Annotated[float, (0.1, 1.0)]                   a number, whole ones too: neither inf nor nan
    Literal["a", "b"], Literal[8, 16], bool        one of these
    Annotated[str, function]                       text; `function(text)` says what is wrong with it, or None
    tuple[X, Y], Annotated[tuple[X, X], "rising"]  a list of as many, in order
    A | B | None                                   either

Bounds may have a step as their third number, for sliders. A value is compared exactly and never converted.
"""

import math
import types
import typing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePath
from typing import Annotated, Literal

MOST_TEXT = 4096  # characters; a path has no more
MOST = 1e300  # of a number that has no bounds of its own

# Of all files; bounds beyond what papers and the largest published models use.
Share = Annotated[float, (0.0, 1.0)]
Area = Annotated[float, (0.001, 1.0)]  # of a crop, as a share of the image
Width = Annotated[int, (1, 8192)]
Depth = Annotated[int, (1, 256)]
Heads = Annotated[int, (1, 256)]
Temperature = Annotated[float, (0.001, 100.0)]
Rate = Annotated[float, (1e-9, 1000.0)]  # of learning, for 256 images a step
Seed = Annotated[int, (0, 2**63 - 1)]
Pixels = Literal["imagenet", "half", "none"]  # keys of `layers.PIXELS`


@dataclass(frozen=True)
class Number:
    """`type` int or float; bounds None where there are none."""

    type: type
    low: float | None = None
    high: float | None = None
    step: float | None = None

    @property
    def checked(self):
        return self.low is not None and self.high is not None and math.isfinite(self.low) and math.isfinite(self.high)

    def fits(self, value):
        if isinstance(value, bool) or not isinstance(value, int if self.type is int else (int, float)):
            return False
        low, high = (-MOST if self.low is None else self.low), (MOST if self.high is None else self.high)
        return bool(low <= value <= high)  # not where it is nan

    def said(self):
        what = "a whole number" if self.type is int else "a number"
        return f"{what} from {self.low} to {self.high}" if self.checked else f"{what} that is finite"


@dataclass(frozen=True)
class Choice:
    """One of `values`, compared with its type: 1 is not True, but 8.0 is 8."""

    values: tuple
    checked = True

    def fits(self, value):
        return any(_class(value) is _class(one) and bool(value == one) for one in self.values)

    def said(self):
        return ", ".join(repr(one) for one in self.values)


@dataclass(frozen=True)
class Switch:
    checked = True

    def fits(self, value):
        return isinstance(value, bool)

    def said(self):
        return "true or false"


@dataclass(frozen=True)
class Text:
    """Text that can be printed; `wrong(text)` says what is wrong with it, or None."""

    wrong: object = None
    checked = True

    def fits(self, value):
        if not isinstance(value, (str, PurePath)):
            return False
        text = str(value)
        plain = len(text) <= MOST_TEXT and "\0" not in text
        return plain and (self.wrong is None or not self.wrong(text))

    def said(self):
        return "text" if self.wrong is None else f"text that its {self.wrong.__name__} takes"


@dataclass(frozen=True)
class Row:
    """A list or tuple with one value for each of `items`; `rising`: none below the one before."""

    items: tuple
    rising: bool = False

    @property
    def checked(self):
        return all(kinds and all(kind.checked for kind in kinds) for kinds, _ in self.items)

    def fits(self, value):
        if not isinstance(value, (list, tuple)) or len(value) != len(self.items):
            return False
        each = zip(value, self.items, strict=True)
        if not all(fits(one, *item) for one, item in each):
            return False
        return not self.rising or all(one <= other for one, other in pairwise(value))

    def said(self):
        parts = [said(*item) for item in self.items]
        how = f"a list of {len(parts)}{', rising' if self.rising else ''}: "
        return how + (f"each {parts[0]}" if len(set(parts)) == 1 else ", ".join(parts))


def read(hint, default=None):
    """(kinds, None allowed) of an annotation; without one, of the default. No kinds: nothing tells."""
    kinds, none = _read(hint, ())
    if not kinds and isinstance(default, (bool, int, float, str)):
        kinds = _read(float if type(default) is int else type(default), ())[0]  # of a default of 1 no one knows
    return kinds, none or default is None


def fits(value, kinds, none=False):
    """Whether a value is one of `kinds`; anything is where there are none."""
    return (value is None and none) or not kinds or any(kind.fits(value) for kind in kinds)


def said(kinds, none=False):
    """What would fit, in words."""
    return " or ".join([kind.said() for kind in kinds] + ["None"] * none)


def _read(hint, notes):
    origin = typing.get_origin(hint)
    if origin is Annotated:
        hint, *more = typing.get_args(hint)
        return _read(hint, (*notes, *more))
    if origin is typing.Union or isinstance(hint, types.UnionType):
        found, none = [], False
        for part in typing.get_args(hint):
            some, empty = _read(part, notes)
            if some:
                notes = ()  # bounds around a union are those of its first kind
            found += some
            none = none or empty
        return tuple(found), none
    if hint is types.NoneType:
        return (), True
    bounds = next((note for note in notes if isinstance(note, tuple)), ())
    if hint is bool:
        return (Switch(),), False
    if hint in (int, float):
        return (Number(hint, *bounds),), False
    if hint is str:
        return (Text(next((note for note in notes if callable(note)), None)),), False
    if origin is Literal:
        return (Choice(typing.get_args(hint)),), False
    if origin in (tuple, list) and (parts := typing.get_args(hint)) and Ellipsis not in parts:
        return (Row(tuple(_read(part, ()) for part in parts), "rising" in notes),), False
    return (), False


def _class(value):
    if isinstance(value, bool):
        return bool
    return "number" if isinstance(value, (int, float)) else type(value)
