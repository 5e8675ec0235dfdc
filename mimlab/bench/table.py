"""Rows as people read them, and as a file."""

from pathlib import Path

from mimlab import files, strict

COLUMNS = {
    "who": ("who", "{}"),
    "images_per_s": ("images/s", "{:.4g}"),
    "ratio": ("mimlab is", "{:.2f} x"),
    "step_ms": ("step ms", "{:.4g}"),
    "data": ("data", "{:.3g}"),
    "mask": ("mask", "{:.2g}"),
    "tokenizer": ("tokens", "{:.3g}"),
    "forward": ("forward", "{:.4g}"),
    "backward": ("backward", "{:.4g}"),
    "optimiser": ("optim.", "{:.3g}"),
    "gflop_per_image": ("GFLOP/img", "{:.3g}"),
    "of_peak": ("of peak", "{:.2f}"),
    "of_replay": ("of replay", "{:.2f}"),
    "memory_mb": ("MiB", "{:.0f}"),
    "parameters": ("params M", "{:.2f}"),
    "first_s": ("first s", "{:.3g}"),
    "spread": ("spread", "{:.2f}"),
    "clean": ("clean", "{}"),
}


def text(result):
    """The whole table of a result as `command.bench` makes it, a block a method."""
    about = result["machine"]
    lines = [
        f"{result['at']}, {result['threads']} threads of {about['processor']}, torch {result['versions']['torch']}, "
        f"{result['commit']}; {result['starts']} starts of {result['rounds']} rounds, {result['clock']} clock; best square product "
        f"{result['peak_gflop_per_s']:.0f} GFLOP/s; parts in ms"
    ]
    for method in result["settings"]:
        rows = [row for row in result["rows"] if row["method"] == method]
        batch = result["settings"][method]["batch_size"]
        lines += ["", f"{method}, batch {batch}", *table([cells(row) for row in rows])]
        lines += [f"  {row['who']}: {row['differs']}" for row in rows if row.get("differs")]
        lines += [f"  {gone['who']}: {gone['why']}" for gone in result["missing"] if gone["method"] == method]
        for loop in result["loop"]:
            if loop["method"] == method:
                lines.append(
                    f"  the whole loop: {loop['images_per_s']:.4g} images/s, {loop['of_ready']:.3f} of ready batches"
                )
    return "\n".join(lines)


def cells(row):
    """Column -> text of a row, for the columns that it has."""
    flat = row | row["parts_ms"] | {"parameters": row["parameters"] / 1e6, "clean": f"{row['clean']}/{row['rounds']}"}
    return {title: form.format(flat[name]) for name, (title, form) in COLUMNS.items() if flat.get(name) is not None}


def table(rows):
    """Lines of aligned columns; a column that no row has is left out."""
    titles = [title for title, _ in COLUMNS.values() if any(title in row for row in rows)]
    grid = [titles, *([row.get(title, "") for title in titles] for row in rows)]
    widths = [max(len(line[place]) for line in grid) for place in range(len(titles))]
    return [
        "  "
        + "  ".join(
            x.ljust(w) if place == 0 else x.rjust(w) for place, (x, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in grid
    ]


def write(path, result):
    """JSON, written aside and renamed. Raises `Refused`."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write(path, strict.dumps(result, indent=1) + "\n")


def ours(raw):
    """Whether the bytes of a file are an earlier result."""
    found = files.loads(raw)
    return isinstance(found, dict) and {"rows", "missing", "loop", "clock"} <= found.keys()
