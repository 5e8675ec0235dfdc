"""Every option of every part with strange values, as a user gives them: a `Refused` that names field and option, or accepted."""

import signal

import pytest

from mimlab import config, masks
from mimlab.config.evaluate import FILLED
from mimlab.data.augment import Augment
from mimlab.data.multicrop import MultiCrop
from mimlab.errors import Refused
from mimlab.find import find, kinds_of, names
from mimlab.methods import Method
from tests import strange
from tests.test_settings_fuzz import MOST, Hung, here, unnamed  # noqa: F401

VIT = {"dim": 24, "depth": 1, "heads": 2}
BASE = {"encoder_args": VIT, "image_size": 32, "patch_size": 8, "vocab": 16, "batch_size": 8, "device": "cpu"}
ENCODERS = {"vit": VIT, "beit": VIT, "xcit": VIT, "resnet": {}}


def method_class(name):
    found = vars(find("methods", name)).values()
    return next(v for v in found if isinstance(v, type) and issubclass(v, Method) and v.__module__.endswith(f".{name}"))


def parts():
    """What is fuzzed: name -> (settings class, field, what else is given, options there are)."""
    for name in names("methods"):
        known = set(kinds_of(method_class(name).__init__)) - {"classes"}
        yield f"methods/{name}", "Pretrain", "method_args", dict(BASE, method=name), known
    for name in ENCODERS:
        given = {"method": "supervised", "encoder": "resnet50" if name == "resnet" else name}
        known = set(kinds_of(find("encoders", name).create)) - {"drop_path"}
        yield f"encoders/{name}", "Pretrain", "encoder_args", BASE | given | {"encoder_args": ENCODERS[name]}, known
        yield f"encoders/{name} detecting", "Detect", "encoder_args", {"encoder": given["encoder"]}, known
    for name in names("tokenizers"):
        known = set(kinds_of(find("tokenizers", name).Tokenizer))
        yield f"tokenizers/{name}", "Pretrain", "tokenizer_args", dict(BASE, method="beit", tokenizer=name), known
        given = {"tokenizers": name, "vocab": 16}
        yield f"tokenizers/{name} compared", "Tokens", "tokenizer_args", given, known | {"vocab"}
    for name in names("masks"):
        module = find("masks", name)
        known = {option for f in masks._functions(module) for option in kinds_of(f)} - set(masks.FILLED)
        yield f"masks/{name}", "Pretrain", "mask_args", dict(BASE, method="simmim", mask=name), known
    yield "mask_schedule", "Pretrain", "mask_schedule", dict(BASE, method="simmim"), set(kinds_of(masks.ratio))
    yield "augment", "Pretrain", "augment", dict(BASE, method="simmim"), set(kinds_of(Augment))
    yield "multicrop", "Pretrain", "augment", dict(BASE, method="dino"), set(kinds_of(MultiCrop)) - {"patch"}
    for name in names("evals"):
        known = set(kinds_of(find("evals", name).evaluate)) - set(FILLED)
        yield f"evals/{name}", "Evaluate", "evaluation_args", {"evaluation": name}, known
    for name in names("detection.data"):
        known = set(kinds_of(__import__(f"mimlab.detection.data.{name}", fromlist=["*"]).open))
        yield f"detection.data/{name}", "Detect", "data_args", {"data": name, "data_args": {}}, known


PARTS = {name: told for name, *told in parts()}
CASES = [(part, option, value) for part in PARTS for option in sorted(PARTS[part][3]) for value in strange.values()]


def ask(part, option, value):
    """None where it is as it should be, else what came."""
    cls, field, given, _ = PARTS[part]

    def hung(*_):
        raise Hung

    signal.signal(signal.SIGPROF, hung)
    signal.setitimer(signal.ITIMER_PROF, MOST)
    made = strange.values()[value]()
    try:
        options = given.get(field, {}) | {option: made}
        if cls == "Tokens":
            options = {given["tokenizers"]: options}
        settings = getattr(config, cls).read(given | {field: options})
        if cls == "Evaluate":
            settings.plain_name()
            settings.check_args()
        elif cls == "Tokens":
            settings.made(given["tokenizers"])
        else:
            settings.resolved()
    except Refused as error:
        return unnamed(str(error), option if option in str(error) else field, made)
    except Hung:
        return "hangs"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


@pytest.mark.usefixtures("here")
def test_a_sample_of_options_with_strange_values():
    bad = {case: said for case in strange.sample(CASES, 120) if (said := ask(*case))}
    assert not bad


@pytest.mark.slow
@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("part", PARTS)
def test_all_options_with_strange_values(part):
    bad = {case: said for case in CASES if case[0] == part and (said := ask(*case))}
    assert not bad
