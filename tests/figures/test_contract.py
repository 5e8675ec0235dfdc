"""What every figure keeps to: a title, axes with units, a palette for the colour-blind, PNG pictures, and words for them."""

import functools
import importlib
import inspect
import json
import pkgutil

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from figures import test_bench, test_detection, test_film, test_studies

import mimlab.figures
from mimlab import page
from mimlab.figures import (
    attention,
    bench,
    codebooks,
    curves,
    detection,
    evaluations,
    features,
    film,
    masks,
    pictures,
    reconstructions,
    scale,
    studies,
    style,
    tables,
    token_pairs,
    tokens,
)
from mimlab.looking.tokens import Neighbours
from mimlab.methods import judged

GRID, SAID = (2, 3), "three images of a set, seed 17"
IMAGES = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[True, False, True, False, False, True]] * 2)
MAPS = torch.full((2, 2, 6), 1 / 6)
ROWS = [{"step": k, "loss": 1 / (k + 1), "loss_uniform": 2.0, "knn_top1": 5.0, "knn_chance": 1.0} for k in range(9)]
IDS, PAIRS = torch.tensor([[0, 1, 2, 0, 1, 2]] * 2), torch.ones(2, 3, 3, dtype=torch.long)
TILES, NUMBERS = torch.rand(3, 3, 4, 4), [{"strategy": name, "regions": 3.0 + k} for k, name in enumerate("ab")]
GROWN = [{"method": "mae", "batch": 2**k, "seconds": 0.1 * 2**k} for k in range(3)]
RANK = {"rank": 3.0, "most": 16, "rows": 100, "cosine": 0.2, "spread": 0.9}
LOGITS = torch.zeros(2, 6, 4)
CURVE = {"numbers": {"miou": 1.0}, "curves": {"box": {"0.5": [1.0] * 101}, "iou": {"a": [30.0], "b": [10.0]}}}

# Every public function that returns a figure. One that shows what was drawn by chance takes words about it, with the seed.
SHOWS = {
    attention.heads: lambda: attention.heads(IMAGES[0], torch.full((3, 2, 6), 1 / 6), GRID, about=SAID),
    attention.gallery: lambda: attention.gallery(IMAGES, MAPS, GRID, about=SAID),
    attention.masses: lambda: attention.masses(IMAGES, MAPS, GRID, 0.6, about=SAID),
    attention.overlays: lambda: attention.overlays(IMAGES, {"mean": MAPS[:, 0]}, GRID, "Rollout", about=SAID),
    attention.beside: lambda: attention.beside({"a": (IMAGES, MAPS[:, 0], GRID)}, about=SAID),
    attention.by_depth: lambda: attention.by_depth({"a": np.ones((2, 3))}, "Distance", "pixels", 2, about=SAID),
    attention.channels: lambda: attention.channels(np.ones((1, 2, 4, 4)), about=SAID),
    codebooks.maps: lambda: codebooks.maps(IMAGES, {"k": IDS}, GRID, {"k": 3}, SAID),
    codebooks.galleries: lambda: codebooks.galleries({"k": TILES}, {"k": [3, 2, 1]}, {"k": [0, 1, 2]}, about=SAID),
    codebooks.usage: lambda: codebooks.usage({"k": [3, 2, 1]}, SAID),
    codebooks.roundtrip: lambda: codebooks.roundtrip(IMAGES, {"k": IMAGES}, SAID),
    token_pairs.neighbours: lambda: token_pairs.neighbours(
        {"k": Neighbours(torch.arange(3), PAIRS, PAIRS.double())}, {"k": TILES}, SAID
    ),
    features.components: lambda: features.components(
        IMAGES, torch.rand(2, 2, 3, 3), [0.5, 0.2, 0.1], title="a run", about=SAID
    ),
    features.neighbours: lambda: features.neighbours(
        IMAGES, torch.tensor([[1], [0]]), torch.tensor([[0.9], [0.9]]), title="a run", about=SAID
    ),
    features.similarity: lambda: features.similarity(torch.eye(2), [0, 1], [0, 1], "a", "a", 9, about=SAID),
    features.ranks: lambda: features.ranks({"images": [RANK] * 2}, [0, 1], "a run", SAID),
    features.accuracies: lambda: features.accuracies({"k-NN": [20.0, 60.0]}, [0, 1], 25.0, "t", SAID),
    film.strip: lambda: film.strip(test_film.film(note=SAID)),
    masks.gallery: lambda: masks.gallery(IMAGES, {"a": MASK}, GRID, about=SAID),
    masks.filled: lambda: masks.filled(IMAGES, {"a": IMAGES}, SAID),
    masks.coverage: lambda: masks.coverage({"a": MASK}, GRID, SAID),
    masks.spectra: lambda: masks.spectra({"a": (np.array([0.1, 0.5]), np.array([1.0, 2.0]))}, GRID, SAID),
    masks.comparison: lambda: masks.comparison(NUMBERS, SAID),
    reconstructions.panel: lambda: reconstructions.panel(IMAGES, MASK, GRID, IMAGES, note=SAID),
    reconstructions.sweep: lambda: reconstructions.sweep(
        IMAGES, GRID, [0.5], [MASK], [IMAGES], [[20.0, 20.0]], note=SAID
    ),
    reconstructions.by_distance: lambda: reconstructions.by_distance(
        {"PSNR (dB)": {"mae": [{"distance": 1, "mean": 20.0, "error": 1.0, "patches": 5}]}}, note=SAID
    ),
    reconstructions.branches: lambda: reconstructions.branches(IMAGES, MASK, ~MASK, GRID, IMAGES, IMAGES, note=SAID),
}
OTHERS = {
    bench.speeds: lambda: bench.speeds(test_bench.RESULT),
    bench.steps: lambda: bench.steps(test_bench.RESULT),
    codebooks.gallery: lambda: codebooks.gallery(TILES, [3, 2, 1]),
    curves.curves: lambda: curves.curves({"a": ROWS, "b (2 seeds)": [ROWS, ROWS]}),
    curves.grid: lambda: curves.grid({"a": ROWS}, ["loss", "knn_top1"]),
    curves.overview: lambda: curves.overview({"a": ROWS}),
    detection.objects: lambda: detection.objects([test_detection.picture()], None, test_detection.NAMES),
    detection.segments: lambda: detection.segments(
        [test_detection.picture()], [torch.zeros(40, 80, dtype=torch.int64)], test_detection.NAMES
    ),
    detection.precision_recall: lambda: detection.precision_recall({"scratch": CURVE}, "box"),
    detection.class_bars: lambda: detection.class_bars(CURVE),
    evaluations.beside: lambda: evaluations.beside({"knn": {"mae": [40.0, 42.0]}}),
    pictures.panels: lambda: pictures.panels({"image": pictures.colours(IMAGES)}, "given"),
    reconstructions.own: lambda: reconstructions.own(IMAGES, GRID, {"replaced": MASK}),
    reconstructions.leaking: lambda: reconstructions.leaking(IMAGES, MASK, GRID, IMAGES),
    scale.growth: lambda: scale.growth(GROWN, "batch", {"seconds": "seconds a step"}),
    scale.efficiency: lambda: scale.efficiency(GROWN, "batch", {"seconds": "share"}),
    studies.against: lambda: studies.against(test_studies.ROWS, "fraction"),
    studies.beside: lambda: studies.beside(test_studies.ROWS, "fraction"),
    studies.overview: lambda: studies.overview(test_studies.ROWS),
    tokens.guesses: lambda: tokens.guesses(judged(LOGITS, IDS).tokens, MASK, GRID, 4),
    tokens.token_map: lambda: tokens.token_map(IDS, GRID, 3),
}
EVERY = SHOWS | OTHERS
# no figure: values, parts of figures, files
PARTS = {
    attention: "palette shares overlay in_colours kept marked",
    curves: "series keep smoothed band seeds guesses",
    film: "evenly layers stills enlarged frames gif",
    masks: "hide",
    pictures: "numpy colours png pngs cells painted",
    studies: "measured varied values interval groups summary",
    style: "heading empty drawn",  # a reason in place of a figure
    tables: "text pairs table",  # their columns are their words
    detection: "colour precision_table",
}


