"""What an explorer looks at: images, sizes, runs and checkpoints, and what a refusal leaves as it was."""

import pytest
import torch

from mimlab import data
from mimlab.errors import Refused
from mimlab.viewers import ranks, sets
from mimlab.viewers.choice import Choice

IMAGES = torch.randint(256, (3, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SIZES = {"image_size": 28, "patch_size": 7}


def choice(out=".", images=IMAGES, strategies=None, **given):
    known = sets.Sets(images, "emoji", {})
    return Choice(known, ranks.named(strategies, "random"), str(out), **(SIZES | given))


def test_it_starts_at_the_first_image_without_a_run():
    made = choice()
    assert made.state == {"data": sets.OWN, "number": 0, "weights": None, "step": None} | SIZES
    assert torch.equal(made.scene.image, IMAGES[0]) and made.scene.grid == (4, 4) and made.images == 3
    assert made.source == {"data": None, "data_args": None} | SIZES and made.runs() == []


def test_numbers_go_round_and_another_set_begins_at_its_first_image():
    made = choice()
    made.change(number=-1)
    assert made.state["number"] == 2 and torch.equal(made.scene.image, IMAGES[2])
    made.change(number=4)
    assert made.state["number"] == 1
    made.change(data="emoji")
    assert (
        made.state["number"] == 0 and made.source["data"] == "emoji" and made.images == len(data.open("emoji", size=28))
    )
    made.change(number=5, data="emoji")
    made.change(image_size=56)
    assert made.state["number"] == 5 and made.scene.grid == (8, 8)


def test_a_refusal_changes_nothing():
    made = choice()
    scene, state = made.scene, dict(made.state)
    for wrong, says in (
        ({"patch_size": 5}, "patch_size = 5 does not divide image_size = 28; try one of: 2, 4, 7, 14"),
        ({"image_size": 1}, "image_size = 1"), ({"image_size": 28.0}, "image_size = 28.0 is not a whole number"),
        ({"patch_size": True}, "patch_size = True"), ({"patch_size": 29}, "patch_size = 29"), ({"run": "none such"}, "none such"),
        ({"data": "none such"}, "none such"),
    ):  # fmt: skip
        with pytest.raises(Refused, match=says):
            made.change(**wrong)
    assert made.scene is scene and made.state == state


def test_a_run_brings_its_sizes_and_checkpoints(out, splitmask, no_picture):
    made = choice(out, image_size=32, patch_size=4, run="splitmask")
    weights = made.state["weights"]
    assert made.scene.grid == (4, 4) and made.state["step"] == "final" and weights.name == "splitmask"
    assert {"splitmask", "no_picture"} <= set(made.runs())
    first = weights.steps[0]
    assert made.at(first) and made.scene.step == first == made.state["step"] and not made.at(first)
    with pytest.raises(Refused, match="step = 12345 is no checkpoint of splitmask"):
        made.at(12345)
    made.change(run="no_picture")
    assert made.state["weights"].name == "no_picture" and made.state["step"] == "final"
    made.change(run=None)
    assert made.state["weights"] is None and made.scene.grid == (4, 4)


def test_a_loaded_run_stays_on_the_list_wherever_it_lies(tmp_path, splitmask):
    made = choice(tmp_path, run=splitmask)
    assert made.runs() == ["splitmask"]
    made.change(run=None)
    assert made.runs() == ["splitmask"]
    made.change(run="splitmask")
    assert made.state["weights"].run.path == splitmask.path


def test_what_is_known_of_a_grid_or_an_image_goes_on(out, splitmask):
    made = choice(out, run="splitmask")
    before = made.scene
    made.change(number=1)
    assert made.scene.drawn is before.drawn
    made.change(patch_size=14)
    assert made.scene.drawn is not before.drawn
    asked = choice(out, run="splitmask", strategies=["attention"])
    panel = asked.scene.check({"mask": "attention", "args": {}, "seed": 0})
    asked.scene.asked[asked.scene.key(panel)] = panel
    asked.at(asked.state["weights"].steps[0])
    assert asked.scene.asked  # the same image at another checkpoint
    asked.change(number=1)
    assert not asked.scene.asked
