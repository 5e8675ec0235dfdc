"""Notebook 01 in JupyterLab, in a real browser: every control that a hand would move, checked on the pixels shown."""

import io
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

import nbformat
import numpy as np
import pytest
from browser.page import browser, cells, needed, pixels, set_ratio, shown
from PIL import Image

import mimlab
from mimlab import masks
from mimlab.distributed import generator_for
from mimlab.notebook import export_html

pytestmark = pytest.mark.browser

ROOT = Path(mimlab.__file__).parent.parent
GREY = 128
PATIENCE = 120_000  # ms for a kernel to start and import torch, on a busy machine


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of seconds, of the size that a laptop trains, with the weights of two checkpoints."""
    out = tmp_path_factory.mktemp("runs")
    cfg = mimlab.Pretrain(
        method="mae", data="emoji", image_size=64, patch_size=4, epochs=2, batch_size=64, out=str(out), checkpoint_every=1, keep_weights=True,
        knn_every=0, encoder_args={"dim": 96, "depth": 4, "heads": 3}, method_args={"decoder_dim": 64, "decoder_depth": 2, "decoder_heads": 4},
    )  # fmt: skip
    return mimlab.pretrain(cfg)


@pytest.fixture(scope="module")
def server(tmp_path_factory, run):
    """JupyterLab on a copy of the notebooks, on this machine only."""
    folder, token = tmp_path_factory.mktemp("lab"), secrets.token_hex(8)
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    port = _free()
    command = [
        sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}", "--expose-app-in-browser", "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    environment = os.environ | {
        "MIMLAB_ROOT": str(run.path.parent.parent),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
    }
    environment |= {
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
    }
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        _wait(lambda: urlopen(f"http://127.0.0.1:{port}/api?token={token}").status == 200, (folder / "log"))
        yield Server(folder, f"http://127.0.0.1:{port}/doc/tree", f"?token={token}&reset")
    finally:
        process.terminate()
        process.wait(30)


class Server(NamedTuple):
    folder: Path
    start: str
    end: str

    def __call__(self, notebook):
        return f"{self.start}/{notebook}{self.end}"


def _free():
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _wait(ready, log, seconds=90):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if ready():
                return
        except OSError:
            pass
        time.sleep(0.3)
    raise TimeoutError(log.read_text()[-2000:])


@pytest.fixture(scope="module")
def chromium():
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def lab(server, chromium):
    """Notebook 01 open, its first cells run: the explorer is there."""
    page = chromium.new_page(viewport={"width": 1100, "height": 1400})
    open_notebook(page, server("notebooks/01_masks.ipynb"))
    run_until_explorer(page)
    yield page
    page.close()


def open_notebook(page, address):
    page.goto(address, wait_until="domcontentloaded", timeout=PATIENCE)
    page.wait_for_selector(".jp-Notebook .jp-Cell", timeout=PATIENCE)
    page.wait_for_function(
        "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
        timeout=PATIENCE,
    )


def run_until_explorer(page):
    """Run all cells, and wait until the kernel has nothing left to do."""
    page.evaluate(
        "() => { window.ran = false; window.jupyterapp.commands.execute('notebook:run-all-cells').then(() => { window.ran = true; }); }"
    )
    page.wait_for_function("() => window.ran", timeout=PATIENCE)
    page.wait_for_selector(".mimlab-masks[data-ready]", timeout=PATIENCE)
    page.locator(".mimlab-masks").first.scroll_into_view_if_needed()


@pytest.fixture(scope="module", autouse=True)
def shots(tmp_path_factory):
    """Where screenshots go, to be looked at."""
    folder = Path(os.environ.get("MIMLAB_SHOTS") or tmp_path_factory.mktemp("shots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def first(lab):
    return lab.locator(".mimlab-masks").first


def settled(lab, seconds=20):
    """The mask of the first panel when it has stayed the same for a while."""
    end, before = time.monotonic() + seconds, None
    while time.monotonic() < end:
        now = shown(lab)
        if before is not None and np.array_equal(now, before):
            return now
        before = now
        lab.wait_for_timeout(150)
    raise AssertionError("the mask keeps changing")


def want(name, percent, seed=0, grid=(14, 14), **args):
    return masks.sample(name, 1, grid, percent / 100, generator_for(seed, 0, "mask"), **args)[0].numpy()


def hides(lab, mask, grid=(14, 14)):
    """The canvas is grey where the mask hides, and nowhere else as a whole patch."""
    image = pixels(lab)
    hidden = cells(mask, grid, image.shape[:2])
    assert (image[hidden] == GREY).all()
    assert (image[~hidden] == GREY).all(-1).mean() < 0.02


def test_moving_the_ratio(lab, shots):
    for percent in (25, 50, 75):
        set_ratio(lab, percent)
        mask = shown(lab)
        assert np.array_equal(mask, want("blockwise", percent))
        hides(lab, mask)
    lab.screenshot(path=shots / "ratio.png")


def test_changing_the_strategy_and_its_options(lab, shots):
    set_ratio(lab, 50)
    choose(lab, "grid")
    assert np.array_equal(settled(lab), want("grid", 50))
    option(lab, "unit", 3)
    expected = want("grid", 50, unit=3)
    lab.wait_for_function(
        "text => document.querySelector('[data-role=masked]').dataset.mask === text", arg=text(expected), timeout=10_000
    )
    hides(lab, expected)
    first(lab).locator("[data-role=next]").click()
    lab.wait_for_function(
        "text => document.querySelector('[data-role=masked]').dataset.mask === text",
        arg=text(want("grid", 50, seed=1, unit=3)), timeout=10_000,
    )  # fmt: skip
    lab.screenshot(path=shots / "strategy.png")
    first(lab).locator("[data-role=seed]").fill("0")


def text(mask):
    return "".join("01"[int(value)] for value in mask)


def choose(lab, name, panel=0):
    first(lab).locator("[data-role=mask]").nth(panel).select_option(name)


def option(lab, name, value):
    control = first(lab).locator(f"[data-role=option][data-name={name}]").first
    control.evaluate(
        "(control, value) => { control.value = value; for (const kind of ['input', 'change']) "
        "control.dispatchEvent(new Event(kind, { bubbles: true })); }",
        value,
    )


def upload(lab, name, content):
    with lab.expect_file_chooser() as chosen:
        lab.get_by_role("button", name="Your image").first.click()
    chosen.value.set_files({"name": name, "mimeType": "image/png", "buffer": content})


def test_uploading_an_image(lab, shots, tmp_path):
    choose(lab, "random")
    set_ratio(lab, 50)
    flat = np.zeros((60, 90, 3), np.uint8)
    flat[:, :45], flat[:, 45:] = (200, 30, 30), (30, 30, 200)
    file = io.BytesIO()
    Image.fromarray(flat).save(file, "PNG")
    upload(lab, "two.png", file.getvalue())
    lab.wait_for_function(
        """() => { const c = document.querySelector('[data-role=masked]'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
                   let red = 0; for (let k = 0; k < d.length; k += 4) red += d[k] > 180 && d[k + 2] < 60; return red > 5000; }""",
        timeout=20_000,
    )
    mask = settled(lab)
    assert np.array_equal(mask, want("random", 50))
    image = pixels(lab)
    visible = ~cells(mask, (14, 14), image.shape[:2])
    left = np.zeros_like(visible)
    left[:, :100] = True
    assert np.abs(image[visible & left].astype(int) - (200, 30, 30)).max() < 12
    lab.screenshot(path=shots / "upload.png")
    upload(lab, "x.png", b"no picture")
    lab.wait_for_function("() => /x.png/.test(document.querySelector('[data-role=said]').textContent)", timeout=10_000)
    set_ratio(lab, 60)  # and it lives on
    assert shown(lab).sum() == masks.count(196, 0.6)
    lab.screenshot(path=shots / "refused_upload.png")


def test_dragging_on_patches(lab, shots):
    set_ratio(lab, 50)
    before = settled(lab)
    canvas = first(lab).locator("[data-role=masked]").first
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    side = box["width"] / 14
    lab.mouse.move(box["x"] + side / 2, box["y"] + side * 3.5)
    lab.mouse.down()
    lab.mouse.move(box["x"] + side * 13.5, box["y"] + side * 3.5, steps=4)
    lab.mouse.up()
    after = shown(lab)
    row = after.reshape(14, 14)[3]
    assert (row == ~before.reshape(14, 14)[3, 0]).all()  # the stroke has the value of its first patch
    rest = np.ones((14, 14), bool)
    rest[3] = False
    assert np.array_equal(after.reshape(14, 14)[rest], before.reshape(14, 14)[rest])
    lab.screenshot(path=shots / "painted.png")
    first(lab).locator("[data-role=clear]").click()
    assert np.array_equal(settled(lab), before)


def test_comparing_six(lab, shots):
    names = ["random", "blockwise", "grid", "stripes", "noise", "multiblock"]
    for _ in names[1:]:
        first(lab).locator("[data-role=add]").click()
    for panel, name in enumerate(names):
        choose(lab, name, panel)
    for percent in (40, 70):
        set_ratio(lab, percent)
        lab.wait_for_timeout(300)
        for panel, name in enumerate(names):
            assert np.array_equal(shown(lab, panel), want(name, percent)), name
    lab.screenshot(path=shots / "six.png")
    for _ in names[1:]:
        first(lab).locator("[data-role=remove]").last.click()


def test_a_size_that_does_not_fit_is_one_line(lab, shots):
    box = lab.locator(".widget-text input[type=number], .widget-text input").filter(has_not=lab.locator("xx"))
    patch = lab.get_by_label("Patch px").first if lab.get_by_label("Patch px").count() else box.nth(1)
    patch.fill("15")
    patch.press("Enter")
    lab.wait_for_function("() => /15/.test(document.querySelector('[data-role=said]').textContent)", timeout=10_000)
    assert lab.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    lab.screenshot(path=shots / "refused_size.png")
    patch.fill("16")
    patch.press("Enter")


@pytest.mark.slow  # milliseconds, so on a quiet machine
def test_another_seed_through_the_kernel_is_quick(lab):
    """A seed that was not sent: from the key to the changed DOM in under 60 ms."""
    choose(lab, "blockwise")
    times = lab.evaluate(
        """async () => {
          const seed = document.querySelector('[data-role=seed]'), canvas = document.querySelector('[data-role=masked]'), times = [];
          for (let k = 0; k < 25; k++) {
            const before = canvas.dataset.mask, start = performance.now();
            seed.value = 1000 + k;
            for (const kind of ['input', 'change']) seed.dispatchEvent(new Event(kind, { bubbles: true }));
            while (canvas.dataset.mask === before && performance.now() - start < 3000) await new Promise((go) => setTimeout(go, 1));
            times.push(performance.now() - start);
            await new Promise((go) => setTimeout(go, 60));
          }
          return times.sort((a, b) => a - b);
        }"""
    )
    print(f"another seed: {needed(times):.1f} ms, median {times[12]:.1f} ms, slowest {times[-1]:.1f} ms")
    assert times[0] < 60 and times[12] < 180, times  # the kernel shares its cores with JupyterLab and the page
    assert np.array_equal(settled(lab), want("blockwise", 70, seed=1024))
    first(lab).locator("[data-role=seed]").fill("0")


@pytest.mark.slow  # milliseconds, so on a quiet machine
def test_the_ratio_follows_the_hand(lab):
    """DOM changed within the event (budget 5 ms), painted (20 ms), 30 frames a second while dragging."""
    found = lab.evaluate(
        """async () => {
          const slider = document.querySelector('[data-role=ratio]'), canvas = document.querySelector('[data-role=masked]');
          const frame = () => new Promise((go) => requestAnimationFrame(go));
          const move = (value) => { slider.value = value; slider.dispatchEvent(new Event('input', { bubbles: true })); };
          const dom = [], painted = [];
          for (let k = 0; k < 50; k++) {
            await frame();
            const before = canvas.dataset.mask, start = performance.now();
            move(20 + (k * 7) % 60);
            if (canvas.dataset.mask === before) throw new Error('not changed in the event');
            dom.push(performance.now() - start);
            await frame(); await new Promise((go) => { const c = new MessageChannel(); c.port1.onmessage = go; c.port2.postMessage(0); });
            painted.push(performance.now() - start);
          }
          const gaps = [];
          for (let last = performance.now(); gaps.length < 60; ) {
            move(20 + gaps.length); await frame();
            gaps.push(performance.now() - last); last = performance.now();
          }
          const lag = canvas.dataset.hidden; await frame();
          return { dom, painted, gaps, settled: lag === canvas.dataset.hidden };
        }"""
    )
    dom, painted, gap = (needed(found[name]) for name in ("dom", "painted", "gaps"))
    print(f"a ratio: {dom:.2f} ms to changed DOM, {painted:.1f} ms to painted, {1000 / gap:.0f} frames/s")
    assert dom < 5 and painted < 20 and gap < 1000 / 30 and found["settled"]


def test_a_run_fills_in_what_is_hidden(server, chromium, run, shots):
    page = chromium.new_page(viewport={"width": 1100, "height": 1400})
    open_notebook(page, server("notebooks/01_masks.ipynb"))
    replace_cell(page, 1, f'run = "{run.path}"')
    run_until_explorer(page)
    within(page, NUMBERS, "/dB/.test(text)", 60)
    page.locator(".mimlab-masks").first.scroll_into_view_if_needed()
    within(
        page, FILLED, "stale === '0' && images.length > 0 && images.every((i) => i.width === 64 && i.height > 100)", 60
    )
    page.wait_for_timeout(500)  # pictures fade in
    page.screenshot(path=shots / "run.png")
    times = page.evaluate(
        """async () => {
          const slider = document.querySelector('[data-role=ratio]'), times = [];
          const numbers = () => document.querySelector('[data-role=numbers]').textContent;
          for (let k = 0; k < 9; k++) {
            const before = numbers(), start = performance.now();
            slider.value = 30 + 5 * k;
            for (const kind of ['input', 'change']) slider.dispatchEvent(new Event(kind, { bubbles: true }));
            while (numbers() === before && performance.now() - start < 5000) await new Promise((go) => setTimeout(go, 5));
            times.push(performance.now() - start);
          }
          return times.sort((a, b) => a - b);
        }"""
    )
    print(f"reconstruction after release: {needed(times):.0f} ms, median {times[4]:.0f} ms, slowest {times[-1]:.0f} ms")
    assert needed(times) < 400, times
    page.close()


NUMBERS = "() => ({ text: document.querySelector('[data-role=numbers]')?.textContent ?? '' })"
FILLED = """() => { const panel = document.querySelector('[data-role=panel]');
  return { stale: panel.dataset.stale, images: [...panel.querySelectorAll('img.result')].map(
    (image) => ({ width: image.naturalWidth, height: image.getBoundingClientRect().height, opacity: getComputedStyle(image).opacity })) }; }"""


# JupyterLab takes cells out of the page that are scrolled out of sight, as figures that come later may push them
HERE = """() => { const notebook = window.jupyterapp.shell.currentWidget.content;
  return notebook.scrollToItem(notebook.widgets.findIndex((cell) => cell.node.querySelector('.mimlab-masks')), 'auto'); }"""


def within(page, look, condition, seconds):
    """Wait, with the explorer in sight, until `condition` holds for what `look` returns; the error shows the last look."""
    end = time.monotonic() + seconds
    while page.evaluate(HERE) or not page.evaluate(
        f"(found) => {{ const {{ {', '.join(found := page.evaluate(look))} }} = found; return {condition}; }}", found
    ):
        assert time.monotonic() < end, found
        page.wait_for_timeout(100)


def replace_cell(page, index, line):
    """Add a line to the parameters cell, as a user types it."""
    page.evaluate(
        """([index, line]) => { const model = window.jupyterapp.shell.currentWidget.content.model.cells.get(index).sharedModel;
           model.setSource(model.getSource() + '\\n' + line); }""",
        [index, line],
    )


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Notebook 01 as papermill leaves it."""
    out = tmp_path_factory.mktemp("executed")
    given = {"samples": 50, "images": 2, "out": str(out)}
    return mimlab.execute(ROOT / "notebooks" / "01_masks.ipynb", given)


def alive(page, shots, name):
    page.wait_for_selector(".mimlab-masks[data-ready]", timeout=30_000)
    page.locator(".mimlab-masks").first.scroll_into_view_if_needed()
    for percent in (30, 80):
        set_ratio(page, percent)
        mask = shown(page)
        assert np.array_equal(mask, want("blockwise", percent))
        hides(page, mask)
    choose(page, "noise")
    assert np.array_equal(shown(page), want("noise", 80))
    page.screenshot(path=shots / f"{name}.png")


def test_the_export_lives_without_kernel_and_network(executed, chromium, shots):
    page, outside = chromium.new_page(viewport={"width": 1100, "height": 1400}), []
    page.on("request", lambda request: outside.append(request.url) if request.url.startswith("http") else None)
    page.goto(export_html(executed).as_uri())
    alive(page, shots, "export")
    assert outside == []
    page.close()


def test_the_executed_notebook_lives_in_jupyterlab_without_running(executed, server, chromium, shots):
    shutil.copy(executed, server.folder / "executed.ipynb")
    page = chromium.new_page(viewport={"width": 1100, "height": 1400})
    open_notebook(page, server("executed.ipynb"))
    alive(page, shots, "executed")
    page.close()


def test_where_scripts_are_stripped_there_is_a_picture(executed, server, chromium, shots):
    """Another's notebook is not trusted: JupyterLab removes the scripts of its outputs."""
    node = nbformat.read(executed, as_version=4)
    node.cells[0].source += " (changed)"  # any change ends the trust
    nbformat.write(node, server.folder / "foreign.ipynb")
    page = chromium.new_page(viewport={"width": 1100, "height": 1400})
    open_notebook(page, server("foreign.ipynb"))
    image = page.locator(".jp-OutputArea-output img").first
    image.wait_for(timeout=30_000)
    image.scroll_into_view_if_needed()
    assert page.locator(".mimlab-masks[data-ready]").count() == 0
    assert image.evaluate("image => image.naturalWidth") > 200
    page.screenshot(path=shots / "foreign.png")
    page.close()


def test_an_explorer_is_small(executed):
    sizes = [
        len(json.dumps(out))
        for cell in nbformat.read(executed, as_version=4).cells
        for out in cell.get("outputs", ())
        if "mimlab-masks" in json.dumps(out)
    ]
    print("bytes of each explorer:", sizes)
    assert len(sizes) == 2 and max(sizes) < 500_000
