"""The name is the file: `find("masks", "blockwise")` is `mimlab/masks/blockwise.py`."""

import difflib
import functools
import hashlib
import importlib
import inspect
import pkgutil
import sys
import typing
from types import CellType, CodeType, ModuleType, SimpleNamespace

from mimlab import kinds, trusted
from mimlab.errors import Refused, shown


def names(kind):
    """Names of all files in the folder `mimlab/<kind>`, sorted."""
    package = importlib.import_module(f"mimlab.{kind}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def closest(name, choices):
    """' (did you mean x?)' for the nearest of `choices`, or nothing where none is near."""
    name = name[:200] if isinstance(name, str) else shown(name)
    near = difflib.get_close_matches(name, [str(c) for c in choices], n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def find(kind, name):
    """The module `mimlab/<kind>/<name>.py`; a dotted name imports the user's own module.

    A module passes through as it is. A function passed in a notebook becomes a module-like
    object with that function under the name that files of this kind define (masks: `rank`, and
    its attribute `score` if it has one). Raises `Refused` with all names and the nearest one.
    """
    if isinstance(name, (ModuleType, SimpleNamespace)):
        return name
    if callable(name) and kind == "masks":
        return SimpleNamespace(
            rank=name, score=getattr(name, "score", None), __name__=getattr(name, "__name__", type(name).__name__)
        )
    if isinstance(name, str) and " (function " in name:
        raise Refused(
            f"{kind}: {shown(name)} was a function of a notebook cell, which a run cannot keep; pass the function again, "
            "or put it into a module of yours and give its dotted name"
        )
    if not isinstance(name, str) or not name:
        raise Refused(f"{kind}: {shown(name)} is not a name; there are: {', '.join(names(kind))}")
    if "." in name:
        return _own(kind, name)
    full = f"mimlab.{kind}.{name}"
    known = full in sys.modules and not name.startswith("_")  # masks ask at every step; the folder need not be read
    if not known and name not in names(kind):
        raise Refused(
            f"no {kind} called {shown(name)}{closest(name, names(kind))}; there are: {', '.join(names(kind))}"
        )
    return importlib.import_module(full)  # not sys.modules[full], which another thread may have half done


# what a file of each kind must define, of ours and of others
DEFINES = {
    "masks": "rank", "data": "load", "methods": "RECIPE", "tokenizers": "Tokenizer", "encoders": "create", "evals": "evaluate", "detection.data": "open",
}  # fmt: skip


def _own(kind, name):
    """A module by its dotted name, imported, with what its kind defines. `Refused` for whatever goes wrong."""
    if not all(part.isidentifier() for part in name.split(".")):
        folder = f'; for a folder of images use data = folder with data_args = {{"path": {shown(name)}}}' * (
            kind == "data"
        )
        raise Refused(
            f"{kind}: {shown(name)} is no dotted name such as package.module, and no path is taken here{folder}; "
            f"there are: {', '.join(names(kind))}"
        )
    trusted.importable(name)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise Refused(f"{kind}: no module called {shown(name)} can be imported ({error})") from None
    except (Exception, SystemExit) as error:  # whatever stands in it
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        said = (error.msg if isinstance(error, SyntaxError) else str(error)) or "no word why"
        raise Refused(f"{kind}: importing {shown(name)} raised {type(error).__name__}: {said}{where}") from None
    defined = DEFINES.get(kind)
    if defined and not hasattr(module, defined):
        raise Refused(
            f"{kind}: the module {shown(name)} defines no {defined}, as files of mimlab/{kind.replace('.', '/')} do"
        )
    return module


def label(function):
    """A function of a notebook as text: its name, and a hash that changes with its code, defaults and closure."""
    code = getattr(function, "__code__", None)
    parts = [type(function).__name__]
    if code is not None:
        cells = [cell.cell_contents for cell in function.__closure__ or () if cell != CellType()]  # empty: not yet made
        values = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).items(), *cells]
        plain = [v for v in values if isinstance(v, (str, int, float, bool, tuple, type(None)))]
        parts = [code.co_code.hex(), code.co_names, _constants(code), plain]
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=3).hexdigest()
    return f"{getattr(function, '__name__', type(function).__name__)} (function {digest})"


def _constants(code):
    """The constants of compiled code, without the addresses of what is nested in it."""
    return [(c.co_code.hex(), _constants(c)) if isinstance(c, CodeType) else c for c in code.co_consts]


