"""What the mask explorer looks at: one image on one grid, the strategies of its menu, and perhaps a run.

A scene never changes, it only remembers what it has computed; another image, grid or checkpoint is another scene.
Letters: N patches, S pixels of a side.
"""

from functools import cached_property

from mimlab import find, masks
from mimlab.errors import Refused, shown
from mimlab.viewers import pictures, ranks, seen
from mimlab.viewers.latest import line

MOST = 16_384  # patches: what a browser draws while a slider moves, and a table of all counts holds
ROOM = 200_000  # characters of entries in a saved state
SEEDS = 8  # seeds that are there from the start, as far as they fit


class Scene:
    """`image` uint8 (3, S, S) and its `name`; `patch` pixels; `strategies` as from `ranks.named`.

    `weights`: a `seen.Weights` or None, asked at checkpoint `step`; `others`: called for the images that a vocabulary
    is made of; `drawn`: entries of strategies that do not look, from a scene with the same grid and strategies. `asked`:
    key -> checked panel, those that the run was asked for.
    """

    def __init__(self, image, name, patch, strategies, *, weights=None, step=None, others=list, drawn=None):
        side = image.shape[1] // patch
        self.image, self.name, self.grid, self.n = image, name, (side, side), side * side
        self.strategies, self.weights, self.step = strategies, weights, step
        if not 1 < self.n <= MOST:
            raise Refused(f"patch_size = {patch} makes {self.n} patches; an explorer shows from 2 to {MOST}")
        self.counts = ranks.counts(self.n)
        self.drawn = {} if drawn is None else drawn
        self._others, self._looked, self._scores, self.asked = others, {}, {}, {}

    @property
    def method(self):
        return None if self.weights is None else self.weights.method(self.step)

    @cached_property
    def menu(self):
        return ranks.menu(self.strategies, self.weights is not None)

    # masks

    def check(self, panel):
        """A panel from anywhere as {"mask": name, "args": dict, "seed": int}; refuses what is none."""
        try:
            name, args, seed = panel["mask"], panel.get("args") or {}, panel.get("seed", 0)
        except (TypeError, KeyError, AttributeError):
            raise Refused(f"panels: {shown(panel)} is no dict with mask, args and seed") from None
        name = name if isinstance(name, str) else getattr(name, "__name__", repr(name))
        if name not in self.strategies:
            there = ", ".join(self.strategies)
            raise Refused(
                f"mask = {shown(name)} is not in the menu{find.closest(name, self.strategies)}; there are: {there}"
            )
        if not isinstance(args, dict):
            raise Refused(f"mask_args = {shown(args)} is not a dict of options, such as {{}}")
        if isinstance(seed, bool) or not isinstance(seed, (int, float)) or not float(seed).is_integer():
            raise Refused(f"seed = {shown(seed)} is not a whole number")
        return {"mask": name, "args": ranks.plain(args), "seed": int(seed)}

    def usable(self, panel):
        """The options of a checked panel that are not the default."""
        defaults = self.strategies[panel["mask"]].defaults
        return {name: value for name, value in panel["args"].items() if ranks.text(value) != defaults.get(name)}

    def key(self, panel):
        return ranks.key(self.strategies[panel["mask"]], panel["seed"], panel["args"])

    def slow(self, panel):
        """Whether the entry of a checked panel has to wait for a model."""
        strategy = self.strategies[panel["mask"]]
        return self.weights is not None and strategy.asks and self._told(strategy, panel) not in self._scores

    def entry(self, panel):
        """The `ranks.entry` of a checked panel, computed once."""
        strategy, key = self.strategies[panel["mask"]], self.key(panel)
        kept = self._looked if strategy.looks else self.drawn
        if key not in kept:
            try:
                scores = self._score(strategy, panel) if strategy.looks else None
            except Exception as error:  # a user's own function may raise anything
                kept[key] = {"error": line(error)}
            else:
                kept[key] = ranks.entry(strategy.module, panel["seed"], self.grid, panel["args"], scores)
            if strategy.asks:
                self.asked[key] = panel
        return kept[key]

    def _told(self, strategy, panel):
        """What the scores of a panel depend on."""
        return strategy.name, ranks.text({k: v for k, v in panel["args"].items() if k in strategy.told})

    def _score(self, strategy, panel):
        told = self._told(strategy, panel)
        if told not in self._scores:
            method = self.method if strategy.asks else None
            self._scores[told] = masks.score(
                strategy.module, self.image[None] / 255, self.grid, method, **panel["args"]
            )
        return self._scores[told]

    def percent(self, ratio):
        """The nearest whole percent that hides something and not everything."""
        allowed = [percent for percent, count in enumerate(self.counts) if count]
        return min(max(round(ratio * 100), allowed[0]), allowed[-1])

    def mask(self, panel, ratio, painted=()):
        """The mask of a checked panel as the browser shows it: (N,) bool. `painted`: patch -> 0 or 1, set by hand."""
        mask = ranks.mask_in(self.entry(panel), self.percent(ratio), self.n)
        for patch, value in dict(painted).items():
            if int(patch) < self.n:
                mask[int(patch)] = bool(value)
        return mask

    def entries(self, panels, looking):
        """Entries for a start without asking for more: ({key: entry}, number of seeds).

        The checked panels' own, then seed by seed the panels and every strategy of the menu with its defaults, as far
        as they fit into `ROOM`. `looking`: also strategies that look at the image, and with a run those that ask it.
        """
        defaults = [{"mask": item["name"], "args": {}} for item in self.menu if not item["blocked"]]
        every_seed = [p for p in (*panels, *defaults) if looking or not self.strategies[p["mask"]].looks]
        found = {self.key(panel): self.entry(panel) for panel in panels if looking or not self.slow(panel)}
        for seed in range(SEEDS):
            wanted = [panel | {"seed": seed} for panel in every_seed]
            more = found | {self.key(panel): self.entry(panel) for panel in wanted}
            if seed and sum(len(key) + max(map(len, entry.values())) for key, entry in more.items()) > ROOM:
                return found, seed
            found = more
        return found, SEEDS

    # pictures

    @cached_property
    def token(self):
        """The image as the run's tokenizer draws it, or a vocabulary of the images shown: data URI, or None."""
        tokenizer = None if self.weights is None else self.method.tokenizer
        grid = self.grid
        if tokenizer is None or not tokenizer.can_decode:
            side = self.image.shape[1]
            patch = max(p for p in range(1, 9) if (side // grid[0]) % p == 0)  # inside the mask's patches
            tokenizer, grid = seen.vocabulary(self._others(), patch), (side // patch, side // patch)
        return tokenizer and pictures.uri(seen.decoded(self.image, tokenizer, grid))

    def see(self, mask):
        """What the run does under a mask (N,): `seen.Seen`."""
        found = seen.see(self.method, self.image, mask)
        self.weights.note = found.note
        return found
