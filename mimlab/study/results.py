"""The one table of a study: a row a combination and evaluation, made from the run folders each time.

Columns: what the study varies, `run`, `state`, `said` (why it failed), `images`, `steps`, `images_per_s`, `hours` of
training, `loss_first` and `loss_last` (means of the first and of the last `ENDS` steps, as far as `log_every` tells them apart), `evaluation`,
`start` ("scratch" for the encoder without pre-training), `values` (one a seed of the evaluation), every number that the evaluation gives
(`evaluation.lr` and the like where the study varies what has the same name),
`low` and `high` (its 95 % interval); without evaluations the last k-NN accuracy of training.
"""

import csv
import io

from mimlab import files, strict
from mimlab.errors import Refused, reason
from mimlab.run import Run, evaluation
from mimlab.study.state import FAILED, clock, failure, job_state, mark, save, task_state

FILE, GRID = "results.csv", "grid.json"
ENDS = 20  # steps
CELL = 10_000_000  # characters of a cell; csv's own limit is below what a dict of options may take
FALLING = "loss", "kl"  # and of DINO, whose loss rises while its centre forms, the distance from the teacher


def rows(jobs):
    """The rows of all jobs, in their order."""
    found, names = [], columns(jobs)
    for job in jobs:
        state = job_state(job)
        about = {"run": job.name, "state": state.state, "said": state.said if state.state == "failed" else ""}
        about |= _training(job) if job.tasks[0].kind == "pretrain" else {}
        measured = [row for task in job.tasks if task.kind == "evaluate" for row in _evaluation(task)]
        for varied in job.varied:
            scratch = {"start": "scratch"} if varied.get("method") == "none" else {}
            plain = {name: _plain(varied.get(name)) for name in names}
            for row in measured or [{}]:  # an evaluation may have a learning rate of its own where the study varies one
                own = {f"evaluation.{name}" if name in plain else name: value for name, value in row.items()}
                found.append(plain | about | own | (scratch if row.get("start") else {}))
    return found


def columns(jobs):
    """Names of all that the jobs vary, in the file's order; the baseline, which comes first, varies less."""
    fullest = sorted((varied for job in jobs for varied in job.varied), key=len, reverse=True)
    return list(dict.fromkeys(name for varied in fullest for name in varied))


def _training(job):
    """What the run logged."""
    rows = Run.at(job.path).metrics()
    row = rows[-1] if rows else {}
    trained = [one for one in rows if "images_per_s" in one]
    told = {
        "images": _images(job),
        "steps": row.get("step"),
        "images_per_s": trained[-1]["images_per_s"] if trained else None,
    }
    if trained:
        told["hours"] = round(sum(_seconds(trained, job.settings["batch_size"])) / 3600, 5)
    untrained = any(varied.get("method") == "none" for varied in job.varied)
    for name in () if untrained else FALLING:
        first, end = ends([one for one in trained if name in one], name)
        told |= {} if first is None else {f"{name}_first": first, f"{name}_last": end}
    if not any(task.kind == "evaluate" for task in job.tasks):
        told |= {name: one[name] for one in rows for name in ("knn_top1",) if name in one}
    return told


def _seconds(rows, batch):
    """What each line of training took, by its speed."""
    before = 0
    for row in rows:
        yield (row["step"] - before) * batch / row["images_per_s"]
        before = row["step"]


def ends(rows, name):
    """Means of a quantity over the first and over the last `ENDS` steps, each line being a mean since the one before;
    a line that reaches beyond counts where there is no other. (None, None) without lines."""
    if not rows:
        return None, None
    steps = [0, *(row["step"] for row in rows)]
    last = [row for row, before in zip(rows, steps, strict=False) if before >= steps[-1] - ENDS]
    first = [row for row in rows if row["step"] <= ENDS]
    parts = first or rows[:1], last or rows[-1:]
    return tuple(round(sum(row[name] for row in part) / len(part), 6) for part in parts)


def _images(job):
    try:
        return Run.at(job.path).config["images"]
    except Refused:
        return None


