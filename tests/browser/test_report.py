"""Reports and exports opened from disk without a network, and executed notebooks in JupyterLab, in a real browser."""

import contextlib
import fcntl
import os
import shutil
from pathlib import Path

import nbformat
import pytest
from browser.test_lab import PATIENCE, chromium, open_notebook, run, server  # noqa: F401  fixtures

import mimlab
from mimlab.config import Compare
from mimlab.notebook import export_html
from mimlab.report import report

pytestmark = pytest.mark.browser
ROOT = Path(mimlab.__file__).parent.parent


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    """Where screenshots go, to be looked at."""
    folder = Path(os.environ.get("MIMLAB_SHOTS") or tmp_path_factory.mktemp("shots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def opened(chromium, path, shot=None, before=None, **options):  # noqa: F811
    """A page without a network; whatever it asks for or complains about is an error at the end."""
    context = chromium.new_context(viewport={"width": 1150, "height": 900}, offline=True, **options)
    page, wrong = context.new_page(), []
    page.on("console", lambda told: wrong.append(told.text) if told.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: wrong.append(asked.url) if asked.url.startswith("http") else None)
    if before:
        page.add_init_script(before)
    page.goto(path.as_uri())
    yield page
    if shot:
        page.screenshot(path=shot, full_page=True)
    context.close()
    assert wrong == []


def drawn(page):
    """How many figures have their picture, once all are drawn."""
    page.wait_for_function("() => document.documentElement.dataset.drawn", timeout=60_000)
    sizes = page.evaluate(
        """() => [...document.querySelectorAll("[data-plotly] .main-svg:first-of-type")].map((svg) => {
          const { width, height } = svg.getBoundingClientRect(); return [width, height]; })"""
    )
    assert sizes and all(width > 100 and height > 50 for width, height in sizes)
    assert page.evaluate("() => document.documentElement.dataset.drawn") == str(page.locator("[data-plotly]").count())
    return page.locator(".js-plotly-plot").count()


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):  # noqa: F811
    return report([str(run.path)], tmp_path_factory.mktemp("report") / "report.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_report_opens_from_disk(written, chromium, shots, scheme):  # noqa: F811
    with opened(chromium, written, shots / f"report_{scheme}.png", color_scheme=scheme) as page:
        assert drawn(page) >= 5
        words = page.locator("[data-plotly]").evaluate_all("all => all.map((el) => el.getAttribute('aria-label'))")
        assert all(len(text) > 20 for text in words)
        ink, paper = page.evaluate(
            "() => { const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]; }"
        )
        assert ink != paper and ("255, 255, 255" in paper) == (scheme == "light")


def test_an_old_browser_is_told(written, chromium):  # noqa: F811
    with opened(chromium, written, before="delete window.DecompressionStream") as page:
        page.wait_for_selector("[data-plotly] >> text=Figures need Chrome 80")
        assert page.locator("table").count() >= 3


def test_without_scripts_text_and_tables_are_there(written, chromium, shots):  # noqa: F811
    with opened(chromium, written, shots / "report_plain.png", java_script_enabled=False) as page:
        assert page.locator("table tr").count() > 40
        assert page.locator("[data-plotly] >> text=The figure needs JavaScript").count() >= 5


@pytest.fixture(scope="module")
def executed(run, tmp_path_factory):  # noqa: F811
    """Notebooks as papermill leaves them."""
    out = tmp_path_factory.mktemp("executed")
    tiny = {"data": "emoji", "image_size": 16, "batch_size": 64, "epochs": 1, "vocab": 16, "device": "cpu"}
    given = {
        "01_masks": {"samples": 30, "images": 2},
        "03_pretrain": tiny | {"encoder_args": {"dim": 24, "depth": 2, "heads": 2}, "tokenizer": "kmeans"},
        "04_reconstructions": {"run": str(run.path), "images": 2, "samples": 16},
        "07_compare": {"runs": str(run.path), "x": "hours"},
    }
    found = {}
    for name, values in given.items():
        values = values | {"out": str(out)}
        found[name] = mimlab.execute(
            ROOT / "notebooks" / f"{name}.ipynb", values, output=out / f"{name}.ipynb", progress=False
        )
    return found


@pytest.mark.parametrize(
    ("name", "least"), [("01_masks", 7), ("03_pretrain", 5), ("04_reconstructions", 3), ("07_compare", 6)]
)
def test_an_export_is_drawn_without_a_network(executed, chromium, shots, name, least):  # noqa: F811
    path = executed[name]
    assert path.stat().st_size < 3_000_000
    html = export_html(path)
    assert html.stat().st_size < path.stat().st_size + 2_800_000
    with opened(chromium, html, shots / f"{name}.png") as page:
        assert drawn(page) >= least


def test_an_executed_notebook_shows_its_figures_in_jupyterlab(executed, server, chromium, shots):  # noqa: F811
    """Nothing is run: the renderer that plotly brings along draws what the notebook has."""
    shutil.copy(executed["07_compare"], server.folder / "seven.ipynb")
    page = chromium.new_page(viewport={"width": 1100, "height": 1400})
    open_notebook(page, server("seven.ipynb"))
    page.wait_for_selector(".jp-OutputArea .js-plotly-plot .main-svg", timeout=60_000)
    page.screenshot(path=shots / "seven_lab.png")
    page.close()


def test_a_second_notebook_follows_a_run_that_trains(run, server, chromium, shots, tmp_path):  # noqa: F811
    """Notebook 07 in JupyterLab, on a folder that another process holds and adds to."""
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(run.path / "config.json", begun)
    training = mimlab.Run.open(begun)
    training.append({"step": 1, "steps": 9, "loss": 3.0, "images_per_s": 9.0})
    node = nbformat.read(ROOT / "notebooks" / "07_compare.ipynb", as_version=4)
    cell = next(cell for cell in node.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source = Compare.cell().replace('runs = "*"', f'runs = "{begun}"')
    nbformat.write(node, server.folder / "follow.ipynb")
    page = chromium.new_page(viewport={"width": 1100, "height": 1400})
    last = """() => { const cells = [...document.querySelectorAll(".jp-CodeCell")].filter((c) => c.innerText.includes("compare.follow"));
      const plots = [...(cells.at(-1)?.querySelectorAll(".js-plotly-plot") ?? [])];
      return plots.length === 1 ? plots[0]._fullData?.at(-1).y.length : -plots.length; }"""
    lock = os.open(begun / "lock", os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        open_notebook(page, server("follow.ipynb"))
        page.evaluate(
            "() => { window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => { window.ran = true; }); }"
        )
        until(page, last, 1)
        training.append({"step": 2, "steps": 9, "loss": 2.0, "images_per_s": 9.0})
        until(page, last, 2)
        assert not page.evaluate("() => window.ran")
    finally:
        os.close(lock)
    page.wait_for_function("() => window.ran", timeout=PATIENCE, polling=300)  # the run has ended, and so has the cell
    page.screenshot(path=shots / "follow.png")
    page.close()


def until(page, what, number):
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:move-cursor-down')")
    for _ in range(PATIENCE // 500):
        page.locator(".jp-CodeCell").last.scroll_into_view_if_needed()
        if page.evaluate(what) == number:
            return
        page.wait_for_timeout(500)
    raise AssertionError(f"never {number}: {page.evaluate(what)}")
