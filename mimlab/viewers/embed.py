"""A viewer without its kernel: the same ES module with its state inline, as HTML that needs no network.

The module gets a model that only lives in the page: `get`, `set`, `on`, `off` as a widget's, `save_changes` and
`send` that do nothing. Where scripts are stripped (GitHub, a notebook that is not trusted) a picture stays.
"""

import hashlib
import html as escape
import json
import os
from pathlib import Path

from mimlab import files
from mimlab.page import MARK, ours

LOADER = """
for (const el of document.querySelectorAll('[data-mimlab="NAME"]:not([data-alive])')) {
  el.dataset.alive = "1";
  const { module, state } = JSON.parse(el.querySelector("script").textContent);
  const values = { ...state, _esm: module }, heard = new Map();
  const tell = (name, ...rest) => [...(heard.get(name) || [])].forEach((call) => call(...rest));
  const model = {
    get: (name) => values[name],
    set(name, value) {
      if (values[name] === value) return;
      values[name] = value;
      tell("change:" + name, model, value);
      tell("change", model);
    },
    on(names, call) {
      for (const name of names.split(" ")) heard.set(name, [...(heard.get(name) || []), call]);
    },
    off(names, call) {
      for (const name of names ? names.split(" ") : [...heard.keys()])
        heard.set(name, (heard.get(name) || []).filter((other) => call && other !== call));
    },
    save_changes() {},
    send() {},
  };
  const url = URL.createObjectURL(new Blob([module], { type: "text/javascript" }));
  const drawn = document.createElement("div");
  import(url)
    .then(async (viewer) => {
      el.append(drawn);
      await viewer.default.render({ model, el: drawn });
      el.querySelector("img").remove();
    })
    .catch((error) => {
      drawn.remove();
      console.error(error);
    })
    .finally(() => URL.revokeObjectURL(url));
}
"""


def batch():
    """Whether nobody watches: notebooks are executed headlessly with MIMLAB_BATCH=1."""
    return os.environ.get("MIMLAB_BATCH") == "1"


def html(source, state, picture, about):
    """A fragment of HTML that draws the viewer: for a notebook's output, several on one page.

    `source`: the ES module's text, without imports; `state`: what its model holds, as JSON can carry it; `picture`: data
    URI shown until the module has drawn, and wherever scripts do not run; `about`: the picture in words.
    Raises ValueError for a state with NaN or infinity.
    """
    inline = json.dumps({"module": source, "state": state}, separators=(",", ":"), allow_nan=False)
    inline = inline.replace("<", "\\u003c")  # nothing inside can end the script element
    name = hashlib.blake2b(inline.encode(), digest_size=8).hexdigest()
    return (
        f'<div data-mimlab="{name}" style="max-width:100%">\n'
        f'<img src="{picture}" alt="{escape.escape(about)}" style="max-width:100%">\n'
        f'<script type="application/json">{inline}</script>\n'
        f"<script>{LOADER.replace('NAME', name)}</script>\n</div>"
    )


def write(path, page):
    """Write a page; only an earlier one of mimlab's is replaced. Returns the path. Raises `Refused`."""
    files.replaceable(path, "path", ours)
    files.write(path, page)
    return Path(path)


def page(fragment, title):
    """A whole HTML page around a fragment of `html`, to be opened from disk."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"{MARK}\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape.escape(title)}</title>\n"
        "<style>body { margin: 1em; font-family: Helvetica, Arial, sans-serif; }</style>\n"
        f"</head>\n<body>\n{fragment}\n</body>\n</html>\n"
    )
