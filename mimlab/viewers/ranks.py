"""What the browser gets to know about masks: for each strategy, options and seed the place at which a patch is hidden.

`mask_of` is the one definition of the mask that an explorer shows. An entry holds it for every whole percent:
{"order": places} where the masks of all ratios lie inside each other, {"bits": masks} where they do not, {"error": line}
where the strategy cannot be drawn. Masks are bool (N,), True = hidden. Letters: N patches, G different counts.
"""

import base64
import inspect
import re
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import torch

from mimlab import find, masks, strict
from mimlab.distributed import generator_for
from mimlab.errors import Refused, shown
from mimlab.viewers.latest import line

PERCENTS = range(101)  # the positions of a ratio slider


def mask_of(strategy, seed, grid, ratio, args=None, scores=None):
    """The mask that an explorer shows for a seed: bool (N,), True = hidden.

    `masks.sample` for a batch of one with `generator_for(seed, 0, "mask")`. In a larger batch the same seed gives other
    masks. `scores` (1, N) for a strategy that looks at the image.
    """
    return masks.sample(strategy, 1, grid, ratio, generator_for(seed, 0, "mask"), scores=scores, **(args or {}))[0]


def counts(n):
    """How many of `n` patches each whole percent hides, 101 values; None where `masks.count` refuses."""
    found = []
    for percent in PERCENTS:
        try:
            found.append(masks.count(n, percent / 100))
        except Refused:
            found.append(None)
    return found


class Strategy(NamedTuple):
    """A strategy of a menu, looked up once: `given` is what `masks.sample` takes, `module` where its functions are.

    `options`: name -> `find.Option`; `defaults`: name -> `text`; `looks` and `asks` as in `masks`; `told`: the options
    that its scores depend on.
    """

    name: str
    given: object
    module: object
    options: dict
    defaults: dict
    looks: bool
    asks: bool
    told: tuple


def named(strategies, chosen):
    """The strategies of a menu, name -> `Strategy`: all, or those given, and always the `chosen` one.

    `strategies`: None or "all", names separated by commas, or a list of names and functions; a function goes by its
    `__name__`. Refuses unknown ones, and two of one name.
    """
    if strategies is None or strategies == "all":
        strategies = find.names("masks")
    elif isinstance(strategies, str):
        strategies = [name.strip() for name in strategies.split(",") if name.strip()]
    elif callable(strategies) or not hasattr(strategies, "__iter__"):
        strategies = [strategies]
    found = {}
    for given in [*strategies, chosen]:
        if callable(given) and not hasattr(given, "__name__"):
            raise Refused(f"strategies: {shown(given)} has no __name__ to go by; use a function")
        strategy = _strategy(given)
        if found.setdefault(strategy.name, strategy).given != given:
            raise Refused(f"strategies: two are called {shown(strategy.name)}; give one of them another name")
    return found


def _strategy(given):
    module = find.find("masks", given)
    options = masks.arguments(module)
    return Strategy(
        name=given if isinstance(given, str) else given.__name__,
        given=given,
        module=module,
        options=options,
        defaults={name: text(plain(option.default)) for name, option in options.items()},
        looks=masks.looks(module),
        asks=masks.asks(module),
        told=tuple(find.options(module.score)) if masks.looks(module) else (),
    )


def menu(strategies, method=False):
    """What the browser shows of each of the `named` strategies: name, about, options, blocked, looks, function.

    Options come from the annotations of the strategy's keyword-only parameters; one whose type nothing tells has no
    control. `method`: whether there is a model to ask; without, a strategy that asks is `blocked`, with a line why.
    """
    return [
        {
            "name": strategy.name,
            "about": _about(strategy),
            "options": [_option(name, option) for name, option in strategy.options.items() if option.kind],
            "blocked": "asks a model: choose a run first" if strategy.asks and not method else None,
            "looks": strategy.looks,
            "function": callable(strategy.given),
        }
        for strategy in strategies.values()
    ]


def _about(strategy):
    """The first sentence of the docstring of a strategy's module or function."""
    told = inspect.getdoc(strategy.given if callable(strategy.given) else strategy.module) or ""
    return re.split(r"(?<=[.!?])\s", " ".join(told.split("\n\n")[0].split()))[0]


