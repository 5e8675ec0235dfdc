"""Every option of every file says what it may be, and nothing else is taken."""

import inspect
import math

import pytest

from mimlab import find, kinds, masks
from mimlab.checkpoints.file import File
from mimlab.config import Detect, Pretrain, Tokens
from mimlab.config.evaluate import FILLED
from mimlab.data.augment import Augment
from mimlab.data.multicrop import MultiCrop
from mimlab.detection.model import mask_rcnn
from mimlab.errors import Refused
from mimlab.find import check_options, kinds_of, names
from mimlab.methods import Method

RESERVED = {"masks": masks.FILLED, "evals": FILLED, "methods": ("classes",)}


def functions():
    """(what it is called, function, options that mimlab fills in) of all that has options."""
    for folder, attributes in (
        ("encoders", ("create",)), ("tokenizers", ("Tokenizer",)), ("masks", ("rank", "score")), ("evals", ("evaluate",)),
        ("detection.data", ("open",)),
    ):  # fmt: skip
        for name in names(folder):
            module = (
                find.find(folder, name) if "." not in folder else __import__(f"mimlab.{folder}.{name}", fromlist=["*"])
            )
            for attribute in attributes:
                if hasattr(module, attribute):
                    yield f"{folder}/{name}.{attribute}", getattr(module, attribute), RESERVED.get(folder, ())
    for name in names("methods"):
        for value in vars(find.find("methods", name)).values():
            if inspect.isclass(value) and issubclass(value, Method) and value.__module__ == f"mimlab.methods.{name}":
                yield f"methods/{name}", value.__init__, ("classes",)
    yield "augment", Augment, ()
    yield "multicrop", MultiCrop, ("patch",)
    yield "mask_schedule", masks.ratio, ()
    yield "mask_rcnn", mask_rcnn, ("sides", "long_side")
    yield "weights", File.encoder, ()


ALL = {name: (function, reserved) for name, function, reserved in functions()}
OPTIONS = [
    (name, option)
    for name, (function, reserved) in ALL.items()
    for option in kinds_of(function)
    if option not in reserved
]
each_option = pytest.mark.parametrize(("name", "option"), OPTIONS, ids="-".join)


class Hostile:
    """Says nothing, equals nothing, and has no number."""

    def __repr__(self):
        raise RuntimeError("no")

    def __eq__(self, other):
        raise RuntimeError("no")

    __hash__ = None


STRANGE = [
    True, False, None, 0, 1, -1, 1.5, 48.0, -1e-9, 5e-324, 1e9, 10**8, 10**400, math.inf, -math.inf, math.nan, "", "6", "x", "nan", "\0",
    "\x1b[2J" + "long " * 100_000, b"6", [], [1], [0.2, 1.0], [1.0, 0.2], [math.nan, 1], [True, True], (0.5,) * 3, [[1], [2]], {}, {"a": 1},
    1j, object(), Hostile(), int, print, range(3), {1, 2},
]  # fmt: skip


@each_option
def test_every_option_says_what_it_may_be(name, option):
    found, _ = kinds_of(ALL[name][0])[option]
    assert found, "no annotation that mimlab.kinds reads"
    assert all(kind.checked for kind in found), "a number without bounds"
    for kind in found:
        if isinstance(kind, kinds.Number):
            assert -1000 <= kind.low <= kind.high <= 2**63


@each_option
def test_every_default_is_allowed(name, option):
    function = ALL[name][0]
    default = find.options(function)[option]
    if default is not inspect.Parameter.empty:
        check_options("args", {option: default}, function)


@each_option
def test_strange_values_are_refused_in_one_line_or_are_what_the_option_is(name, option):
    function = ALL[name][0]
    found, none = kinds_of(function)[option]
    for value in STRANGE:
        try:
            check_options("args", {option: value}, function)
        except Refused as error:
            said = str(error)
            assert (
                said.startswith(f"args: {option} = ") and "\n" not in said and len(said) < 1000 and said.isprintable()
            )
        else:
            assert kinds.fits(value, found, none)
            assert not (isinstance(value, float) and not math.isfinite(value))
            numbers = [kind for kind in found if isinstance(kind, kinds.Number)]
            if isinstance(value, float) and all(kind.type is int for kind in numbers):
                assert any(isinstance(kind, kinds.Choice) for kind in found)  # no whole number is written with a point
            if isinstance(value, bool):
                assert any(isinstance(kind, (kinds.Switch, kinds.Choice)) for kind in found)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lr": 1e-9, "min_lr": 100.0}, "min_lr = 100.0 is above lr = 1e-09"),
        ({"lr": 0.0}, "lr = 0.0 is below the least one, min_lr"),
        ({"clip": 5e-324}, "clip = 5e-324 leaves nothing"),
        ({"no_decay": "zzz"}, "no_decay = 'zzz' is the name of no parameter"),
        ({"no_decay": "cls_token,zzz"}, "no_decay = 'zzz' is the name of no parameter"),
        ({"method": "supervised", "mask_args": {"unit": 2}}, "mask_args = {'unit': 2}: supervised hides nothing"),
        ({"method": "supervised", "mask_ratio": 0.5}, "mask_ratio = 0.5: supervised hides nothing"),
        ({"method": "dino", "mask_schedule": {"end": 0.5}}, "mask_schedule = {'end': 0.5}: dino hides nothing"),
        ({"image_size": 2048, "patch_size": 4}, "makes 512 x 512 = 262,144 patches"),
        ({"image_size": 4096, "patch_size": 4}, "makes 1024 x 1024 = 1,048,576 patches"),
    ],
)
def test_what_cannot_be_meant_is_refused(given, said):
    with pytest.raises(Refused, match=said):
        Pretrain.read(given).resolved()


@pytest.mark.parametrize("vocab", [1, 10**9, 10**17 + 1, True, 2.0, "16"])
def test_a_tokenizer_s_own_vocabulary_is_bounded_before_it_is_made(vocab):
    with pytest.raises(Refused, match="vocab = .* is not an integer from 2 to 1,000,000"):
        Tokens(tokenizers="kmeans", tokenizer_args={"kmeans": {"vocab": vocab}}).made("kmeans")


def test_what_papers_and_studies_use_is_allowed():
    for name in names("methods"):
        function, reserved = ALL[f"methods/{name}"]
        for recipe in find.find("methods", name).RECIPE.values():
            check_options("method_args", recipe["method_args"], function, reserved)
            check_options("augment", recipe["augment"], MultiCrop if name == "dino" else Augment)
            if recipe["mask"] != "none":
                check_options("mask_args", recipe["mask_args"], ALL[f"masks/{recipe['mask']}.rank"][0], masks.FILLED)
    from mimlab.evals._recipes import RECIPES

    for recipe in RECIPES.values():
        check_options("evaluation_args", recipe, ALL["evals/finetune.evaluate"][0], FILLED)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"encoder_args": {"dim": 48.0}}, "encoder_args: dim = 48.0"),
        ({"encoder_args": {"dimm": 48}}, "encoder_args: no option 'dimm'"),
        ({"encoder": "nosuch"}, "encoder = 'nosuch'"),
    ],
)
def test_an_encoder_to_detect_with_is_checked_before_images_are_opened(given, said):
    with pytest.raises(Refused, match=said):
        Detect.read(given).resolved()