@functools.cache
def drawn(show):
    return EVERY[show]()


def named(show):
    return f"{show.__module__.split('.')[-1]}.{show.__name__}"


def test_every_public_function_is_held_to_it():
    known = {*EVERY, *(getattr(module, name) for module, names in PARTS.items() for name in names.split())}
    for found in pkgutil.iter_modules(mimlab.figures.__path__):
        module = importlib.import_module(f"mimlab.figures.{found.name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                assert function in known, f"{module.__name__}.{name}"


@pytest.mark.parametrize("show", EVERY, ids=named)
def test_it_has_a_title_and_named_axes(show):
    figure = drawn(show)
    assert isinstance(figure, go.Figure) and figure.layout.title.text.strip()
    panels = [note.text for note in figure.layout.annotations]  # a panel's title names its quantity
    for kind in ("xaxis", "yaxis"):
        axes = [figure.layout[name] for name in figure.layout if name.startswith(kind)]
        values = [
            value
            for trace in figure.data
            if kind[0] in trace
            for value in (trace[kind[0]] if trace[kind[0]] is not None else ())
        ]
        names = any(isinstance(value, str) for value in values)  # names need no title
        assert names or panels or all(axis.title.text for axis in axes if axis.visible is not False), kind


@pytest.mark.parametrize("show", SHOWS, ids=named)
def test_what_chance_has_drawn_states_its_seed(show):
    layout = drawn(show).layout
    said = f"{layout.title.text} {layout.title.subtitle.text} {' '.join(a.text or '' for a in layout.annotations)}"
    assert SAID in " ".join(said.replace("<br>", " ").split())


@pytest.mark.parametrize("show", EVERY, ids=named)
def test_its_pictures_are_png_data_and_its_colours_are_safe(show):
    figure = drawn(show)
    for image in figure.layout.images:
        assert image.source.startswith("data:image/png;base64,")
    boxes = {detection.colour(k, len(test_detection.NAMES)) for k in (1, 2)}
    safe = {*style.COLOURS, *boxes, style.INK, style.FAINT, "white", "black", "#888888"}
    for trace in figure.data:
        for part in ("line", "marker"):
            colour = trace[part].color if part in trace else None
            assert not isinstance(colour, str) or colour in safe, f"{part} {colour}"


@pytest.mark.parametrize("show", EVERY, ids=named)
def test_an_export_says_it_in_words(show):
    content = json.loads(drawn(show).to_json())
    words = page.describe(content)
    assert words != "a figure" and content["layout"]["title"]["text"].split("<br>")[0][:30] in words
    assert 'role="img" aria-label="' in page.plot(content)


def test_the_title_is_the_figures_and_not_a_columns():
    for show in (masks.gallery, masks.filled, codebooks.roundtrip, reconstructions.panel):
        assert drawn(show).layout.title.text not in ("a", "k", "image")


def test_a_table_is_told_by_its_columns():
    assert "table of" in page.describe(json.loads(tables.table([{"run": "a", "top-1": 3.0}]).to_json()))
