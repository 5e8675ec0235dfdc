"""Notebook 11 in JupyterLab and as an HTML export: click a patch, change the layer, move over the map."""

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import nbformat
import pytest
from browser.page import browser

import mimlab
from mimlab.notebook import export_html

pytestmark = pytest.mark.browser

ROOT = Path(mimlab.__file__).parent.parent
PATIENCE = 120_000  # ms for a kernel to start and import torch, on a busy machine
LIKE, MAP = ".mimlab-like[data-ready]", ".mimlab-map[data-ready]"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of seconds with 14 x 14 patches."""
    cfg = mimlab.Pretrain(
        method="mae", data="emoji", fraction=0.1, image_size=56, patch_size=4, epochs=2, batch_size=64, knn_every=0,
        encoder_args={"dim": 96, "depth": 3, "heads": 3}, out=str(tmp_path_factory.mktemp("runs")),
        method_args={"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2},
    )  # fmt: skip
    return mimlab.pretrain(cfg)


@pytest.fixture(scope="module")
def lab(tmp_path_factory, run, free_ports, chromium):
    """Notebook 11 of this run in JupyterLab, all its cells run."""
    folder, token = tmp_path_factory.mktemp("lab"), secrets.token_hex(8)
    node = nbformat.read(ROOT / "notebooks" / "11_features.ipynb", as_version=4)
    (cell,) = (cell for cell in node.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source += f'\nrun = "{run.path}"\nsamples = 60'
    nbformat.write(node, folder / "features.ipynb")
    command = [
        sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={free_ports}",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}",
        "--expose-app-in-browser", "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
    }
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    page = chromium.new_page(viewport={"width": 1150, "height": 1400})
    try:
        answers(f"http://127.0.0.1:{free_ports}/api?token={token}", folder / "log")
        page.goto(
            f"http://127.0.0.1:{free_ports}/doc/tree/features.ipynb?token={token}&reset",
            wait_until="domcontentloaded", timeout=PATIENCE,
        )  # fmt: skip
        page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'",
            timeout=PATIENCE,
        )
        page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
        page.wait_for_selector(LIKE, timeout=PATIENCE)
        page.wait_for_selector(MAP, timeout=PATIENCE, state="attached")
        yield page
    finally:
        page.close()
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def free_ports():
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def chromium():
    with browser() as found:
        yield found


def answers(address, log, seconds=90):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if urlopen(address).status == 200:
                return
        except OSError:
            time.sleep(0.3)
    raise TimeoutError(log.read_text()[-2000:])


def told(page, name):
    return page.locator(LIKE).first.get_attribute(f"data-{name}")


def click(page, image, row, column, grid=14):
    canvas = page.locator("[data-role=heat]").nth(image)
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    page.mouse.click(box["x"] + (column + 0.5) * box["width"] / grid, box["y"] + (row + 0.5) * box["height"] / grid)


def pixels(page, image):
    """A checksum of what the heat map of an image shows."""
    return page.locator("[data-role=heat]").nth(image).evaluate(
        "c => { let s = 0; c.getContext('2d').getImageData(0, 0, c.width, c.height).data.forEach((v, k) => { s = (s * 31 + v) % 1e9; }); return s; }"
    )  # fmt: skip


def alive(page):
    """Clicks move the query, change the maps and the outlined patches, which lie in other images only."""
    before = [pixels(page, image) for image in (0, 1)]
    click(page, 1, 3, 9)
    assert told(page, "query") == f"1,{3 * 14 + 9}"
    best = [int(m) for m in told(page, "best").split(",")]
    assert len(best) == 5 and all(m // 196 != 1 for m in best)
    assert [pixels(page, image) for image in (0, 1)] != before
    page.locator("[data-role=others]").first.uncheck()
    page.locator("[data-role=k]").first.fill("3")
    assert len(told(page, "best").split(",")) == 3
    assert "cosine" in page.locator("[data-role=read]").first.text_content()
    page.locator("[data-role=heat]").nth(1).focus()
    page.keyboard.press("ArrowRight")
    assert told(page, "query") == f"1,{3 * 14 + 10}"
    times = page.evaluate(
        """() => { const canvas = document.querySelector('[data-role=heat]'), box = canvas.getBoundingClientRect(), times = [];
          for (let k = 0; k < 15; k++) { const start = performance.now();
            canvas.dispatchEvent(new MouseEvent('click', { clientX: box.x + (k % 14 + 0.5) * box.width / 14, clientY: box.y + 5 }));
            if (document.querySelector('.mimlab-like').dataset.query !== `0,${k % 14}`) throw new Error('not changed in the event');
            times.push(performance.now() - start); }
          return times.sort((a, b) => a - b); }"""
    )
    print(f"a click: median {times[7]:.1f} ms, slowest {times[-1]:.1f} ms")
    assert times[7] < 200


def hovered(page, shots, name):
    """The point under the mouse is told with its image, and a class can be hidden."""
    root, canvas = page.locator(MAP).first, page.locator("[data-role=points]").first
    canvas.scroll_into_view_if_needed()
    box, found = canvas.bounding_box(), None
    for step in range(2000):  # until the mouse meets a point
        x, y = step % 40 / 40, step // 40 / 50
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        if root.get_attribute("data-over") != "-1":
            found = page.locator("[data-role=tip]").first.text_content()
            break
    assert found and found.startswith("image ")
    page.screenshot(path=shots / f"{name}.png")
    every = int(root.get_attribute("data-shown"))
    root.locator("[data-class]").first.click()
    assert int(root.get_attribute("data-shown")) < every == 60


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    return tmp_path_factory.mktemp("shots")


def test_in_jupyterlab(lab, shots):
    assert lab.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    alive(lab)
    lab.locator("[data-role=layer]").first.select_option("0")
    lab.wait_for_function("() => document.querySelector('.mimlab-like').dataset.layer === '0'", timeout=20_000)
    assert "Layer 0" in lab.locator("[data-role=note]").first.text_content()
    lab.locator(LIKE).first.scroll_into_view_if_needed()
    lab.screenshot(path=shots / "lab.png")
    hovered(lab, shots, "lab_map")


def test_the_export_lives_without_kernel_and_network(run, chromium, shots):
    given = {"run": str(run.path), "samples": 60}
    path = export_html(mimlab.execute(ROOT / "notebooks" / "11_features.ipynb", given, progress=False))
    page, outside, problems = chromium.new_page(viewport={"width": 1150, "height": 1400}), [], []
    page.on("request", lambda request: outside.append(request.url) if request.url.startswith("http") else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(path.as_uri())
    page.wait_for_selector(LIKE, timeout=30_000)
    page.wait_for_selector(MAP, timeout=30_000)
    alive(page)
    assert page.locator("[data-role=layer]").first.is_disabled()
    page.locator(LIKE).first.scroll_into_view_if_needed()
    page.screenshot(path=shots / "export.png")
    hovered(page, shots, "export_map")
    assert outside == problems == []
    page.close()
