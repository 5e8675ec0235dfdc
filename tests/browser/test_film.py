"""The training film in a real browser: it plays by itself, the slider moves it; in JupyterLab, and without a kernel."""

import shutil
import time
from pathlib import Path

import nbformat
import numpy as np
import pytest
from browser.page import browser
from browser.test_lab import open_notebook, replace_cell, server, shots  # noqa: F401  fixtures

import mimlab
from mimlab.looking import film
from mimlab.notebook import export_html
from mimlab.viewers.film import FilmView

pytestmark = pytest.mark.browser

NOTEBOOK = "notebooks/04_reconstructions.ipynb"
PATIENCE = 180_000  # ms for a kernel to start and import torch, on a busy machine


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    cfg = mimlab.Pretrain(
        method="mae", data="emoji", fraction=0.3, image_size=32, patch_size=4, epochs=5, batch_size=64, out=str(out), checkpoint_every=1, knn_every=0, lr=5e-3,
        encoder_args={"dim": 48, "depth": 2, "heads": 3}, method_args={"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 4},
    )  # fmt: skip
    return mimlab.pretrain(cfg)


@pytest.fixture(scope="module")
def chromium():
    with browser() as found:
        yield found


def frame(page):
    return int(page.locator(".mimlab-film").first.get_attribute("data-frame"))


def source(page, column="visible + filled in"):
    return page.locator(f".mimlab-film img[data-column='{column}']").first.get_attribute("src")


def until(page, condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        page.wait_for_timeout(40)


def set_slider(page, value):
    page.locator(".mimlab-film [data-role=frame]").first.evaluate(
        "(slider, value) => { slider.value = value; for (const kind of ['input', 'change']) slider.dispatchEvent(new Event(kind, { bubbles: true })); }",
        value,
    )


def plays(page, run, shots, name):  # noqa: F811
    """Every control, checked on what is shown."""
    page.wait_for_selector(".mimlab-film[data-ready]", timeout=PATIENCE)
    page.locator(".mimlab-film").first.scroll_into_view_if_needed()
    steps, step = film.read(run).steps, page.locator(".mimlab-film [data-role=step]").first
    assert frame(page) == len(steps) - 1 and step.text_content() == f"step {steps[-1]:,} of {steps[-1]:,}"
    seen = []
    for place in range(len(steps)):
        set_slider(page, place)
        assert frame(page) == place and step.text_content().startswith(f"step {steps[place]:,} of")
        seen.append(source(page))
    assert len(set(seen)) == len(steps)
    loaded = page.locator(".mimlab-film").first.locator("img").evaluate_all("all => all.map((i) => i.naturalWidth)")
    until(page, lambda: min(loaded) > 0)
    play = page.locator(".mimlab-film [data-role=play]").first
    page.locator(".mimlab-film [data-role=speed]").first.select_option("4")
    play.click()  # at the end: it begins anew
    assert "Pause" in play.text_content()
    places = set()
    until(page, lambda: places.add(frame(page)) or places == set(range(len(steps))))  # by itself, and round again
    until(page, lambda: frame(page) == 1)
    play.click()
    stopped = frame(page)
    page.screenshot(path=shots / f"film-{name}.png")
    page.wait_for_timeout(900)
    assert frame(page) == stopped and source(page) == seen[stopped] and "Play" in play.text_content()
    set_slider(page, len(steps) - 1)


def test_a_page_of_its_own_plays_without_network(run, chromium, shots, tmp_path):  # noqa: F811
    page, outside, problems = chromium.new_page(viewport={"width": 1000, "height": 800}), [], []
    page.on("request", lambda request: outside.append(request.url) if request.url.startswith("http") else None)
    page.on("console", lambda line: problems.append(line.text) if line.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(FilmView(film.read(run)).save(tmp_path / "film.html").as_uri())
    plays(page, run, shots, "page")
    for dark in ("#111111", "#ffffff"):
        page.evaluate("(colour) => { document.body.style.background = colour; }", dark)
    page.evaluate(
        """() => { for (const [name, value] of Object.entries({ 'layout-color0': '#111', 'layout-color2': '#424242',
        'ui-font-color1': '#fff', 'ui-font-color2': '#bbb', 'border-color1': '#616161' }))
        document.documentElement.style.setProperty('--jp-' + name, value); document.body.style.background = '#111'; }"""
    )
    page.screenshot(path=shots / "film-dark.png")
    page.set_viewport_size({"width": 420, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    page.screenshot(path=shots / "film-narrow.png")
    assert outside == [] and problems == []
    page.close()


def test_the_keyboard_moves_it_and_a_run_without_pictures_says_so(run, chromium, shots, tmp_path):  # noqa: F811
    shown = film.read(run)
    none = shown._replace(filled=None, mask=None, note="this run predicts no picture")
    page = chromium.new_page(viewport={"width": 800, "height": 700})
    page.goto(FilmView(none).save(tmp_path / "film.html").as_uri())
    page.wait_for_selector(".mimlab-film[data-ready]")
    heads = page.locator(".mimlab-film .head").all_text_contents()
    assert heads == ["image", "attention", "features"]
    assert page.locator(".mimlab-film [data-role=note]").text_content() == "this run predicts no picture"
    page.locator(".mimlab-film [data-role=frame]").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert frame(page) == 1
    size = page.locator(".mimlab-film img").evaluate_all("all => all.map((i) => [i.clientWidth, i.clientHeight])")
    assert np.ptp(np.array(size), axis=0).max() <= 1  # a map of cells is as large as the image
    page.close()


@pytest.fixture(scope="module")
def executed(run):
    return mimlab.execute(
        Path(mimlab.__file__).parent.parent / NOTEBOOK, {"run": str(run.path), "images": 2, "samples": 8}
    )


def test_notebook_04_exported_as_html(executed, run, chromium, shots):  # noqa: F811
    outputs = [
        out.data["text/html"]
        for cell in nbformat.read(executed, as_version=4).cells
        for out in cell.get("outputs", ())
        if "mimlab-film" in out.get("data", {}).get("text/html", "")
    ]
    assert len(outputs) == 1 and len(outputs[0]) < 1_000_000
    page, outside = chromium.new_page(viewport={"width": 1100, "height": 1000}), []
    page.on("request", lambda request: outside.append(request.url) if request.url.startswith("http") else None)
    page.goto(export_html(executed).as_uri())
    plays(page, run, shots, "export")
    assert outside == []
    page.close()


def test_notebook_04_in_jupyterlab(server, run, chromium, shots):  # noqa: F811
    page = chromium.new_page(viewport={"width": 1100, "height": 1400})
    open_notebook(page, server(NOTEBOOK))
    replace_cell(page, 1, f'run = "{run.path}"\nimages = 2\nsamples = 8')
    page.evaluate(
        "() => { window.ran = false; window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => { window.ran = true; }); }"
    )
    page.wait_for_function("() => window.ran", timeout=PATIENCE)
    plays(page, run, shots, "lab")
    page.close()


def test_the_executed_notebook_plays_in_jupyterlab_without_running(executed, server, run, chromium, shots):  # noqa: F811
    shutil.copy(executed, server.folder / "executed.ipynb")
    page = chromium.new_page(viewport={"width": 1100, "height": 1400})
    open_notebook(page, server("executed.ipynb"))
    page.locator(".jp-Notebook").first.evaluate("(notebook) => notebook.scrollTo(0, notebook.scrollHeight)")
    plays(page, run, shots, "executed")
    page.close()