def _evaluation(task):
    """One row for each start of an evaluation; one that says so where there is no result."""
    about = {"evaluation": task.name}
    if (task.path / FAILED).is_file():
        return [about | {"said": f"{task.name}: {failure(task)}"}]
    if task_state(task) != "done":
        return [about]
    try:
        content = evaluation(files.load(mark(task)), mark(task))
    except (OSError, Refused) as error:
        return [about | {"said": reason(error)}]
    found = []
    for start, result in content["results"].items():
        row = about | {"start": start, "values": ";".join(map(repr, result.get("values", ())))}
        numbers = {
            name: value
            for name, value in result.items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        low, high = result.get("interval") or (None, None)
        found.append(row | numbers | {"low": low, "high": high, "seconds": content.get("seconds")})
    return found


def _plain(value):
    """A dict or list as JSON, so that a table can hold it."""
    return strict.dumps(value) if isinstance(value, (dict, list)) else value


def rebuild(folder, jobs):
    """Write results.csv of a study's folder and return its rows."""
    found = rows(jobs)
    names = list(dict.fromkeys(name for row in found for name in row))
    text = io.StringIO()
    table = csv.DictWriter(text, names, lineterminator="\n")
    table.writeheader()
    table.writerows(found)
    save(folder, FILE, text.getvalue())
    return found


def read(folder):
    """The rows of results.csv with numbers as numbers and None for nothing; [] where there is none yet."""
    csv.field_size_limit(CELL)
    try:
        with open(folder / FILE, newline="", encoding="utf-8") as file:  # cells beyond the names have none
            rows = [{name: text for name, text in row.items() if name is not None} for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        raise Refused(f"{folder / FILE} cannot be read ({error}); mimlab study status makes it anew") from None
    return [{name: _value(name, text) for name, text in row.items()} for row in rows]


def _value(name, text):
    if not text:
        return None
    if name == "values":  # several, with ; between them
        return text
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def keep(folder, spec, jobs):
    """Write grid.json: the jobs as they were planned last, for whoever looks without planning anew."""
    content = {"name": spec.name, "scale": spec.scale, "about": spec.about, "jobs": [job.dict() for job in jobs]}
    save(folder, GRID, strict.dumps(content, indent=1))


def planned(folder):
    """(about, jobs) of grid.json; ("", []) where the study was never started."""
    from mimlab.study.plan import Job

    try:
        content = files.load(folder / GRID)
        about, jobs = content["about"], [Job.read(job) for job in content["jobs"]]
        if not all(isinstance(one, dict) for job in jobs for one in (job.settings, *job.varied)):
            raise TypeError("settings that are no names with values")
        if not all(jobs) or not all(job.tasks for job in jobs) or not isinstance(about, str):
            raise TypeError("a job without tasks")
    except FileNotFoundError:
        return "", []
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused(
            f"{folder / GRID} is damaged ({type(error).__name__}: {error}); mimlab study FILE plans and writes it anew"
        ) from None
    return about, jobs


def outcome(rows, names):
    """Of the rows of all that is done, what a terminal has room for; `names` are the columns that tell runs apart."""
    done = [row for row in rows if row.get("state") == "done"]
    told = [
        *(f"{name}_{end}" for name in FALLING for end in ("first", "last")),
        "evaluation",
        "start",
        "top1",
        "knn_top1",
    ]
    told = [name for name in told if any(row.get(name) is not None for row in done)]
    found = []
    for row in done:
        minutes = {"minutes": round(60 * row["hours"], 2) if row.get("hours") else None}
        found.append(
            {name: row.get(name) for name in (*names, "steps")} | minutes | {name: row.get(name) for name in told}
        )
    return found


def status(jobs, measured=None):
    """One row a job for a table: what it varies, its state, and where it is."""
    found, names = [], columns(jobs)
    for job in jobs:
        state = job_state(job)
        row = {name: _plain(job.varied[0].get(name)) for name in names}
        if len(job.varied) > 1:
            row["also"] = f"{len(job.varied) - 1} more alike"
        row |= {"run": job.name, "state": state.state, "tasks": f"{state.done} of {state.of}"}
        if measured is not None and state.state != "done":
            seconds, unknown = measured.job(job)
            known = f"{clock(seconds)}{' and more' if unknown else ''}" if seconds or not unknown else "unknown"
            row["time"] = known
        found.append(row | ({"where": state.said} if state.said else {}))
    return found


def counts(jobs):
    """{state: how many jobs}, those that there are."""
    states = [job_state(job).state for job in jobs]
    return {state: states.count(state) for state in dict.fromkeys(states)}
