"""A study's page, opened from disk without a network, in a real browser: figures are drawn, every notebook is linked."""

import json
from pathlib import Path
from urllib.parse import unquote, urlparse

import nbformat
import pytest
from browser.test_lab import chromium  # noqa: F401  a fixture
from browser.test_report import drawn, opened, shots  # noqa: F401  a fixture
from run_cases import finish

from mimlab.study import command, plan, results, spec

pytestmark = pytest.mark.browser
GRID = """
name: data_size
about: One run of three has failed
base: {data: emoji, image_size: 16, patch_size: 4, encoder_args: {dim: 24, depth: 1, heads: 2}, vocab: 16, epochs: 2, batch_size: 64}
axes: {method: [mae, beit, simmim]}
evaluations: [{evaluation: finetune, fraction: 1.0, seeds: 3}]
"""


def notebook(path, said):
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(said)]), path)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The folder of a study that has ended: two runs done and evaluated, one failed; five notebooks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MIMLAB_ROOT", raising=False)
    (tmp_path / "s.yaml").write_text(GRID)
    asked = spec.read("s.yaml")
    jobs = plan.plan(asked)
    for job in jobs:
        notebook(job.tasks[0].output, job.name)
        (job.path / "config.json").write_text(json.dumps({"settings": job.settings, "images": 682}))
        (job.path / "metrics.jsonl").write_text(
            json.dumps({"step": 20, "steps": 20, "loss": 1.0, "images_per_s": 99.0}) + "\n"
        )
        finish(job.path)
    for job, top1 in zip(jobs[:2], ([50.0, 52.0, 51.0], [40.0, 43.0, 41.0]), strict=True):
        task = job.tasks[1]
        notebook(task.output, task.name)
        found = {"top1": sum(top1) / 3, "values": top1, "chance": 20.0}
        task.path.with_name(f"{task.name}.json").write_text(
            json.dumps({"results": {"after it": found}, "seconds": 3.0})
        )
    failed = jobs[2].tasks[1]
    notebook(failed.output.with_name("evaluate.failed.ipynb"), "it failed")
    (failed.path / "failed.json").write_text(json.dumps({"said": "ValueError: told to"}))
    results.keep(asked.folder, asked, jobs)
    assert command.study("s.yaml", tell=lambda line: None) == 1
    return asked.folder.resolve()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_opens_from_disk_and_links_every_notebook(chromium, study, shots, scheme):  # noqa: F811
    with opened(chromium, study / "report.html", shots / f"study-{scheme}.png", color_scheme=scheme) as page:
        assert drawn(page) == 1
        links = page.eval_on_selector_all("a[href$='.ipynb']", "found => found.map((a) => [a.href, a.textContent])")
        text = page.inner_text("body")
    assert "ValueError: told to" in text and "51" in text
    assert sorted(said.partition("-")[0] for _, said in links) == [
        "finetune",
        "finetune",
        "finetune",
        *["pretrain"] * 3,
    ]
    for address, said in links:
        assert urlparse(address).scheme == "file"
        node = nbformat.read(Path(unquote(urlparse(address).path)), as_version=4)
        assert node.cells[0].source == "it failed" if "failed" in said else node.cells[0].source
