"""The table, the estimate, the page, the live view and the notebooks: made from run folders alone."""

import json
from pathlib import Path

import nbformat
import pytest
import run_cases

import mimlab
from mimlab.config import Scenes, Study
from mimlab.errors import Refused
from mimlab.study import command, estimate, plan, results, spec
from mimlab.study.state import job_state
from mimlab.viewers import study as viewer

ROOT = Path(mimlab.__file__).parent.parent
GRID = """
name: data_size
about: A test & nothing more
base: {data: emoji, image_size: 16, patch_size: 4, encoder_args: {dim: 24, depth: 1, heads: 2}, vocab: 16, epochs: 2, batch_size: 64}
axes: {method: [mae], fraction: [0.5, 1.0]}
seeds: 2
scratch: true
evaluations:
  - {evaluation: finetune, fraction: 1.0, seeds: 2}
  - {evaluation: knn, fraction: 1.0, seeds: 1}
scale: {cpu: {}}
"""


@pytest.fixture
def study(here):
    """Six runs: one trained and evaluated, one evaluated in part, one failed, one at work, a scratch one done."""
    (here / "s.yaml").write_text(GRID)
    found = spec.read("s.yaml")
    jobs = plan.plan(found)
    jobs = jobs[2:] + jobs[:2]  # the baseline last, in these tests
    results.keep(found.folder, found, jobs)
    for job in (jobs[0], jobs[1], jobs[4]):
        finish(job)
    evaluate(jobs[0], 1, [50.0, 52.0])
    evaluate(jobs[0], 2, [33.0])
    evaluate(jobs[1], 1, [60.0, 61.0])
    evaluate(jobs[4], 1, [40.0, 41.0])
    evaluate(jobs[4], 2, [20.0])
    failed = jobs[1].tasks[2]
    failed.path.mkdir(parents=True)
    (failed.path / "failed.json").write_text(json.dumps({"said": "ValueError: k\nmore"}))
    (failed.path / "evaluate.failed.ipynb").write_text("{}")
    jobs[2].path.mkdir(parents=True)
    (jobs[2].path / "config.json").write_text(json.dumps({"settings": jobs[2].settings, "images": 682}))
    row = {"step": 7, "steps": 20, "loss": 0.5, "images_per_s": 100.0, "seconds_left": 62}
    (jobs[2].path / "metrics.jsonl").write_text(json.dumps(row) + '\n{"step": 8, "st')
    return found, jobs


