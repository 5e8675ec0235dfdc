"""The name is the file: `find("masks", "blockwise")` is `mimlab/masks/blockwise.py`."""

import difflib
import hashlib
import importlib
import inspect
import pkgutil
import sys
import typing
from types import CellType, CodeType, ModuleType, NoneType, SimpleNamespace

from mimlab import trusted
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

    `low`, `high`, `step` bound a number, `choices` a text; `none`: None is allowed. From an annotation:
    `Annotated[int, (1, 8)]`, `Annotated[float, (0.1, 1.0, 0.1)]`, `Literal["a", "b"]`, `bool`, each also with
    `| None`. Of several kinds (`mixed`), such as `float | int`, the bounds are the first one's; other values are the
    function's own business.
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
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except Exception:  # a user's annotation that is no type: the default tells
        hints = {}
    return {name: _option(default, hints.get(name)) for name, default in options(function).items()}


def _option(default, hint):
    bounds = ()
    if typing.get_origin(hint) is typing.Annotated:
        hint, *notes = typing.get_args(hint)
        bounds = next((note for note in notes if isinstance(note, tuple)), ())
    kinds = [k for k in (typing.get_args(hint) if _is_union(hint) else (hint,)) if k is not None]
    none = NoneType in kinds or default is None
    kinds = [k for k in kinds if k is not NoneType]
    literal = next((k for k in kinds if typing.get_origin(k) is typing.Literal), None)
    if literal:
        return Option(default, str, choices=typing.get_args(literal), none=none)
    kind = next((k for k in kinds if k in (bool, int, float, str)), None)
    if kind is None and isinstance(default, (bool, int, float, str)):
        kind = type(default)
    low, high, step = (*bounds, None, None, None)[:3]
    if kind in (int, float) and step is None:
        step = 1 if kind is int else 0.01
    mixed = len(kinds) > 1
    return Option(default, kind, low, high, step, none=none, mixed=mixed)


def _is_union(hint):
    import types

    return isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union


def check_options(field, given, function, reserved=()):
    """Refuse names in the dict `given` that are no keyword-only parameter of `function`.

    `reserved` are keyword-only parameters that the library itself fills in. Several functions may be given
    as a list. A value outside the annotated range or choices is refused too, with what would work.
    """
    if not isinstance(given, dict):
        raise Refused(f"{field} = {shown(given)} is not a dict of options, such as {{}}")
    functions = function if isinstance(function, (list, tuple)) else [function]
    known = {name: option for f in functions for name, option in ranges(f).items() if name not in reserved}
    for name, value in given.items():
        if name not in known:
            raise Refused(
                f"{field}: no option {shown(name)}{closest(name, known)}; there are: {', '.join(known) or 'none'}"
            )
        _check_value(field, name, value, known[name])


def _check_value(field, name, value, option):
    if value is None and option.none:
        return
    if option.choices and value not in option.choices:
        there = ", ".join(str(choice) for choice in option.choices)
        raise Refused(
            f"{field}: {name} = {shown(value)} is unknown{closest(value, option.choices)}; there are: {there}"
        )
    if option.kind is bool and not option.mixed and not isinstance(value, bool):
        raise Refused(f"{field}: {name} = {shown(value)} should be true or false")
    if option.low is None or (option.mixed and not isinstance(value, option.kind)):
        return  # what is left is the function's own business
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or (option.kind is int and value != int(value)) or not option.low <= value <= option.high:
        what = "a whole number" if option.kind is int else "a number"
        raise Refused(f"{field}: {name} = {shown(value)} is not {what} from {option.low} to {option.high}")
