import base64
import io
import json

import numpy as np
import pytest
from figures.test_film import EMPTY, film
from PIL import Image

from mimlab.errors import Refused
from mimlab.figures.film import ATTENTION, FILLED
from mimlab.viewers.film import BUDGET, FilmView, state


def opened(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"))


def test_state_holds_every_frame_exactly_where_that_is_light():
    found = state(film())
    assert found["steps"] == [0, 10, 20] and found["note"] == "filled in: predicted pixels"
    assert [(c["name"], c["moves"]) for c in found["columns"]] == [
        ("image", False), ("visible", False), (FILLED, True), (ATTENTION, True), ("features", True)
    ]  # fmt: skip
    assert len(found["pictures"]["image"]) == 2 and len(found["pictures"][FILLED]) == 3
    pasted = opened(found["pictures"][FILLED][1][0])
    assert pasted.shape == (8, 8, 3) and (pasted[:, :4] == 50).all() and (pasted[:, 4:] == 200).all()
    assert opened(found["pictures"][ATTENTION][0][1]).shape == (2, 2, 3)
    json.dumps(found, allow_nan=False)


def test_a_long_film_of_large_images_fits_a_saved_page():
    noise = np.random.default_rng(0)
    images = noise.integers(0, 256, (2, 3, 160, 160), np.uint8)
    filled = noise.integers(0, 256, (70, 2, 3, 160, 160), np.uint8)
    shown = film(70, 2, images=images, filled=filled)
    found = state(shown)
    assert len(json.dumps(found)) < BUDGET * 1.2 and found["steps"][0] == 0 and found["steps"][-1] == 690
    left = 70 - len(found["steps"])
    assert left > 0 and f"{left} of 70 frames are left out here" in found["note"]
    assert opened(found["pictures"][FILLED][0][0]).shape[0] >= 64


def test_without_a_kernel_it_is_html_with_a_picture(monkeypatch, tmp_path):
    monkeypatch.setenv("MIMLAB_BATCH", "1")
    view = FilmView(film())
    assert view.at == 2
    bundle = view._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", "image/png"} and "http" not in bundle["text/html"]
    assert (
        "mimlab-film" in bundle["text/html"]
        and 'alt="training film: 2 images at 3 steps up to 20' in bundle["text/html"]
    )
    assert opened("," + bundle["image/png"]).shape[2] == 3
    page = view.save(tmp_path / "film.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and bundle["text/html"] in page
    with pytest.raises(Refused, match="cannot write"):
        view.save(tmp_path / "nowhere" / "film.html")
    monkeypatch.delenv("MIMLAB_BATCH")
    assert "application/vnd.jupyter.widget-view+json" in FilmView(film())._repr_mimebundle_()[0]


def test_a_film_without_frames_says_why(monkeypatch):
    monkeypatch.setenv("MIMLAB_BATCH", "1")
    view = FilmView(EMPTY)
    assert (
        view._repr_mimebundle_() == {"text/plain": "training film: no film was kept"}
        and view.note == "no film was kept"
    )
    with pytest.raises(Refused, match="no film was kept"):
        view.save("film.html")