def finish(job):
    job.path.mkdir(parents=True)
    images = round(682 * job.settings["fraction"])
    (job.path / "config.json").write_text(json.dumps({"settings": job.settings, "images": images}))
    row = {"step": 10, "steps": 10, "images_per_s": 160.0, "loss": 1.0}
    (job.path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    run_cases.finish(job.path)
    (job.path / "pretrain.ipynb").write_text("{}")


def evaluate(job, number, values):
    task = job.tasks[number]
    task.path.parent.mkdir(exist_ok=True)
    found = {"top1": sum(values) / len(values), "values": values, "chance": 20.0, "k": 5, "flag": True, "list": [1]}
    task.path.with_name(f"{task.name}.json").write_text(json.dumps({"results": {"after mae": found}, "seconds": 30.0}))


def test_the_table_has_a_row_a_run_and_evaluation_and_reads_back(study):
    found, jobs = study
    rows = results.rebuild(found.folder, jobs)
    assert len(rows) == 6 * 2
    first, knn, second, failed = rows[:4]
    assert (first["method"], first["fraction"], first["seed"], first["state"]) == ("mae", 0.5, 0, "done")
    assert (first["top1"], first["values"], first["k"], first["start"]) == (51.0, "50.0;52.0", 5, "after mae")
    assert "flag" not in first and "list" not in first
    assert first["hours"] == round(10 * 64 / 160 / 3600, 5) and first["images"] == 341
    assert knn["evaluation"].startswith("knn-") and knn["top1"] == 33.0
    assert (second["state"], second["top1"]) == ("failed", 60.5)
    assert failed["said"] == f"{failed['evaluation']}: ValueError: k" and "top1" not in failed
    scratch = [row for row in rows if row.get("start") == "scratch"]
    assert [row["top1"] for row in scratch] == [40.5, 20.0] and scratch[0]["method"] == "none"
    read = results.read(found.folder)
    assert [{k: v for k, v in row.items() if v is not None} for row in read] == [
        {k: v for k, v in row.items() if v not in (None, "")} for row in rows
    ]
    assert results.read(found.folder.parent) == []


def test_the_loss_of_the_first_and_of_the_last_twenty_steps(study):
    """Each line is the mean since the one before. DINO's distance stands beside its loss; the untrained encoder has none."""
    _, jobs = study
    lines = [{"step": 0, "tokenizer_used": 3}]
    for step in (10, 20, 30, 40, 45):
        lines.append({"step": step, "loss": 100.0 - step, "kl": step / 10, "images_per_s": 64.0 if step < 45 else 32.0})
    text = "".join(json.dumps(row) + "\n" for row in lines)
    for job in (jobs[0], jobs[4]):
        (job.path / "metrics.jsonl").write_text(text)
    rows = results.rows(jobs)
    first, scratch = rows[0], next(row for row in rows if row.get("start") == "scratch")
    assert (first["loss_first"], first["loss_last"]) == (85.0, 57.5) and first["kl_last"] == 4.25
    assert first["hours"] == round((40 + 10) / 3600, 5) and "loss_first" not in scratch
    shown = results.outcome(rows, ["method", "fraction"])
    assert {row["method"] for row in shown} == {"mae", "none"} and len(shown) == 4
    assert shown[0]["minutes"] == round(60 * first["hours"], 2) and shown[0]["top1"] == 51.0
    told = []
    results.rebuild(study[0].folder, jobs)
    command.show(study[0].folder, told.append)
    head, *lines = told[0].splitlines()
    columns = ["method", "fraction", "steps", "minutes", "loss_first", "loss_last", "kl_first", "kl_last"]
    assert head.split() == [*columns, "evaluation", "start", "top1"] and len(lines) == 4
    command.show(study[0].folder.with_name("none"), told.append)  # nothing to show
    assert len(told) == 1
    few = [{"step": 50, "loss": 3.0}]
    assert results.ends(few, "loss") == (3.0, 3.0) and results.ends([], "loss") == (None, None)


def test_the_status_says_where_each_is(study):
    _, jobs = study
    assert results.counts(jobs) == {"done": 2, "failed": 1, "stopped": 1, "queued": 2}
    assert job_state(jobs[2]).said == "pretrain: step 7 of 20, loss 0.5, 0:01:02 left"
    assert job_state(jobs[1])[1:3] == (2, 3)


def test_the_estimate_is_of_runs_alike(study):
    found, jobs = study
    measured = estimate.Measured(found.out)
    speed = 160.0  # the median of 160, 160, and 100 of the run at work
    assert measured.task(jobs[3], jobs[3].tasks[0]) == pytest.approx(2 * (682 // 64) * 64 / speed)
    assert measured.task(jobs[2], jobs[2].tasks[0]) == pytest.approx((20 - 7) * 64 / speed)
    assert measured.job(jobs[3]) == (pytest.approx(20 * 64 / speed + 60.0), 0)
    assert measured.job(jobs[1]) == (30.0, 0)  # what is left of it
    assert estimate.Measured("nowhere").job(jobs[3]) == (0, 3)


def test_the_page_and_the_view_show_the_same_states(study, monkeypatch, capsys):
    found, jobs = study
    command.end(found.folder, jobs, found.about)
    page = (found.folder / "report.html").read_text()
    assert "A test &amp; nothing more" in page and "http://" not in page.split('id="mimlab-plotly"')[0]
    links = [part.partition('"')[0] for part in page.split('<a href="')[1:]]
    assert len(links) == 4 and all((found.folder / link).is_file() for link in links)
    assert "(failed)</a>" in page
    shown = viewer.view(jobs)
    assert "2 done, 1 stopped, 2 queued, 1 failed" in shown
    assert (
        shown.index("failed</td>") < shown.index("stopped</td>") < shown.index("queued</td>") < shown.index("done</td>")
    )
    assert viewer.view([]) == "<p>Not started yet.</p>"
    monkeypatch.setenv("MIMLAB_BATCH", "1")
    viewer.follow(found.folder)  # nobody watches: ends at once
    assert "HTML" in capsys.readouterr().out


def test_the_settings_of_the_notebooks(study):
    assert Study().resolved().folder() == Path("studies/data_size_cpu")
    assert Scenes().resolved().folder() == Path("studies/scenes_cpu")  # not started: shown as empty
    with pytest.raises(Refused, match=r"study = 'data_siz_cpu' .did you mean 'data_size_cpu'"):
        Study(study="data_siz_cpu").resolved()


@pytest.mark.parametrize("name", ["08_study_data_size", "09_study_scenes"])
def test_the_notebooks_show_what_there_is(study, name):
    """One on a study with results, the other on one that was never started."""
    found, jobs = study
    results.rebuild(found.folder, jobs)
    path = mimlab.execute(ROOT / "notebooks" / f"{name}.ipynb", {})
    node = nbformat.read(path, as_version=4)
    figures = [
        out.data["application/vnd.plotly.v1+json"]
        for cell in node.cells
        for out in cell.get("outputs", ())
        if "application/vnd.plotly.v1+json" in out.get("data", {})
    ]
    if name.startswith("08"):
        assert path == Path("studies/data_size_cpu/study_data_size.ipynb")
        (line,) = (trace for trace in figures[1]["data"] if trace.get("name") == "mae" and "lines" in trace["mode"])
        assert line["x"] == [0.5] and line["y"] == [(50 + 52 + 60 + 61) / 4]
        assert {trace.get("name") for trace in figures[0]["data"]} > {"splitmask, the paper", "mae"}
    else:
        assert "run the study" in json.dumps(figures[0]) and "Not started yet" in path.read_text()


@pytest.mark.slow
def test_a_table_of_a_thousand_runs_loads_and_plots_in_seconds(here):
    """CPU time, since other processes may be at work; imports are done, as in a notebook."""
    import time

    from mimlab.figures import studies, tables

    (here / "big.yaml").write_text(
        "base: {data: emoji, image_size: 16, patch_size: 4, encoder_args: {dim: 24, depth: 1, heads: 2}}\n"
        "axes: {method: [mae, simmim, supervised, beit], fraction: [0.01, 0.1, 0.2, 0.5, 1.0]}\n"
        "seeds: 50\nevaluations: [{evaluation: finetune, fraction: 1.0, seeds: 2}]\n"
    )
    found = spec.read("big.yaml")
    jobs = plan.plan(found)
    assert len(jobs) == 1000
    for number, job in enumerate(jobs):
        finish(job)
        evaluate(job, 1, [50.0 + number % 7, 51.0 + number % 5])
    results.keep(found.folder, found, jobs)
    results.rebuild(found.folder, jobs)
    began = time.process_time()
    rows = results.read(found.folder)
    figures = [studies.against(rows, "fraction", evaluation="finetune", log=True), studies.beside(rows, "fraction")]
    figures += [studies.overview(rows), tables.table(studies.summary(rows))]
    assert all(figure.to_json() for figure in figures)
    took = time.process_time() - began
    assert len(rows) == 1000 and len(studies.summary(rows)) == 20
    assert took < 3, f"{took:.1f} s"
    began = time.process_time()
    assert "1000 done" in viewer.view(results.planned(found.folder)[1])
    assert time.process_time() - began < 3


def test_columns_are_those_of_the_fullest_combination_though_the_baseline_comes_first(study):
    from mimlab.figures import studies

    found, jobs = study
    jobs = jobs[4:] + jobs[:4]
    rows = results.rebuild(found.folder, jobs)
    assert list(rows[0])[:4] == ["method", "fraction", "seed", "run"] and rows[0]["fraction"] is None
    assert list(results.status(jobs)[0])[:4] == ["method", "fraction", "seed", "run"]
    assert studies.varied(results.read(found.folder)) == ["method", "fraction"]


def test_what_the_study_varies_stands_beside_what_an_evaluation_calls_the_same(here):
    (here / "s.yaml").write_text(GRID.replace("fraction: [0.5, 1.0]", "lr: [0.02, 0.01]").replace("scratch: true", ""))
    jobs = plan.plan(spec.read("s.yaml"))
    finish(jobs[0])
    evaluate(jobs[0], 1, [50.0, 52.0])
    file = jobs[0].tasks[1].path
    path = next(file.parent.glob("*.json"))
    content = json.loads(path.read_text())
    for result in content["results"].values():
        result["lr"] = 0.256
    path.write_text(json.dumps(content))
    row = results.rows(jobs)[0]
    assert (row["lr"], row["evaluation.lr"], row["top1"]) == (0.02, 0.256, 51.0)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'{"about": "", "jobs": [{}]}', b'{"about": "", "jobs": 3}', b"\xff", b"[" * 100_000, b'{"about": 1, "jobs": []}',
     b'{"about": "", "jobs": [{"name": "a", "folder": "b", "settings": [], "tasks": [{"kind": "k", "name": "n", "folder": "f", "notebook": "n", "parameters": {}}]}]}'],
    ids=range(10),
)  # fmt: skip
def test_a_damaged_plan_is_one_line(content, tmp_path):
    (tmp_path / "grid.json").write_bytes(content)
    with pytest.raises(Refused, match=r"grid.json is damaged .* writes it anew"):
        results.planned(tmp_path)


def test_a_ragged_table_and_long_cells_are_read(tmp_path):
    (tmp_path / "results.csv").write_text("a,b\n1\n1,2,3\n" + "x" * 200_000 + ",2\n", encoding="utf-8")
    assert [row["b"] for row in results.read(tmp_path)] == [None, 2, 2]
    (tmp_path / "results.csv").write_bytes(b"a,b\n\xff,2\n")
    with pytest.raises(Refused, match="cannot be read .* makes it anew"):
        results.read(tmp_path)
