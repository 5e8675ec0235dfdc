"""The explorer's ES module on a page of its own: a state made with `mimlab.masks`, a stub model, Chromium."""

import base64
import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mimlab import find, masks
from mimlab.distributed import generator_for
from mimlab.errors import Refused

MODULE = Path(find.__file__).with_name("viewers") / "mask_explorer.js"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DARK = """:root { --jp-layout-color0: #111111; --jp-layout-color1: #212121; --jp-layout-color2: #424242;
  --jp-ui-font-color1: rgba(255, 255, 255, 1); --jp-ui-font-color2: rgba(255, 255, 255, .7);
  --jp-border-color1: #616161; --jp-border-color2: #424242; --jp-brand-color1: #1e88e5; --jp-error-color1: #e57373; }
body { background: #111111; }"""

# Views of one model each in a div of its own; `sent` keeps what a kernel would get, `saves` how often state is sent.
PAGE = """<!doctype html><html><head><meta charset="utf-8"><title>explorer</title><style>STYLE</style></head><body>DIVS
<script type="application/json" id="given">GIVEN</script>
<script type="module">
const given = JSON.parse(document.getElementById("given").textContent);
const url = URL.createObjectURL(new Blob([given.module], { type: "text/javascript" }));
window.sent = []; window.saves = 0; window.problems = [];
window.addEventListener("error", (event) => problems.push(event.message));
window.addEventListener("unhandledrejection", (event) => problems.push(String(event.reason)));
window.models = given.states.map((state) => {
  const values = { ...state, _esm: given.module }, heard = {};
  const tell = (name, ...rest) => (heard[name] ?? []).slice().forEach((call) => call(...rest));
  return {
    get: (name) => values[name],
    set(name, value) { if (values[name] === value) return; values[name] = value; tell("change:" + name); },
    on(name, call) { (heard[name] ??= []).push(call); },
    off(name, call) { heard[name] = (heard[name] ?? []).filter((other) => other !== call); },
    save_changes() { saves += 1; },
    async send(content) {
      sent.push(content);
      const reply = await window.answer?.(content);
      if (reply) tell("msg:custom", reply, []);
    },
    tell: (content) => tell("msg:custom", content, []),
    listeners: () => Object.values(heard).flat().length,
  };
});
window.model = models[0];
const explorer = await import(url);
window.close_view = given.views.map((which, k) =>
  explorer.default.render({ model: models[which], el: document.getElementById("view" + k) }));
</script></body></html>"""


@contextlib.contextmanager
def browser():
    """Chromium under playwright: the machine's own, else the one that playwright has downloaded."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield chromium
        chromium.close()


def needed(times):
    """The first quartile: what a page needs. Other work on the machine makes some times longer, a slow page all of them."""
    return sorted(times)[len(times) // 4]


def uri(image):
    """uint8 (H, W, 3) -> data URI of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def picture(size=224):
    """A picture in which no two neighbouring pixels are grey or alike, uint8 (size, size, 3)."""
    y, x = np.mgrid[:size, :size] / size
    waves = np.stack([np.sin(9 * x + 3 * y), np.sin(5 * y - 7 * x), np.cos(8 * x * y + 1)], -1)
    return (127.5 + 100 * waves + 20 * ((x * 7 % 1 < 0.5) ^ (y * 5 % 1 < 0.5))[..., None]).clip(0, 255).astype(np.uint8)


def counts(n):
    found = []
    for percent in range(101):
        try:
            found.append(masks.count(n, percent / 100))
        except Refused:
            found.append(None)
    return found


def scores(name, seed, grid):
    """Random scores for a strategy that looks; None for the others."""
    looks = masks.looks(name)
    return torch.rand(1, grid[0] * grid[1], generator=torch.Generator().manual_seed(seed)) if looks else None


def sample(name, seed, grid, percent, **args):
    """The mask that the page must show: bool (N,)."""
    generator = generator_for(seed, 0, "mask")
    found = masks.sample(name, 1, grid, percent / 100, generator, scores=scores(name, seed, grid), **args)
    return found[0].numpy()


