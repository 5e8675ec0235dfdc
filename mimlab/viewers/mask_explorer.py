"""The mask explorer: every masking strategy on your image, live.

The browser (mask_explorer.js) cuts, draws and animates by itself what it was given once; the kernel answers what is not
there yet, and what a run fills in. Without a kernel the same module goes on with what was saved. Nothing raises into a
widget: what goes wrong is said in one line.
"""

import base64
import functools

import ipywidgets
import torch

from mimlab import masks, preset
from mimlab.errors import Refused, shown
from mimlab.find import check_options
from mimlab.settings import plain
from mimlab.viewers import embed, pictures, ranks, sets
from mimlab.viewers.choice import Choice
from mimlab.viewers.controls import Controls
from mimlab.viewers.latest import Latest, line
from mimlab.viewers.mask_view import MaskView
from mimlab.viewers.saved import copy

PANELS = 6  # at most


def quiet(method):
    """What goes wrong is said instead of raised, and the controls go back to the state, but for sizes being typed."""

    @functools.wraps(method)
    def watched(self, *event, **what):
        try:
            method(self, *event, **what)
        except Exception as error:
            self._say(line(error))
            self._settle(sizes=False)

    return watched


class MaskExplorer(ipywidgets.VBox):
    """Masking strategies on an image: controls of the kernel's above a `MaskView`, `.view`.

    `images`: None for those of `data`, or your own: an array or tensor (3, H, W), (H, W, 3), (B, 3, H, W) or
    (B, H, W, 3), uint8 or float in [0, 1], a PIL image, a list of these, or `mimlab.data.Images`. `mask`, `mask_ratio`
    (rounded to whole percents), `mask_args`, `seed`: what is shown first. `strategies`: the menu, None or "all" for those
    of mimlab/masks, else names and functions. `run`: a `Run`, its folder, its name in `out`, or "newest"; its image and
    patch size then hold. A seed's mask is `ranks.mask_of`. Refuses settings that cannot work.
    """

    def __init__(
        self,
        images=None,
        *,
        image_size=224,
        patch_size=16,
        mask="random",
        mask_ratio=0.5,
        mask_args=None,
        seed=0,
        run=None,
        strategies=None,
        data=sets.FIRST,
        data_args=None,
        out="runs",
    ):
        self._strategies, self._shown = ranks.named(strategies, mask), False
        self._looks, self._later = Latest(), Latest()  # what a hand waits for, and what is prepared
        known = sets.Sets(images, data, data_args or {})
        self._choice = Choice(known, self._strategies, out, image_size=image_size, patch_size=patch_size, run=run)
        chosen = next(s for s in self._strategies.values() if s.given == mask)
        masks.count(self._scene.n, mask_ratio)
        functions = [chosen.module.rank, *([chosen.module.score] if chosen.looks else [])]
        check_options("mask_args", mask_args or {}, functions, reserved=masks.FILLED)
        panel = self._scene.check({"mask": chosen.name, "args": mask_args or {}, "seed": seed})
        self.view = MaskView(panels=[panel], ratio=self._scene.percent(mask_ratio) / 100)
        self._controls = Controls(self._changed, self._taken)
        super().__init__([self._controls, self.view])
        self._send()
        self._settle()
        self.view.on_msg(self._heard)
        self.view.observe(self._stepped, "run")

    @classmethod
    def read(cls, cfg):
        """From a `mimlab.Explore`."""
        cfg = cfg.resolved()
        return cls(
            image_size=cfg.image_size,
            patch_size=cfg.patch_size,
            mask=cfg.mask,
            mask_ratio=cfg.mask_ratio,
            mask_args=cfg.mask_args,
            seed=cfg.seed,
            run=cfg.run,
            strategies=cfg.strategies,
            data=cfg.data,
            data_args=cfg.data_args,
            out=cfg.out,
        )

    # what is looked at

    @property
    def _scene(self):
        return self._choice.scene

    def _change(self, **changes):
        self._choice.change(**changes)
        self._looks.forget()
        self._later.forget()
        self._send()
        self._settle()
        self._say("", bad=False)

    def _send(self):
        """Tell the browser the whole scene in one message, and what takes longer later."""
        scene, view, size = self._scene, self.view, self._choice.state["image_size"]
        entries, seeds = scene.entries(self.panels, looking=False)
        with view.hold_sync():
            if view.grid != list(scene.grid):
                view.painted = {}
            view.picture = {"src": pictures.uri(scene.image), "width": size, "height": size, "name": scene.name}
            view.grid, view.counts, view.menu = list(scene.grid), scene.counts, scene.menu
            view.ranks, view.seeds = entries, seeds
            view.token = None if scene.weights else scene.token
            view.run = scene.weights and scene.weights.about(scene.step)
            view.source = self._choice.source
        for panel in list(scene.asked.values()):
            self._rank_later(panel)
        if self._shown:
            self._prepare()

    def _prepare(self):
        """What takes longer, beside the kernel's thread: strategies that look at the image, and a run's tokenizer."""
        scene, seeds = self._scene, range(self.view.seeds)
        looking = [{"mask": s.name, "args": {}} for s in self._strategies.values() if s.looks and not s.asks]

        def work():
            wanted = [panel | {"seed": seed} for panel in looking for seed in seeds]
            return {scene.key(panel): scene.entry(panel) for panel in wanted}, scene.token

        def answer(found, said):
            if said:
                self._say(said)
                return
            self.view.send({"type": "ranks", "ranks": found[0]})
            self.view.token = found[1]

        self._later.ask("prepare", work, answer)

    # messages from the browser

    @quiet
    def _heard(self, view, content, buffers):
        answers = {"rank": self._rank, "look": self._look, "upload": self._upload, "preset": self._preset}
        if content.get("type") in answers:
            answers[content["type"]](content)

    def _rank(self, content):
        now = {}
        for panel in map(self._scene.check, content["want"]):
            if self._scene.slow(panel):
                self._rank_later(panel)
            else:
                now[self._scene.key(panel)] = self._scene.entry(panel)
        if now:
            self.view.send({"type": "ranks", "ranks": now})

    def _rank_later(self, panel):
        key, scene = self._scene.key(panel), self._scene

        def answer(found, said):
            self.view.send({"type": "ranks", "ranks": {key: found or {"error": said}}})

        self._later.ask(("rank", key), lambda: scene.entry(panel), answer)

    def _look(self, content):
        where = {"type": "seen", "id": content["id"], "panel": content["panel"]}
        if self._scene.weights is None:
            self.view.send(where | {"refused": "no run is loaded"})
            return
        self._at(content["step"])
        scene = self._scene

        def answer(found, said):
            if found and found.note != self.view.run["note"]:
                self.view.run = scene.weights.about(scene.step)
            self.view.send(where | (found.message() if found else {"refused": said}))

        self._looks.ask(content["panel"], lambda: scene.see(ranks.unpacked(content["bits"], scene.n)), answer)

    @quiet
    def _stepped(self, change):
        if change["new"] and self._scene.weights:
            self._at(change["new"]["step"])

    def _at(self, step):
        """Go to another checkpoint; strategies that ask the run rank anew."""
        if not self._choice.at(step):
            return
        self.view.run = self._scene.weights.about(step)
        for panel in list(self._scene.asked.values()):
            self._rank_later(panel)

    def _upload(self, content):
        self._take(str(content.get("name") or "picture"), pictures.content(content["data"]))

    def _preset(self, content):
        if callable(self._strategies[content["mask"]].given):
            raise Refused(
                f"mask = {shown(content['mask'])} is a function of this notebook; put it into a module of yours first"
            )
        path = preset.save(content["path"], content["mask"], content["mask_ratio"], content["mask_args"])
        self._say(f"saved {path}", bad=False)

    def _say(self, text, bad=True):
        self.view.said = text if bad else ""
        self.view.send({"type": "said", "text": text, "bad": bad})  # a trait that stays the same would not be heard

    # controls

    @quiet
    def _changed(self, **changes):
        self._change(**changes)

    @quiet
    def _taken(self, name, file):
        self._take(name, file)

    def _take(self, name, file):
        """Show an image file, as bytes, among one's own."""
        pictures.read(file, 8, name)  # refuses what is no image before it is kept
        own = self._choice.sets.own
        own.add(name, file)
        self._change(data=sets.OWN, number=len(own) - 1)

    def _settle(self, sizes=True):
        choice = self._choice
        self._controls.settle(choice.state, choice.sets.names(), choice.runs(), choice.images, sizes)

    # from Python

    @property
    def panels(self):
        """What is shown, one to six of {"mask": name, "args": dict, "seed": int}; may be set."""
        return [self._scene.check(panel) for panel in self.view.panels]

    @panels.setter
    def panels(self, panels):
        if not isinstance(panels, (list, tuple)) or not 1 <= len(panels) <= PANELS:
            raise Refused(f"panels = {shown(panels)} is not a list of 1 to {PANELS} dicts with mask, args and seed")
        self.view.panels = [self._scene.check(panel) for panel in panels]

    @property
    def ratio(self):
        """The share hidden in all panels, in whole percents; may be set."""
        return self._scene.percent(self.view.ratio) / 100

    @ratio.setter
    def ratio(self, ratio):
        masks.count(self._scene.n, ratio)
        self.view.ratio = self._scene.percent(ratio) / 100

    @property
    def masks(self):
        """The masks as shown, patches set by hand included: (panels, N) bool, True = hidden."""
        painted = self.view.painted
        return torch.stack(
            [self._scene.mask(p, self.ratio, painted.get(str(k), {})) for k, p in enumerate(self.panels)]
        )

    @property
    def settings(self):
        """What the first panel shows as settings of a run, such as `mimlab.Pretrain(**settings)`."""
        panel = self.panels[0]
        given = self._strategies[panel["mask"]].given
        chosen = {"mask": given if callable(given) else panel["mask"], "mask_ratio": self.ratio}
        known = {name: value for name, value in self.view.source.items() if value is not None}
        return known | chosen | {"mask_args": self._scene.usable(panel)}

    def cell(self):
        """The first panel as lines of a notebook's parameters cell, as "Use in a run" shows them."""
        settings = self.settings | {"mask": self.panels[0]["mask"]}
        return "".join(f"{name} = {plain(value)}\n" for name, value in settings.items())

    def show(self, image, name="your image"):
        """Show another image: an array, tensor or PIL image, as the class takes them."""
        self._take(name, pictures.file_of(image))

    # without a kernel

    def html(self, path=None):
        """The explorer as an HTML page that needs neither kernel nor network: its text, or its path once written."""
        page = embed.page(self._copy(whole=True)["text/html"], "Masks")
        if path is None:
            return page
        return embed.write(path, page)

    def png(self):
        """What is shown as one picture: the bytes of a PNG."""
        return base64.b64decode(self._copy(whole=True)["image/png"])

    def _copy(self, whole):
        return copy(self._scene, self.view, self.panels, self.ratio, whole)

    def _repr_mimebundle_(self, **options):
        if embed.batch():  # a saved widget without its state would show an error
            return self._copy(whole=True)
        still = self._copy(whole=False)
        if not self._shown:
            self._shown = True
            self._prepare()  # only now: the first picture does not wait for it
        return super()._repr_mimebundle_(**options) | still
