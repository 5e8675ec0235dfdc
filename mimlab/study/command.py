"""`mimlab study`: what the command does, from the file's path to the exit code."""

import os
import shutil
import sys
from pathlib import Path

from mimlab import remote, yaml_text
from mimlab.errors import Refused, one_line, shown
from mimlab.settings import place, within
from mimlab.study import cluster, estimate, local, plan, report, results, spec
from mimlab.study.state import STATES, clock, job_state, todo

WIDTH = 40  # characters of a column, at most, where there is a terminal or not


def study(
    path,
    *,
    scale=None,
    parameters=(),
    dry_run=False,
    retry=False,
    jobs=1,
    executor="local",
    slurm=(),
    upload=None,
    tell=print,
):
    """Execute a study's file and return 0, or 1 where some of its runs have failed or were stopped.

    Finished runs are left alone, stopped ones go on, failed ones are done again with `retry`. `parameters` and `slurm`
    are (name, value) pairs over the file's base and slurm; `jobs` run at a time; `upload` is an address for a copy of
    what came out. Raises Refused before anything starts.
    """
    given = {name: yaml_text.load(str(value), f"{name} = {shown(value)}") for name, value in parameters}
    asked = spec.read(path, scale, given)
    within("jobs", jobs, 1, 4096)
    if executor not in ("local", "slurm"):
        raise Refused(f"executor = {shown(executor)}; there are: local, slurm")
    options = cluster.check(asked.slurm | dict(slurm))
    planned = plan.plan(asked)
    measured = estimate.Measured(asked.out)
    if dry_run:
        tell(table(results.status(planned, measured)))
        tell(total(planned, measured, jobs))
        return 0
    if upload:
        remote.check(upload)
    results.keep(asked.folder, asked, planned)
    left = [job for job in planned if todo(job, retry) and job_state(job).state != "running"]
    tell(f"{asked.folder}: {len(planned)} runs, {said(results.counts(planned))}; {len(left)} to do")
    if executor == "slurm":
        submitted = cluster.submit(left, asked.folder, options, jobs, retry) if left else []
        tell("\n".join(["submitted:", *(f"  {one.job_id} {job.name}" for one, job in zip(submitted, left))]))
        tell(f"mimlab study status {path} tells how far it is")
        return 0
    try:
        local.run(left, jobs, retry, lambda line: print(line, file=sys.stderr, flush=True))
    finally:
        end(asked.folder, planned, asked.about, upload)
    show(asked.folder, tell)
    return verdict(planned, tell)


def status(path, *, scale=None, upload=None, tell=print):
    """Print what is queued, running, done and failed as it was planned last, and rebuild the table and the page.

    `path`: the study's file or the folder where its results lie.
    """
    folder = _folder(path, scale)
    about, planned = results.planned(folder)
    if not planned:
        tell(f"{folder}: not started; mimlab study {path} --dry-run shows what it would do")
        return 0
    tell(table(results.status(planned)))
    end(folder, planned, about, upload)
    show(folder, tell)
    return verdict(planned, tell)


def _folder(path, scale):
    """Of a study, given by its file or as the folder itself."""
    folder = next((one for one in (Path(path), place(path)) if one.is_dir()), None) if not remote.away(path) else None
    if folder is None:
        return spec.read(path, scale).folder
    if not (folder / results.GRID).is_file():
        raise Refused(
            f"study status: the folder {str(path)!r} has no {results.GRID}; a study's is studies/NAME or studies/NAME_SCALE"
        )
    if scale:
        raise Refused(
            f"scale = {shown(scale)}: the folder {str(path)!r} is of one scale; give the study's file, or no scale"
        )
    return folder


def end(folder, planned, about, upload=None):
    """Rebuild results.csv and report.html from the run folders, and copy all to an address, its links as they are here."""
    report.report(folder, planned, about, results.rebuild(folder, planned))
    if upload:
        root = place("").resolve()
        for one in (*(job.path for job in planned if job.path.exists()), folder):
            inside = os.path.relpath(one.resolve(), root).replace(os.sep, "/")
            inside = f"runs/{one.name}" if inside.startswith("..") else inside
            remote.send(one, f"{upload.rstrip('/')}/{inside}")


def show(folder, tell):
    """Print what came out of the runs that are done."""
    from mimlab.figures.studies import varied

    rows = results.read(folder)
    found = results.outcome(rows, varied(rows))
    if found:
        tell(table(found))


def verdict(planned, tell):
    """Say what came out; 1 where something failed or was stopped, with a list."""
    states = {job.name: job_state(job) for job in planned}
    tell(said(results.counts(planned)))
    bad = [(name, state) for name, state in states.items() if state.state in ("failed", "stopped")]
    for name, state in bad:
        tell(one_line(f"{state.state}: {name}: {state.said}"))
    if any(state.state == "failed" for _, state in bad):
        tell("--retry does the failed ones again")
    return 1 if bad else 0


def said(counts):
    return ", ".join(f"{counts[state]} {state}" for state in STATES if state in counts)


def total(planned, measured, at_once):
    """Time of all that is left, as far as it is known."""
    times = [measured.job(job) for job in planned]
    seconds, unknown = sum(time for time, _ in times) / at_once, sum(count for _, count in times)
    told = f"{len(planned)} runs, {said(results.counts(planned))}; "
    told += f"about {clock(seconds)} for what is left" if seconds or not unknown else "no time known yet"
    return told + (f", without {unknown} tasks like which none has run" if unknown and seconds else "")


def table(rows):
    """Rows as text in columns."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    most = max(WIDTH, shutil.get_terminal_size((160, 24)).columns - 100)
    cells = [[cell if len(cell) <= most else f"{cell[: most - 1]}…" for cell in row] for row in cells]
    widths = [max(len(row[k]) for row in cells) for k in range(len(names))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells)


def _cell(value):
    return "" if value is None else f"{value:g}" if isinstance(value, float) else one_line(value)
