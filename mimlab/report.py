"""`mimlab report`: one HTML page about one run or several, which opens from disk without a network.

A section is a function of a run that gives fragments of `page`; what there is not for a run it says in one line. With
several runs the page begins with what sets them apart, then each run has its sections.
"""

import html
from pathlib import Path

from mimlab import compare, files, page, verdicts
from mimlab.config import Attend, Look
from mimlab.errors import Refused
from mimlab.find import find
from mimlab.groups import flat
from mimlab.run import write

IMAGES = 4  # shown of each run


def report(runs, out=None, force=False):
    """Write the page of `runs`, names as for `compare.select`, and return its path.

    `out`: the file; None: report.html in the folder of a single run, or here for several. Only an earlier report is
    overwritten, or with `force` any file. Raises Refused.
    """
    found = list({run.path.resolve(): run for name in runs for run in compare.select(name)}.values())
    out = Path(out) if out is not None else (found[0].path if len(found) == 1 else Path()) / "report.html"
    if out.suffix != ".html" or not out.parent.is_dir():
        raise Refused(f"out = '{out}': give a path that ends in .html, in a folder that exists")
    files.replaceable(out, "out", page.ours, force)
    title = found[0].path.name if len(found) == 1 else f"{len(found)} runs"
    parts = [f"<h1>{html.escape(title)}</h1>\n"]
    if len(found) > 1:
        links = (f'<a href="#run{k}">{html.escape(run.path.name)}</a>' for k, run in enumerate(found))
        parts += [f"<nav>{''.join(links)}</nav>\n", *together(found)]
    for k, run in enumerate(found):
        parts.append(f'<h2 id="run{k}">{html.escape(run.path.name)}</h2>\n' if len(found) > 1 else "")
        level = "h3" if len(found) > 1 else "h2"
        for name, section in SECTIONS.items():
            parts += [f"<{level}>{name}</{level}>\n", *_careful(section, run)]
    write(out, page.page(f"mimlab: {title}", "".join(parts)))
    return out


def _careful(section, run):
    """The section's fragments; what is refused, such as images that have gone, is its one line."""
    try:
        return section(run)
    except Refused as error:
        return [page.note(str(error))]


def together(runs):
    """What sets several runs apart: settings, curves, speed, evaluations."""
    from mimlab.figures import curves, evaluations

    logged, (results, chance) = compare.metrics(runs), verdicts.results(runs)
    parts = ["<h2>What differs</h2>\n", page.table(compare.who(runs)), page.table(compare.settings(runs))]
    parts.append("<h2>Side by side</h2>\n")
    if any(row.get("loss") is not None for some in logged.values() for rows in curves.seeds(some) for row in rows):
        said = "Everything that the runs log, against the images seen; a band is the range of seeds around their mean."
        parts.append(page.figure(curves.overview(logged, smooth=0.6, x="images"), said))
        said = "Losses of different methods measure different things: compare them within a method only."
        parts.append(page.note(said))
    parts.append(page.table(compare.speeds(runs), "speed"))
    if not results:
        parts.append(page.note("None of these runs has been evaluated."))
    else:
        parts.append(page.table(verdicts.evaluations(runs), "evaluations, mean ± deviation (number of values)"))
        parts.append(page.figure(evaluations.beside(results, chance), "Evaluations, a panel for each protocol."))
        parts.append(page.table(verdicts.verdicts(runs), "differences: within noise where the 95 % interval holds 0"))
    return parts


# sections of one run


def about(run):
    """Every setting beside the method's published one; what differs is set off, and says so."""
    config = run.config
    told = {
        name: value for name, value in config["settings"].items() if value is not None and name not in ("out", "run")
    }
    paper = flat(
        find("methods", run.settings.method).RECIPE.get(told["recipe"], {})
    )  # refuses a module that it only names
    settings = flat(told)
    rows, marked = [], []
    for name, value in settings.items():
        differs = name in paper and value != paper[name]
        marked += [len(rows)] if differs else []
        recipe = "–" if paper.get(name) is None else str(paper[name])
        rows.append(
            {
                "setting": name,
                "value": "none" if value is None else str(value),
                "recipe": recipe,
                "": "differs" if differs else "",
            }
        )
    what = [("state", compare.state(run)), ("training images", config["images"]), ("commit", config["commit"])]
    what += [(f"{name} version", version) for name, version in config["versions"].items()]
    said = f"The recipe is “{told['recipe']}” of {told['method']}, as published; a dash: it says nothing."
    facts = [{"about": name, "value": str(value)} for name, value in what]
    settings = page.table(rows, marked=marked)
    return [
        page.table(facts),
        f"<details open><summary>{len(rows)} settings, {len(marked)} unlike the recipe</summary>{page.note(said)}{settings}</details>\n",
    ]


