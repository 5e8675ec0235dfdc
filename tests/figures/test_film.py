import numpy as np
import pytest
from PIL import Image

from mimlab.errors import Refused
from mimlab.figures import film as films
from mimlab.figures.film import evenly, frames, gif, layers, stills, strip
from mimlab.looking.film import Film


def film(steps=3, count=2, **changes):
    """Grey images whose hidden left half gets brighter from step to step, attention that moves, features that grow."""
    mask = np.tile([True, False], (count, 2))  # a grid of 2 x 2: the left column is hidden
    filled = np.stack([np.full((count, 3, 8, 8), 50 * k % 256, np.uint8) for k in range(steps)])
    attention = np.zeros((steps, count, 4), np.float16)
    attention[np.arange(steps), :, np.arange(steps) % 4] = 0.8
    features = np.random.default_rng(0).normal(size=(steps, count, 4, 6)).astype(np.float16)
    given = {
        "steps": [10 * k for k in range(steps)], "images": np.full((count, 3, 8, 8), 200, np.uint8), "mask": mask, "grid": (2, 2),
        "filled": filled, "attention": attention, "features": features, "note": "filled in: predicted pixels",
    }  # fmt: skip
    return Film(**given | changes)


EMPTY = Film([], None, None, (0, 0), None, None, None, "no film was kept")


def test_evenly_has_both_ends():
    assert evenly(5, 8) == [0, 1, 2, 3, 4] and evenly(101, 5) == [0, 25, 50, 75, 100] and evenly(1, 8) == [0]


def test_layers_paste_what_is_filled_in_under_the_visible_patches():
    found = layers(film())
    assert list(found) == [films.FILLED, films.ATTENTION, films.FEATURES]
    pasted = found[films.FILLED]
    assert pasted.shape == (3, 2, 8, 8, 3) and (pasted[1, :, :, :4] == 50).all() and (pasted[1, :, :, 4:] == 200).all()
    assert found[films.ATTENTION].shape == found[films.FEATURES].shape == (3, 2, 2, 2, 3)
    assert list(stills(film())) == ["image", "visible"] and (stills(film())["visible"][:, :, :4] == 128).all()


def test_attention_has_one_scale_for_all_steps_of_an_image():
    values = np.array([[[0.25] * 4], [[0.5, 0.25, 0.25, 0.0]]], np.float16)
    maps = layers(film(2, 1, attention=values))[films.ATTENTION].reshape(2, 4, 3)
    assert (maps[0] == maps[1, 1]).all()  # the same value has the same colour at both steps
    from mimlab.figures.pictures import painted

    assert (
        maps[0, 0] == painted(np.full((1, 1, 1), 0.25 / 0.75), 1)[0, 0, 0]
    ).all()  # even attention is a third of the scale


def test_strip_has_a_column_a_step_and_a_row_a_quantity(decode):
    figure = strip(film(steps=20), images=1, most=4)
    titles = [a.text for a in figure.layout.annotations]
    assert titles[:5] == ["image", "step 0", "step 60", "step 130", "step 190"]
    assert titles[5:] == ["filled in", "attention", "features"]
    assert len(figure.layout.images) == 5 * 3 and "predicted pixels" in figure.layout.title.subtitle.text
    found = {picture.name: decode(picture.source) for picture in figure.layout.images[:5]}  # the first row
    assert found["step 60"][0, 0, 0] == 300 % 256 and found["step 60"][0, -1, 0] == 200
    assert found["image"][0, 0, 0] == 128  # what was visible


def test_what_there_is_not_leaves_its_row_out():
    figure = strip(film(filled=None, mask=None, note="this run predicts no picture"))
    titles = [a.text for a in figure.layout.annotations]
    assert titles[4:] == ["attention", "features"] * 2 and "predicts no picture" in figure.layout.title.subtitle.text
    assert list(stills(film(filled=None, mask=None))) == ["image"]
    figure = strip(film(attention=None, features=None))
    assert [a.text for a in figure.layout.annotations][4:] == ["filled in"] * 2
    assert strip(EMPTY).layout.annotations[0].text == "no film was kept"


def test_a_run_that_diverged_is_dark_and_no_error():
    broken = film(attention=np.full((3, 2, 4), np.nan, np.float16), features=np.full((3, 2, 4, 6), np.inf, np.float16))
    found = layers(broken)
    assert (found[films.ATTENTION] == found[films.ATTENTION][0, 0, 0, 0]).all()
    assert found[films.FEATURES].shape == (3, 2, 2, 2, 3)


def test_gif_is_animated_loops_and_lasts_longest_at_the_end(tmp_path):
    shown = film(steps=4)
    path = gif(shown, tmp_path / "film.gif")
    assert path == tmp_path / "film.gif" and [p.name for p in tmp_path.iterdir()] == ["film.gif"]
    with Image.open(path) as found:
        assert found.n_frames == 4 and found.info["loop"] == 0
        durations, tones = [], []
        for k in range(4):
            found.seek(k)
            durations.append(found.info["duration"])
            page = np.asarray(found.convert("RGB")).astype(int)
            assert page.shape == frames(shown)[k].shape
            assert np.abs(page - frames(shown)[k]).mean() < 6  # one palette of 256 for all
            x = films.GAP + 2 * (films.SIDE + films.GAP) + 20  # the hidden half of "visible + filled in"
            tones.append(page[2 * films.LINE + films.GAP + 20, x, 0])
    assert durations == [films.PACE] * 3 + [films.HELD]
    assert np.abs(np.array(tones) - [0, 50, 100, 150]).max() <= 10
    with pytest.raises(Refused, match="film: no film was kept"):
        gif(EMPTY, tmp_path / "none.gif")
    with pytest.raises(Refused, match="cannot write"):
        gif(shown, tmp_path / "nowhere" / "film.gif")
