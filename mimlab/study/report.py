"""report.html of a study: its state, its results, and a link to each executed notebook; opens without a network."""

import html
import os

from mimlab import page
from mimlab.figures import studies
from mimlab.study import results
from mimlab.study.state import save


def report(folder, jobs, about, rows):
    """Write the page of a study's folder and return its path; `rows` are those of results.csv."""
    parts = [f"<h1>{html.escape(folder.name)}</h1>\n", page.note(about)]
    parts += ["<h2>Results</h2>\n", page.figure(studies.overview(rows), "Each point is one run; a bar is their mean.")]
    parts += [page.table(studies.summary(rows), "mean over runs, with their sample deviation and a 95 % interval")]
    parts += ["<h2>Runs</h2>\n", _runs(folder, jobs)]
    parts += ["<h2>Every number</h2>\n", page.table(rows)]
    path = folder / "report.html"
    save(folder, path.name, page.page(f"mimlab: {folder.name}", "".join(parts)))
    return path


def _runs(folder, jobs):
    """The table of states, with links to each notebook that was executed, or failed."""
    found = results.status(jobs)
    names = [*dict.fromkeys(name for row in found for name in row), "notebooks"]
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in names)
    body = []
    for job, row in zip(jobs, found, strict=True):
        cells = [html.escape(page.text(row.get(name))) for name in names[:-1]]
        cells.append(" ".join(_links(folder, job)) or "–")
        marked = " class=marked" if row["state"] in ("failed", "stopped") else ""
        body.append(f"<tr{marked}>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>\n'


def _links(folder, job):
    for task in job.tasks:
        failed = task.output.with_name(f"{task.output.stem}.failed.ipynb")
        for path, said in ((task.output, task.name), (failed, f"{task.name} (failed)")):
            if path.is_file():
                where = os.path.relpath(path.resolve(), folder.resolve()).replace(os.sep, "/")
                yield f'<a href="{html.escape(where)}">{html.escape(said)}</a>'