def _option(name, option):
    kind = "choice" if option.choices else {str: "text"}.get(option.kind, option.kind.__name__)
    return {
        "name": name,
        "kind": kind,
        "low": option.low,
        "high": option.high,
        "step": option.step,
        "choices": list(option.choices),
        "default": plain(option.default),
        "none": option.none,
    }


def plain(value):
    """A value as it comes back from a browser: tuples are lists, and 1.0 is 1, as JavaScript has one kind of number."""
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def text(value):
    """JSON as JavaScript's JSON.stringify writes it, with sorted names; `value` must be `plain`."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{text(name)}:{text(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(text, value)) + "]"
    if isinstance(value, float) and 1e-6 <= abs(value) < 1e21:
        return format(Decimal(repr(value)), "f")  # Python goes over to 1e-05 earlier
    if isinstance(value, float):
        return re.sub(r"e([+-])0*", r"e\1", repr(value))  # 1e-07 there is 1e-7
    return strict.dumps(value, ensure_ascii=False)


def key(strategy, seed, args):
    """Under which name an entry of a `Strategy` is kept: name|seed|options that are not the default, as `text`."""
    told = {name: value for name, value in plain(args).items() if text(value) != strategy.defaults.get(name)}
    return f"{strategy.name}|{seed}|{text(told)}"


def entry(strategy, seed, grid, args=None, scores=None):
    """A strategy's masks at every whole percent, as the browser reads them; never raises. `strategy` as in `masks`.

    {"order": base64 of uint16 (N,), little-endian: a patch is hidden at count c where its place is below c};
    {"bits": base64 of uint8 (101, ceil(N / 8)): patch p is bit p % 8 of byte p // 8}; or {"error": one line}.
    """
    try:
        wanted = counts(grid[0] * grid[1])
        table = _table(strategy, seed, grid, sorted({c for c in wanted if c}), args or {}, scores)  # (G, N)
    except Exception as error:  # a user's own function may raise anything
        return {"error": line(error)}
    if (table[1:] >= table[:-1]).all():
        late = (~table).sum(0)  # (N,): how many of the counts leave a patch visible
        return {"order": _base64(late.argsort(kind="stable").argsort(kind="stable").astype("<u2"))}
    rows = iter(table)
    last, same = None, np.zeros(table.shape[1], bool)
    bits = np.zeros((len(wanted), table.shape[1]), bool)
    for row, hidden in zip(bits, wanted):
        if hidden != last:
            last, same = hidden, next(rows) if hidden else np.zeros_like(same)
        row[:] = same
    return {"bits": _base64(np.packbits(bits, axis=1, bitorder="little"))}


def _table(strategy, seed, grid, wanted, args, scores):
    """`mask_of` at each of the rising counts `wanted`, computed together: bool (G, N)."""
    module, generator = find.find("masks", strategy), generator_for(seed, 0, "mask")
    if "goal" not in find.options(module.rank):  # one ranking for all counts
        return masks.every(strategy, grid, generator, scores, at=wanted, **args).numpy()
    if hasattr(module, "goals"):  # one draw for all counts; half of them are no whole percent
        masks.check(strategy, grid, wanted[-1] / (grid[0] * grid[1]), args)
        return module.goals(grid, generator, torch.tensor(wanted), **args).numpy()
    return np.stack([mask_of(strategy, seed, grid, c / (grid[0] * grid[1]), args, scores).numpy() for c in wanted])


def _base64(array):
    return base64.b64encode(array.tobytes()).decode()


def mask_in(found, percent, n):
    """The mask that an entry holds at a whole percent: bool (N,); refuses an entry with an error."""
    if "error" in found:
        raise Refused(found["error"])
    hidden = counts(n)[percent]
    if "order" in found:
        return torch.from_numpy(np.frombuffer(base64.b64decode(found["order"]), "<u2").astype(np.int64) < (hidden or 0))
    return unpacked(found["bits"], n, percent)


def unpacked(data, n, row=0):
    """A mask from base64 of rows of ceil(n / 8) bytes: bool (N,)."""
    raw = np.frombuffer(base64.b64decode(data), np.uint8).reshape(-1, -(-n // 8))[row]
    return torch.from_numpy(np.unpackbits(raw, count=n, bitorder="little").astype(bool))


def packed(mask):
    """The inverse of `unpacked` for one mask (N,)."""
    return _base64(np.packbits(mask.numpy(), bitorder="little"))