def entry(name, seed, grid, **args):
    """What the page is told of a mask: places, or a table of bits where the ranking depends on the count."""
    try:
        every = masks.every(name, grid, generator_for(seed, 0, "mask"), scores(name, seed, grid), **args).numpy()
    except Refused as error:
        return {"error": str(error)}
    if "goal" not in find.options(find.find("masks", name).rank):
        return {"order": base64.b64encode((~every).sum(0).astype("<u2").tobytes()).decode()}
    nothing = np.zeros(every.shape[1], bool)
    table = np.stack([nothing if hidden is None else every[hidden - 1] for hidden in counts(every.shape[1])])
    return {"bits": base64.b64encode(np.packbits(table, axis=1, bitorder="little").tobytes()).decode()}


def key(name, seed, args):
    return f"{name}|{seed}|{json.dumps(args, separators=(',', ':'), sort_keys=True)}"


def menu(names):
    kinds = {bool: "bool", int: "int", float: "float", str: "text", None: "text"}
    return [
        {
            "name": name,
            "about": find.find("masks", name).__doc__.split("\n\n")[0].replace("\n", " "),
            "options": [
                {
                    "name": option_name,
                    "kind": "choice" if option.choices else kinds[option.kind],
                    "low": option.low,
                    "high": option.high,
                    "step": option.step,
                    "choices": list(option.choices),
                    "default": option.default,
                    "none": option.none,
                }
                for option_name, option in masks.arguments(name).items()
            ],
            "blocked": None,
        }
        for name in names
    ]


def state(names=("random",), *, image=None, grid=(14, 14), seeds=2, more=(), **traits):
    """Every trait of the model; `more`: (name, seed, args) whose ranks are there beside those of the default options."""
    image = picture() if image is None else image
    wanted = [(name, seed, {}) for name in names for seed in range(seeds)] + list(more)
    return {
        "picture": {"src": uri(image), "width": image.shape[1], "height": image.shape[0], "name": "test"},
        "grid": list(grid),
        "counts": counts(grid[0] * grid[1]),
        "menu": menu(names),
        "ranks": {key(name, seed, args): entry(name, seed, grid, **args) for name, seed, args in wanted},
        "panels": [{"mask": names[0], "args": {}, "seed": 0}],
        "ratio": 0.5,
        "fill": "grey",
        "complement": False,
        "painted": {},
        "token": None,
        "seeds": seeds,
        "run": None,
        "said": "",
        "source": {"data": "emoji", "data_args": {}, "image_size": 224, "patch_size": 16},
        "live": False,
    } | traits


def write(path, *states, views=None, style="body { margin: 12px; }"):
    """A page with a view for each state, or for each number of a state in `views`; returns its file:// address."""
    views = list(range(len(states))) if views is None else views
    given = {"module": MODULE.read_text(), "states": states, "views": views}
    text = json.dumps(given, allow_nan=False).replace("<", "\\u003c")
    divs = "".join(f'<div id="view{k}"></div>' for k in range(len(views)))
    path.write_text(PAGE.replace("STYLE", style).replace("DIVS", divs).replace("GIVEN", text))
    return path.as_uri()


def ready(page, views=1):
    page.wait_for_function(f"document.querySelectorAll('.mimlab-masks[data-ready]').length === {views}", timeout=10_000)


def pixels(page, selector="[data-role=masked]", which=0):
    """What a canvas holds: uint8 (H, W, 3)."""
    width, height, data = (
        page.locator(selector)
        .nth(which)
        .evaluate(
            """(canvas) => {
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let text = "";
          for (let k = 0; k < data.length; k += 8192) text += String.fromCharCode(...data.subarray(k, k + 8192));
          return [canvas.width, canvas.height, btoa(text)];
        }"""
        )
    )
    return np.frombuffer(base64.b64decode(data), np.uint8).reshape(height, width, 4)[..., :3]


def shown(page, which=0):
    """The mask of a panel as its canvas tells it: bool (N,)."""
    text = page.locator("[data-role=masked]").nth(which).get_attribute("data-mask")
    return np.array(list(text)) == "1"


def cells(mask, grid, size):
    """A mask at pixel size: bool (H, W)."""
    return masks.pixels(torch.from_numpy(mask)[None], grid, size)[0, 0].numpy()


def set_ratio(page, percent):
    """Move the slider as a hand does: its value, then an input event."""
    page.locator("[data-role=ratio]").first.evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input', { bubbles: true })); }",
        percent,
    )
