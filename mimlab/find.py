"""The name is the file: `find("masks", "blockwise")` is `mimlab/masks/blockwise.py`."""

import difflib
import importlib
import inspect
import pkgutil
from types import ModuleType, SimpleNamespace

from mimlab.errors import Refused


def names(kind):
    """Names of all files in the folder `mimlab/<kind>`, sorted."""
    package = importlib.import_module(f"mimlab.{kind}")
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def closest(name, choices):
    """' (did you mean x?)' for the nearest of `choices`, or nothing where none is near."""
    near = difflib.get_close_matches(str(name), [str(c) for c in choices], n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def find(kind, name):
    """The module `mimlab/<kind>/<name>.py`; a dotted name imports the user's own module.

    A module passes through as it is. A function passed in a notebook becomes a module-like
    object with that function under the name that files of this kind define (masks: `rank`).
    Raises `Refused` with all names and the nearest one.
    """
    if isinstance(name, (ModuleType, SimpleNamespace)):
        return name
    if callable(name) and kind == "masks":
        return SimpleNamespace(rank=name, __name__=name.__name__)
    if not isinstance(name, str) or not name:
        raise Refused(f"{kind}: {name!r} is not a name; there are: {', '.join(names(kind))}")
    if "." in name:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise Refused(f"{kind}: no module called {name!r} can be imported ({error})") from None
    if name not in names(kind):
        raise Refused(f"no {kind} called {name!r}{closest(name, names(kind))}; there are: {', '.join(names(kind))}")
    return importlib.import_module(f"mimlab.{kind}.{name}")


def options(function):
    """Keyword-only parameters of a function or class, name -> default."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def check_options(field, given, function, reserved=()):
    """Refuse names in the dict `given` that are no keyword-only parameter of `function`.

    `reserved` are keyword-only parameters that the library itself fills in.
    """
    if not isinstance(given, dict):
        raise Refused(f"{field} = {given!r} is not a dict of options, such as {{}}")
    known = [name for name in options(function) if name not in reserved]
    for name in given:
        if name not in known:
            raise Refused(f"{field}: no option {name!r}{closest(name, known)}; there are: {', '.join(known) or 'none'}")
