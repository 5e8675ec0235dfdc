"""Every field of every settings class with every strange value: a `Refused` that names field and value, or accepted; never anything else."""

import contextlib
import dataclasses
import json
import os
import signal
from pathlib import Path

import pytest

from mimlab import config, settings, yaml_text
from mimlab.errors import Refused, shown
from mimlab.settings import place
from tests import strange

CLASSES = {name: getattr(config, name) for name in config.__all__}
CASES = [
    (cls, field.name, value)
    for cls in CLASSES
    for field in dataclasses.fields(CLASSES[cls])
    for value in strange.values()
]
MOST = 10.0  # processor seconds of one case: a limit against hanging, not a measure
EACH = {"Scale": 4, "Pretrain": 40, "Detect": 40}  # cases of a class in the default suite; of the others 20


class Hung(BaseException):
    pass


def unnamed(said, field, value):
    """What a message lacks: the field (a list may be named by its kind), the value, or that it is one short line; or None."""
    if "\n" in said or len(said) > 2500 or not said.isprintable():
        return f"not one short line: {said[:300]}"
    if field == "out" and " in " in said:  # where something was looked for
        field = " in "
    if field not in said and field.removesuffix("s") not in said:
        return f"does not name the field: {said[:300]}"
    if not any(text and text in said for text in written(value)):
        return f"does not name the value: {said[:300]}"
    return None


def written(value):
    """How a message may write a value: as `shown`, without its quotes, as the number that it is, or one name of a list or dict."""
    found = [value]
    for read in (settings.whole, settings.number, str.__str__, os.fspath, lambda text: yaml_text.load(text, "x")):
        with contextlib.suppress(Exception):  # a hostile one, or none of these
            found.append(read(value))
    with contextlib.suppress(Exception):  # a scalar of numpy
        found.append(value.item())
    if isinstance(value, (list, tuple)):  # what in it is wrong
        found += value[:4]
    with contextlib.suppress(Exception):  # a function, and a file that was made a full path
        found.append(value.__name__)
    with contextlib.suppress(Exception):
        found += [str(place(value)), str(Path(value))]
    for one in found[1:]:
        with contextlib.suppress(Exception):
            found += [part for name in one[:1000].split(",") for part in (name, name.strip())]
    texts = {shown(one) for one in found} | {f"{one:,}" for one in found if type(one) is int and abs(one) < 2**63}
    for one in found:
        if isinstance(one, dict):  # the option in it, or that it is too large
            texts |= {"more than", *(shown(key) for key in list(dict.keys(one))[:4])}
    return {form for text in texts for form in (text, text.strip("'\""))}


def plainly(cls):
    """What the class's own defaults are refused with, such as that there is no run yet; or None."""
    try:
        CLASSES[cls]().resolved()
    except Refused as error:
        return str(error)


def ask(cls, field, value):
    """None where it is as it should be, else what came. The settings are read and resolved in a bounded time."""

    def hung(*_):
        raise Hung

    signal.signal(signal.SIGPROF, hung)
    signal.setitimer(signal.ITIMER_PROF, MOST)
    made = strange.values()[value]()
    try:
        cfg = CLASSES[cls].read({field: made})
        if field in ("nodes", "processes"):  # nothing is started
            cfg.dict()
        try:
            json.dumps(cfg.dict(), allow_nan=False)
        except ValueError as error:
            return f"accepted, but no JSON: {error}"
        cfg.resolved()
    except Refused as error:
        said = str(error)
        return None if said == plainly(cls) else unnamed(said, field, made)
    except Hung:
        return "hangs"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return None


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.setenv("MIMLAB_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGPROF)
    yield tmp_path
    signal.signal(signal.SIGPROF, before)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_sample_of_strange_values(cls, here):
    chosen = strange.sample([case for case in CASES if case[0] == cls], EACH.get(cls, 20))
    assert not {case: said for case in chosen if (said := ask(*case))}


@pytest.mark.slow
@pytest.mark.parametrize("cls", CLASSES)
def test_all_strange_values(cls, here):
    bad = {case: said for case in CASES if case[0] == cls and (said := ask(*case))}
    assert not bad
