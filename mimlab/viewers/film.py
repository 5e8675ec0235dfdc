"""The training film to play: a slider over the steps, and an animation, with or without a kernel."""

import base64
from pathlib import Path

import anywidget
import numpy as np
import traitlets
from PIL import Image

from mimlab import strict
from mimlab.errors import Refused
from mimlab.figures import film as drawn
from mimlab.viewers import embed
from mimlab.viewers.pictures import data_uri, png

MOST = 60  # frames; of a longer film these, evenly
BUDGET = 600_000  # characters of all pictures: a saved page stays below 1 MB
# tried in turn until they fit: (longest side in px or None, PNG or JPEG, frames)
STEPS = [
    (None, "PNG", MOST),
    (224, "JPEG", MOST),
    (160, "JPEG", MOST),
    (112, "JPEG", 40),
    (96, "JPEG", 24),
    (64, "JPEG", 16),
]
ABOUT = {
    "image": "The image, of the test split.",
    "visible": "What the method sees of it: the same mask at every step.",
    drawn.FILLED: "Hidden patches as the method fills them in; the visible ones are the image's.",
    drawn.ATTENTION: "Where the last layer looks: from CLS, or from all patches where there is none, mean of the heads; one "
    "scale for all steps of an image, so that bright means much attention at any step.",
    drawn.FEATURES: "Patch features as colours: the first three principal components of the last step, for all steps.",
}


def state(film):
    """What the module shows of a `mimlab.looking.film.Film`, as JSON can carry it.

    steps [F]; columns [{name, about, moves}]; pictures: name -> [B] data URIs, or for columns that move [F][B];
    note: how to read them, or why there are none.
    """
    if not film.steps:
        return {"steps": [], "columns": [], "pictures": {}, "note": film.note}
    fixed, shown = drawn.stills(film), drawn.layers(film)
    for side, kind, most in STEPS:
        places = drawn.evenly(len(film.steps), most)
        pictures = {name: [_uri(one, side, kind) for one in some] for name, some in fixed.items()}
        pictures |= {
            name: [[_uri(one, side, kind) for one in some[at]] for at in places] for name, some in shown.items()
        }
        if len(strict.dumps(pictures)) <= BUDGET:
            break
    columns = [{"name": name, "about": ABOUT[name], "moves": name in shown} for name in pictures]
    left_out = len(film.steps) - len(places)
    note = film.note + (f"; {left_out} of {len(film.steps)} frames are left out here" if left_out else "")
    return {"steps": [film.steps[at] for at in places], "columns": columns, "pictures": pictures, "note": note}


def _uri(pixels, side, kind):
    """A picture (h, w, 3) as a data URI; maps of cells stay PNG, exact and tiny."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if side and max(picture.size) > side:
        share = side / max(picture.size)
        picture = picture.resize([max(1, round(edge * share)) for edge in picture.size], Image.Resampling.BOX)
    return data_uri(picture, "PNG" if max(picture.size) <= 32 else kind)


class FilmView(anywidget.AnyWidget):
    """`FilmView(mimlab.looking.film.of(run))`: a widget that plays a training film; all of it lives in the browser.

    `at` is the frame that it starts at, and follows the slider. In batch execution it is HTML that works without a
    kernel; `save(path)` writes the same as one page for any browser.
    """

    _esm = traitlets.Unicode().tag(sync=True)
    steps = traitlets.List().tag(sync=True)
    columns = traitlets.List().tag(sync=True)
    pictures = traitlets.Dict().tag(sync=True)
    note = traitlets.Unicode("").tag(sync=True)
    at = traitlets.Int(0).tag(sync=True)

    def __init__(self, film):
        self._film = film
        found = state(film)
        source = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
        super().__init__(_esm=source, at=max(len(found["steps"]) - 1, 0), **found)

    def _copy(self):
        """A mime bundle of the viewer without its kernel."""
        words = describe(self._film)
        if not self.steps:
            return {"text/plain": words}
        still = base64.b64encode(png(Image.fromarray(drawn.frames(_last(self._film))[0]))).decode()
        kept = {name: getattr(self, name) for name in ("steps", "columns", "pictures", "note", "at")}
        html = embed.html(self._esm, kept, f"data:image/png;base64,{still}", words)
        return {"text/plain": words, "text/html": html, "image/png": still}

    def _repr_mimebundle_(self, **options):
        if embed.batch():  # a saved widget without its state would show an error
            return self._copy()
        bundle, about = super()._repr_mimebundle_(**options)
        return bundle | self._copy(), about

    def save(self, path):
        """Write the film as one HTML page that needs neither kernel nor network; returns its path."""
        if not self.steps:
            raise Refused(f"film: {self.note}")
        return embed.write(path, embed.page(self._copy()["text/html"], "Training film"))


def describe(film):
    """What is shown, in one line."""
    if not film.steps:
        return f"training film: {film.note}"
    names = ", ".join(drawn.layers(_last(film)))
    return f"training film: {len(film.images)} images at {len(film.steps)} steps up to {film.steps[-1]:,}: {names}"


def _last(film):
    """The film of its last frame alone."""
    kept = {
        name: None if getattr(film, name) is None else getattr(film, name)[-1:]
        for name in ("filled", "attention", "features")
    }
    return film._replace(steps=film.steps[-1:], **kept)
