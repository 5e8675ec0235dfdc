"""Every field of every settings class with every strange value: a `Refused` that names the field, or accepted; never anything else."""

import dataclasses
import json
import signal
import time

import pytest

from mimlab import config
from mimlab.errors import Refused
from tests import strange

CLASSES = {name: getattr(config, name) for name in config.__all__}
CASES = [
    (cls, field.name, value)
    for cls in CLASSES
    for field in dataclasses.fields(CLASSES[cls])
    for value in strange.values()
]
MOST = 10.0  # processor seconds of one case: a limit against hanging, not a measure


class Hung(BaseException):
    pass


def ask(cls, field, value):
    """None where it is as it should be, else what came. The settings are read and resolved in a bounded time."""

    def hung(*_):
        raise Hung

    signal.signal(signal.SIGPROF, hung)
    signal.setitimer(signal.ITIMER_PROF, MOST)
    try:
        made = strange.values()[value]()
        cfg = CLASSES[cls].read({field: made})
        if field in ("nodes", "processes"):  # nothing is started
            cfg.dict()
        try:
            json.dumps(cfg.dict(), allow_nan=False)
        except ValueError as error:
            return f"accepted, but no JSON: {error}"
        cfg.resolved()
    except Refused as error:
        if "\n" in str(error) or len(str(error)) > 2500:
            return f"a long message: {str(error)[:300]}"
        return None
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


def test_a_sample_of_strange_values(here):
    """Those cases that stop at a field's type; the rest goes through whole models and is slow."""
    began, bad = time.process_time(), {}
    for case in strange.sample(CASES, 400):
        said = ask(*case)
        if said:
            bad[case] = said
        if time.process_time() - began > 12:
            break
    assert not bad


@pytest.mark.slow
@pytest.mark.parametrize("cls", CLASSES)
def test_all_strange_values(cls, here):
    bad = {case: said for case in CASES if case[0] == cls and (said := ask(*case))}
    assert not bad
