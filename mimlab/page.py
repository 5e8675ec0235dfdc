"""One self-contained HTML page: figures, tables and text, opened from disk without a network.

plotly.js is in the page once, as gzip in base64: 1.9 MB in place of 4.6. A browser unpacks it by itself (Chrome 80,
Firefox 113, Safari 16.4 and later); an older one shows a line that says so, and text and tables as they are.
"""

import base64
import functools
import gzip
import html
import json
import re

from mimlab import strict
from mimlab.figures.tables import text

MARK = '<meta name="generator" content="mimlab report">'

STYLE = """
:root { color-scheme: light dark; --ink: #222; --faint: #667; --line: #ddd; --mark: #fff3d6; --back: #fff; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --faint: #a5a5b0; --line: #444; --mark: #4a3d12; --back: #16181c; } }
body { font: 15px/1.5 Helvetica, Arial, sans-serif; color: var(--ink); background: var(--back); margin: 2em auto; max-width: 1120px; padding: 0 1em; }
h1 { font-size: 1.7em; } h2 { margin-top: 2em; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; } h1 { overflow-wrap: anywhere; }
nav a { margin-right: 1em; } a { color: inherit; }
figure { margin: 1em 0; break-inside: avoid; } figcaption, p.note { color: var(--faint); font-size: 13px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; margin: 1em 0; }
th, td { border-bottom: 1px solid var(--line); padding: 3px 10px; text-align: left; vertical-align: top; overflow-wrap: anywhere; }
td.number { text-align: right; } tr.marked td { background: var(--mark); } thead { display: table-header-group; }
@media print { body { margin: 0; max-width: none; } .scroll { overflow: visible; } figure { zoom: 0.62; } tr { break-inside: avoid; } }
"""

# Figures carry their size, so that the page does not jump; the background of a figure is white in dark pages too.
DRAW = """
(async () => {
  const waiting = [...document.querySelectorAll("[data-plotly]")];
  const say = (said) => waiting.forEach((el) => { el.querySelector("p").textContent = said; });
  if (!window.DecompressionStream)
    return say("Figures need Chrome 80, Firefox 113, Safari 16.4 or later; text and tables do not.");
  try {
    const packed = Uint8Array.from(atob(document.getElementById("mimlab-plotly").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
    for (const el of waiting) {
      const figure = JSON.parse(el.querySelector("script").textContent);
      el.replaceChildren();
      await Plotly.newPlot(el, { ...figure, config: { displaylogo: false } });
    }
    document.documentElement.dataset.drawn = waiting.length;
  } catch (error) {
    say("The figures could not be drawn: " + error);
    console.error(error);
  }
})();
"""


def ours(raw):
    """Whether the bytes of a file are a page that mimlab wrote."""
    return MARK.encode() in raw[:1000]


@functools.cache
def _packed():
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode()


def library():
    """plotly.js and what draws all figures of the page: to stand once, after them."""
    return f'<script type="text/plain" id="mimlab-plotly">{_packed()}</script>\n<script>{DRAW}</script>\n'


def plot(content, about=None):
    """A figure as a fragment that `library` draws: `content` is its plotly JSON as a dict; `about`: it in words."""
    content = {name: content[name] for name in ("data", "layout", "frames") if content.get(name)}
    layout, words = content.get("layout", {}), html.escape(about or describe(content))
    inline = strict.dumps(content, separators=(",", ":")).replace("<", "\\u003c")  # nothing inside can end the script
    width = f"width:{layout['width']}px;" if layout.get("width") else ""
    return (
        f'<div class="scroll"><div data-plotly role="img" aria-label="{words}" style="{width}height:{layout.get("height", 450)}px">'
        f'<p>The figure needs JavaScript: {words}</p><script type="application/json">{inline}</script></div></div>'
    )


def describe(content):
    """A figure in words from its own texts: title, axes, lines, panels, and the columns of a table."""
    layout = content.get("layout", {})
    axes = [_text(layout[name].get("title")) for name in sorted(layout) if re.fullmatch(r"[xy]axis\d*", name)]
    names = [trace.get("name") for trace in content.get("data", ())]
    heads = [", ".join(trace["header"]["values"]) for trace in content.get("data", ()) if trace.get("type") == "table"]
    names += [f"table of {head}" for head in heads]
    notes = [note.get("text") for note in layout.get("annotations", ())]
    parts = [_text(layout.get("title")), " against ".join(dict.fromkeys(filter(None, reversed(axes)))), *names, *notes]
    plain = [" ".join(html.unescape(re.sub(r"<[^>]*>", " ", part)).split()) for part in parts if part]
    return "; ".join(dict.fromkeys(plain))[:400] or "a figure"


def _text(title):
    return title.get("text") if isinstance(title, dict) else title


def figure(found, caption):
    """A `go.Figure` with a caption, which is also what a screen reader says."""
    content = json.loads(found.to_json())
    return f"<figure>{plot(content, f'{caption} {describe(content)}')}<figcaption>{html.escape(caption)}</figcaption></figure>\n"


def table(rows, caption="", marked=()):
    """A list of dicts as an HTML table that needs no script; rows whose number is in `marked` are set off."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f'<th scope="col">{html.escape(str(name))}</th>' for name in names)
    body = []
    for number, row in enumerate(rows):
        cells = [(row.get(name), html.escape(text(row.get(name)))) for name in names]
        shown = "".join(
            f"<td{' class=number' if isinstance(value, (int, float)) else ''}>{said}</td>" for value, said in cells
        )
        body.append(f"<tr{' class=marked' if number in marked else ''}>{shown}</tr>")
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{title}<thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>\n'


def note(said):
    return f'<p class="note">{html.escape(said)}</p>\n'


def page(title, body):
    """The whole page; `body` is fragments from here."""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{MARK}\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n{library()}</body>\n</html>\n"
    )