def curve(run):
    """What the run logged beside what guessing reaches, and its speed."""
    from mimlab.figures import curves

    rows = compare.rows(run)
    if not any(row.get("loss") is not None for row in rows):
        return [page.note("This run has logged no step yet.")]
    metrics = {run.config["settings"]["method"]: rows}
    logged = page.figure(
        curves.overview(metrics, smooth=0.6), "What the run logged; dashed: what guessing reaches. Faint: unsmoothed."
    )
    speed = page.figure(curves.curves(metrics, "images_per_s"), "Speed: images a second at each logged step.")
    return [logged, speed, page.table(compare.speeds([run]))]


def masks(run):
    """The first images of the run's first step, as the encoder got them, and what was hidden."""
    from mimlab.figures.masks import gallery
    from mimlab.looking.look import first_batch

    cfg = run.settings
    seen = first_batch(cfg, IMAGES)
    hidden = (
        1 - next(iter(seen.shown.values())).float().mean()
        if cfg.mask == "none"
        else next(iter(seen.shown.values())).float().mean()
    )
    said = (
        "Whole images: this method hides nothing."
        if cfg.mask == "none"
        else f"Strategy {cfg.mask}: {hidden:.0%} of {seen.grid[0]} x {seen.grid[1]} patches hidden."
    )
    return [page.figure(gallery(seen.images, seen.shown, seen.grid, "The first step"), f"Seed {cfg.seed}. {said}")]


def reconstructions(run):
    """What the run fills in on images it never saw."""
    from mimlab.figures.reconstructions import panel
    from mimlab.looking.reconstructions import look

    seen = look(Look(run=str(run.path), images=IMAGES))
    numbers = page.table(
        [{"quantity": name, "value": value} for name, value in seen.numbers.items()],
        f"over {seen.numbers['images']} images",
    )
    if seen.filled is None:
        return [page.note(seen.note), numbers]
    drawn = panel(seen.images, seen.mask, seen.grid, seen.filled, note=seen.note, loss=seen.loss)
    return [page.figure(drawn, " ".join(seen.about.split("\n")[1:])), numbers]


def attention(run):
    """Where the last layer looks, and how far each layer's heads do."""
    from mimlab.figures.attention import by_depth, gallery
    from mimlab.looking.attend import attend

    query = "cls"
    found = attend(Attend(run=str(run.path), images=IMAGES, query=query))
    one, parts = found.first, []
    if one.maps is None:
        parts.append(page.note(one.why("maps")))
    else:
        drawn = gallery(one.images, one.maps[one.layer], one.grid, one.query, f"Attention in layer {one.layer}")
        parts.append(
            page.figure(drawn, f"What CLS looks at in the last layer, {one.layer}, head by head; {one.about}.")
        )
    if found.by_depth("distance"):
        drawn = by_depth(found.by_depth("distance"), "Mean attention distance", "pixels", one.measured)
        said = f"How far the heads of each layer look, mean over {one.measured} {one.about}."
        parts.append(page.figure(drawn, said))
    elif one.maps is not None:
        parts.append(page.note(one.why("distance")))
    return parts


def film(run):
    """How reconstructions, attention and features formed, at some of the steps that were kept."""
    from mimlab.figures.film import strip
    from mimlab.looking.film import of

    found = of(run)
    if not found.steps:
        return [page.note(found.note)]
    said = f"The same images at {len(found.steps)} kept steps, or some of them; notebook 04 plays the film."
    return [page.figure(strip(found), said)]


def evaluations(run):
    """Every evaluation of the run, each protocol by itself."""
    from mimlab.figures.evaluations import beside

    results, chance = verdicts.results([run])
    if not results:
        return [page.note("Not evaluated yet: mimlab run notebooks/06_evaluate.ipynb does.")]
    said = "Accuracy of the encoder, and of the same one from scratch; points are seeds."
    return [page.figure(beside(results, chance), said), page.table(verdicts.evaluations([run]))]


SECTIONS = {
    "Settings": about,
    "Training": curve,
    "What it sees and hides": masks,
    "What it fills in": reconstructions,
    "Where it looks": attention,
    "How it formed": film,
    "Evaluations": evaluations,
}