def options(function):
    """Keyword-only parameters of a function or class, name -> default."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (ValueError, TypeError):  # of C code, nothing tells
        return {}
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


class Option(typing.NamedTuple):
    """One keyword-only parameter. `kind`: bool, int, float, str, or None where nothing tells.

    `low`, `high`, `step` bound a number, `choices` are the texts that there are; `none`: None is allowed. Of several
    kinds (`mixed`) all this is the first one's. From the annotation, as `mimlab.kinds` reads it, or else the default.
    """

    default: object
    kind: type | None = None
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple = ()
    none: bool = False
    mixed: bool = False


def ranges(function):
    """Keyword-only parameters as name -> `Option`, from their annotations or else their defaults."""
    defaults = options(function)
    return {name: _option(defaults[name], *told) for name, told in kinds_of(function).items()}


def kinds_of(function):
    """Keyword-only parameters as name -> (kinds, None allowed), see `mimlab.kinds`; of a partial, those not yet filled."""
    filled = function.keywords if isinstance(function, functools.partial) else {}
    whole = inspect.unwrap(function.func if filled else function)
    try:
        hints = typing.get_type_hints(whole.__init__ if inspect.isclass(whole) else whole, include_extras=True)
    except Exception:  # a user's annotation that is no type: the default tells
        hints = {}
    return {
        name: kinds.read(hints.get(name), default) for name, default in options(whole).items() if name not in filled
    }


def _option(default, found, none):
    first = found[0] if found else None
    if isinstance(first, kinds.Choice):
        return Option(default, type(first.values[0]), choices=first.values, none=none, mixed=len(found) > 1)
    if isinstance(first, kinds.Number):
        whole = isinstance(default, int) and not isinstance(default, bool) and not first.checked
        kind = int if whole else first.type
        step = (1 if kind is int else 0.01) if first.step is None else first.step
        return Option(default, kind, first.low, first.high, step, none=none, mixed=len(found) > 1)
    kind = {kinds.Switch: bool, kinds.Text: str}.get(type(first))
    return Option(default, kind, none=none, mixed=len(found) > 1)


def check_options(field, given, function, reserved=()):
    """Refuse names in the dict `given` that are no keyword-only parameter of `function`.

    `reserved` are keyword-only parameters that the library itself fills in. Several functions may be given
    as a list. A value that its annotation does not allow is refused too, with what would work.
    """
    if not isinstance(given, dict):
        raise Refused(f"{field} = {shown(given)} is not a dict of options, such as {{}}")
    functions = function if isinstance(function, (list, tuple)) else [function]
    known = {name: told for f in functions for name, told in kinds_of(f).items() if name not in reserved}
    for name, value in given.items():
        if not isinstance(name, str) or name not in known:
            there = ", ".join(known) or "none"
            raise Refused(f"{field}: no option {shown(name)}{closest(name, known)}; there are: {there}")
        _check_value(field, name, value, *known[name])


def checks(field, reserved=()):
    """A decorator: keyword options of each call are checked as `check_options` does it, whoever calls."""

    def of(function):
        @functools.wraps(function)
        def called(*args, **given):
            known = kinds_of(function)
            own = {name: value for name, value in given.items() if name in known and name not in reserved}
            check_options(field, own, function)
            return function(*args, **given)

        return called

    return of


def _check_value(field, name, value, allowed, none):
    if kinds.fits(value, allowed, none):
        return
    only = allowed[0] if len(allowed) == 1 else None
    if isinstance(only, kinds.Choice) and isinstance(value, str):
        there = ", ".join(str(choice) for choice in only.values)
        raise Refused(f"{field}: {name} = {shown(value)} is unknown{closest(value, only.values)}; there are: {there}")
    if isinstance(only, kinds.Switch):
        raise Refused(f"{field}: {name} = {shown(value)} should be true or false")
    hint = ""
    if isinstance(only, kinds.Text) and isinstance(value, str) and only.wrong and (why := only.wrong(value)):
        hint = f": {why}"
    elif isinstance(value, float) and value.is_integer() and kinds.fits(int(value), allowed):
        hint = f"; write {int(value)}"
    raise Refused(f"{field}: {name} = {shown(value)} is not {kinds.said(allowed, none)}{hint}")
