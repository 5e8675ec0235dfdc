"""What an explorer looks at: an image of a set at a size, and the run that fills it in."""

import functools

import torch

from mimlab.errors import Refused, shown
from mimlab.run import Run
from mimlab.settings import place, within
from mimlab.viewers import sets
from mimlab.viewers.scene import Scene
from mimlab.viewers.seen import Weights


class Choice:
    """The chosen image, sizes, run and checkpoint, `.state`, and what they make, `.scene`. Refuses what cannot be.

    `state`: {"data": name of a set, "number": of the image, "image_size", "patch_size", "weights": `Weights` or None, "step"}.
    """

    def __init__(self, images, strategies, out, *, image_size, patch_size, run=None):
        """`images`: a `sets.Sets`. `strategies`: as `Scene` has them. `out`: where runs are looked for."""
        self.sets, self.out = images, out
        self._strategies, self._runs = strategies, {}
        start = {"data": images.start, "number": 0, "image_size": image_size, "patch_size": patch_size}
        self.scene, self.state = None, start | self._loaded(run)
        self.scene, self.state = self._made(self.state)

    def change(self, **changes):
        """Choose anew: values of `state`, or "run", which brings its sizes. What is refused changes nothing."""
        if "run" in changes:
            changes |= self._loaded(changes.pop("run"))
        if changes.get("data", self.state["data"]) != self.state["data"]:
            changes = {"number": 0} | changes
        self.scene, self.state = self._made(self.state | changes)

    def at(self, step):
        """Go to another checkpoint of the run; whether it is another."""
        weights = self.state["weights"]
        if step == self.state["step"]:
            return False
        if step not in weights.steps:
            raise Refused(f"step = {shown(step)} is no checkpoint of {weights.name}; there are: {weights.steps}")
        self.change(step=step)
        return True

    def runs(self):
        """Names of the runs to choose from, newest first: those with an encoder, and what was loaded."""
        files = sorted(place(self.out).glob("*/encoder.safetensors"), key=lambda p: p.stat().st_mtime, reverse=True)
        weights = self.state["weights"]
        own = {weights.name: weights.run.path} if weights else {}
        self._runs = {path.parent.name: path.parent for path in files} | self._runs | own
        return [*self._runs]

    @property
    def images(self):
        """How many images the set has."""
        return len(self.sets.open(self.state["data"], self.state["image_size"]))

    @property
    def source(self):
        """The settings that open the same in a run: "data" and "data_args" (None where none do), and the sizes."""
        return self.sets.source(self.state["data"]) | {name: self.state[name] for name in ("image_size", "patch_size")}

    def _loaded(self, run):
        if run is None:
            return {"weights": None, "step": None}
        weights = Weights(run if isinstance(run, Run) else Run.find(str(self._runs.get(run, run)), self.out))
        sizes = {name: getattr(weights.run.settings, name) for name in ("image_size", "patch_size")}
        return sizes | {"weights": weights, "step": weights.steps[-1]}

    def _made(self, state):
        """The scene of a state, and the state with its image's number in range.

        What an old scene of the same grid or image is known by goes on into the new one.
        """
        size, patch = state["image_size"], state["patch_size"]
        for name, value, low, high in (("image_size", size, 2, 4096), ("patch_size", patch, 1, size)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise Refused(f"{name} = {shown(value)} is not a whole number of pixels")
            within(name, value, low, high)
        if size % patch:
            good = ", ".join(str(p) for p in range(2, size) if size % p == 0)
            raise Refused(f"patch_size = {patch} does not divide image_size = {size}; try one of: {good}")
        images, old = self.sets.open(state["data"], size), self.scene
        number = state["number"] % len(images)
        scene = Scene(
            images.get(number, size),
            images.name(number),
            patch,
            self._strategies,
            weights=state["weights"],
            step=state["step"],
            others=functools.partial(sets.some, images, size),
            drawn=old.drawn if old and old.grid == (size // patch,) * 2 else None,
        )
        if old and scene.weights and torch.equal(scene.image, old.image):
            scene.asked |= old.asked  # the browser holds these until it gets others
        return scene, state | {"number": number}
