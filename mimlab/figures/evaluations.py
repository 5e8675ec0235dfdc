"""Results side by side."""

import html
from textwrap import wrap

import numpy as np
from plotly.subplots import make_subplots

from mimlab.figures.style import COLOURS, TEMPLATE, empty, heading

DASHES = (("dash", "dashed"), ("dot", "dotted"))


def beside(results, chance=None, unit="%"):
    """Protocols side by side, a panel each: bars of means, points of seeds; one colour a label in all panels.

    `results` is protocol -> label -> values over seeds, in [0, 100] for "%"; `chance` is protocol -> value, or
    protocol -> name -> value, such as {"chance": 10, "most frequent class": 12}: drawn dashed, then dotted.
    A label that a protocol has not says "not evaluated": no value of another protocol takes its place.
    """
    labels = list(dict.fromkeys(str(label) for values in results.values() for label in values))[
        ::-1
    ]  # first one on top
    if not labels:
        return empty("no evaluations yet: notebook 06 makes them")
    heads = ["<br>".join(wrap(html.escape(protocol, quote=False), 44)) for protocol in results]
    lines = max(head.count("<br>") for head in heads)
    figure = make_subplots(1, len(results), subplot_titles=heads, shared_yaxes=True, horizontal_spacing=0.06)
    for column, (protocol, values) in enumerate(results.items(), 1):
        for place, label in enumerate(labels):
            some = [v for v in values.get(label, []) if v is not None and np.isfinite(v)]
            name, at = html.escape(label, quote=False), {"row": 1, "col": column}
            if not some:
                figure.add_annotation(
                    x=0, y=name, text="not evaluated", xanchor="left", showarrow=False, font={"size": 11}, **at
                )
                figure.add_bar(x=[None], y=[name], orientation="h", showlegend=False, **at)
                continue
            colour = COLOURS[(len(labels) - 1 - place) % len(COLOURS)]
            spread = f" ± {np.std(some, ddof=1):.1f}" if len(some) > 1 else ""
            figure.add_bar(
                x=[np.mean(some)], y=[name], orientation="h", marker={"color": colour, "opacity": 0.75}, showlegend=False, width=0.6,
                text=f"{np.mean(some):.1f}{spread}", textposition="inside", insidetextanchor="start",
                hovertemplate=f"%{{y}}<br>mean %{{x:.2f}} {unit} over {len(some)}<extra></extra>", **at,
            )  # fmt: skip
            figure.add_scatter(
                x=some, y=[name] * len(some), mode="markers", showlegend=False,
                marker={"color": "white", "size": 7, "line": {"color": "#222222", "width": 1.3}},
                hovertemplate=f"%{{y}}<br>%{{x:.2f}} {unit}<extra>one seed</extra>", **at,
            )  # fmt: skip
        told = (chance or {}).get(protocol)
        told = {} if told is None else told if isinstance(told, dict) else {"chance": told}
        for dash, value in zip(DASHES, told.values(), strict=False):
            line = {"color": "#666666", "width": 1.2, "dash": dash[0]}
            figure.add_vline(x=value, line=line, row=1, col=column)
        said = "".join(f"; {dash[1]}: {name}, {v:.3g}" for dash, (name, v) in zip(DASHES, told.items(), strict=False))
        figure.update_xaxes(title_text=f"{unit}{said}", row=1, col=column)
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(type="category")
    height, width = 136 + 46 * len(labels) + 22 * lines, 140 + 7 * max(map(len, labels)) + 320 * len(results)
    title = heading("Evaluations", "bar: mean, point: one seed; a panel for each protocol")
    return figure.update_layout(
        template=TEMPLATE, title=title, height=max(226, height), width=width, margin_t=86 + 22 * lines
    )
