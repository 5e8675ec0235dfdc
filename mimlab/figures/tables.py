"""Numbers as a table."""

import html
import math
import numbers

import numpy as np
import plotly.graph_objects as go

from mimlab.errors import Refused
from mimlab.figures.style import INK, TEMPLATE

WIDEST, NARROWEST = 40, 8  # letters of a column of text; longer cells wrap, so that numbers keep their room
PAGE = 1000  # px, the width that a table keeps to if it can
MANY = 8  # columns; more of them have smaller letters
TITLE = 8.5  # px, a letter of the title


def text(value):
    """A cell as people write it: 1,234, 0.1235, 3.1e-05, yes, and a dash for nothing."""
    if value is None or (isinstance(value, numbers.Real) and math.isnan(value)):
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, numbers.Integral):
        return f"{int(value):,}"
    if isinstance(value, numbers.Real):
        value = float(value)
        if value == 0 or math.isinf(value):
            return f"{value:g}"
        if not 1e-3 <= abs(value) < 1e6:
            return f"{value:.3g}"
        return f"{value:,.{max(0, 3 - math.floor(math.log10(abs(value))))}f}"
    return str(value)


def pairs(values, *names, title=None):
    """A dict as a table: `names` are the title of its keys, and of its values or of each part of them."""
    rows = [(key, *(value if isinstance(value, tuple) else (value,))) for key, value in values.items()]
    return table([dict(zip(names, row, strict=True)) for row in rows], title)


def table(rows, title=None):
    """A list of dicts as a table; columns in order of first appearance, missing values as a dash.

    Raises Refused where there is no row.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not names:
        raise Refused("rows: an empty list shows nothing; give one dict a row")
    # plotly reads tags in cells
    columns = [[html.escape(text(row.get(name)), quote=False) for row in rows] for name in names]
    numeric = [all(isinstance(row.get(name), (numbers.Real, type(None))) for row in rows) for name in names]
    align = ["right" if number else "left" for number in numeric]
    needs = [max(len(str(name)) + 1, *map(len, column), 7) for name, column in zip(names, columns, strict=True)]
    widest = WIDEST
    words = [_longest_word(name, *column) for name, column in zip(names, columns, strict=True)]  # they do not wrap
    while (
        (widths := [max(min(need, widest), word) for need, word in zip(needs, words, strict=True)])
        and _wide(widths) > PAGE
        and widest > NARROWEST
    ):
        widest -= 1
    lines = [
        max(_lines(column[row], width) for column, width in zip(columns, widths, strict=True))
        for row in range(len(rows))
    ]
    head = max(_lines(str(name), 0.9 * width) for name, width in zip(names, widths, strict=True))  # bold
    figure = go.Figure(
        go.Table(
            columnwidth=_pixels(widths),
            header={
                "values": [f"<b>{html.escape(str(name), quote=False)}</b>" for name in names],
                "align": align,
                "fill_color": "#e8eef4",
                "line_color": "white",
                "font": {"size": 13 if len(names) <= MANY else 11, "color": INK},
                "height": 28,
            },
            cells={
                "values": columns,
                "align": align,
                "fill_color": [["white", "#f6f6f6"] * (len(rows) // 2 + 1)],
                "line_color": "white",
                "font": {"size": 13 if len(names) <= MANY else 11, "color": INK},
                "height": 26,
            },
        )
    )
    figure.update_layout(
        template=TEMPLATE,
        title=title,
        width=max(320, _wide(widths), min(PAGE, TITLE * len(title or "") + 32)),
        height=28 + 18 * (head - 1) + 26 * min(sum(lines), 25) + (56 if title else 20),
        margin={"l": 8, "r": 8, "t": 44 if title else 8, "b": 8},
    )
    return figure


def _longest_word(*texts):
    """Letters of the longest word, at most `WIDEST`."""
    return min(max(len(word) for said in texts for word in [*str(said).split(), ""]), WIDEST)


def _lines(said, width):
    """Lines that a cell takes."""
    return 1 if len(said) <= width else math.ceil(len(said) / (0.9 * width))


def _pixels(widths):
    """Pixels of columns of so many letters, each with its edges."""
    letter, edge = (7.4, 27) if len(widths) <= MANY else (6.3, 20)
    return [letter * width + edge for width in widths]


def _wide(widths):
    """Pixels of all columns."""
    return round(sum(_pixels(widths)))
