"""The attention viewer in a real browser: notebook 05 in JupyterLab, its export from disk, and pages of the module alone."""

import numpy as np
import pytest
import torch
from browser.page import browser, needed
from browser.test_lab import PATIENCE, ROOT, open_notebook, replace_cell, server, shots  # noqa: F401  fixtures

import mimlab
from mimlab import encoders
from mimlab.looking import attention
from mimlab.looking.attend import Attended, attend, look
from mimlab.notebook import export_html
from mimlab.viewers.attention import AttentionView

pytestmark = pytest.mark.browser

GRID = (14, 14)
TIMES = """() => { const canvas = document.querySelector('[data-role=map]'); window.times = [];
  canvas.addEventListener('pointerdown', () => { window.start = performance.now(); }, true);
  new MutationObserver(() => window.times.push(performance.now() - window.start))
    .observe(canvas, { attributes: true, attributeFilter: ['data-shown'] }); }"""


@pytest.fixture(scope="module")
def chromium():
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of seconds with 14 x 14 patches, 6 layers and 6 heads."""
    cfg = mimlab.Pretrain(
        method="mae", data="emoji", image_size=56, patch_size=4, epochs=2, batch_size=64, fraction=0.2, knn_every=0,
        out=str(tmp_path_factory.mktemp("runs") / "runs"), encoder_args={"dim": 192, "depth": 6, "heads": 6},
        method_args={"decoder_dim": 32, "decoder_depth": 1, "decoder_heads": 2},
    )  # fmt: skip
    return mimlab.pretrain(cfg)


@pytest.fixture(scope="module")
def want(run):
    """What the kernel of the notebook computes: the same images, the same weights."""
    return attend(mimlab.Attend(run=str(run.path))).first


@pytest.fixture(scope="module")
def lab(server, chromium, run):  # noqa: F811
    page = chromium.new_page(viewport={"width": 1100, "height": 1300})
    open_notebook(page, server("notebooks/05_attention.ipynb"))
    replace_cell(page, 1, f'run = "{run.path}"')
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    page.wait_for_selector(".mimlab-attention[data-ready]", timeout=PATIENCE)
    idle = "() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'"
    page.wait_for_timeout(2000)
    page.wait_for_function(idle, timeout=PATIENCE)
    page.locator(".mimlab-attention").first.scroll_into_view_if_needed()
    yield page
    page.close()


def role(page, name, which=0):
    return page.locator(f"[data-role={name}]").nth(which)


def drawn(page, text, which=0, seconds=20):
    """Wait until that map is shown."""
    page.wait_for_function(
        "([which, text]) => document.querySelectorAll('[data-role=map]')[which].dataset.shown === text",
        arg=[which, text],
        timeout=1000 * seconds,
    )


def middle(page, patch, grid=GRID, which=0):
    role(page, "map", which).scroll_into_view_if_needed()
    box = role(page, "map", which).bounding_box()
    row, column = divmod(patch, grid[1])
    return box["x"] + (column + 0.5) / grid[1] * box["width"], box["y"] + (row + 0.5) / grid[0] * box["height"]


def click(page, patch, grid=GRID, which=0):
    page.mouse.click(*middle(page, patch, grid, which))


def slide(page, name, value):
    role(page, name).evaluate(
        "(slider, value) => { slider.value = value; slider.dispatchEvent(new Event('input', { bubbles: true })); }",
        value,
    )


def keeps(page, weights, threshold=0.6, few=1):
    """The mass shown is that of the weights (N,), but for a `few` patches near the threshold, as codes are rounded."""
    shown = np.array(list(role(page, "map").get_attribute("data-kept"))) == "1"
    assert len(shown) == len(weights) and (shown != attention.mass(weights, threshold).numpy()).sum() <= few


def test_clicking_a_patch_is_quick(lab, shots, want):  # noqa: F811
    role(lab, "head").select_option("mean")
    drawn(lab, "0/0/5/mean/-1")
    lab.screenshot(path=shots / "attention_cls.png")
    lab.evaluate(TIMES)
    patches = [100, 30, 61, 7, 188, 94, 95, 13, 140, 77, 52]
    for patch in patches:
        click(lab, patch)
        drawn(lab, f"0/0/5/mean/{patch}")
    times = sorted(lab.evaluate("window.times"))
    assert len(times) == len(patches)
    print(f"a click: {needed(times):.1f} ms, median {times[5]:.1f} ms, slowest {times[-1]:.1f} ms")
    assert needed(times) < 200, times
    role(lab, "mass").check()
    keeps(lab, want.captured(0)[5, :, 1 + 52, 1:].mean(dim=0))
    lab.mouse.move(*middle(lab, 80))
    said = role(lab, "read").inner_text()
    assert said.startswith("row 5, column 10: ")
    assert float(said.split(": ")[1]) == pytest.approx(float(want.captured(0)[5, :, 53, 81].mean()), rel=0.02)
    lab.screenshot(path=shots / "attention_patch.png")
    role(lab, "mass").uncheck()


def test_changing_head_and_layer(lab, shots, want):  # noqa: F811
    click(lab, 100)
    role(lab, "mass").check()
    for head in (0, 4):
        role(lab, "head").select_option(str(head))
        drawn(lab, f"0/0/5/{head}/100")
        keeps(lab, want.captured(0)[5, head, 101, 1:])
    lab.evaluate("window.times = []; window.start = performance.now()")
    for layer in (2, 0):
        slide(lab, "layer", layer)
        drawn(lab, f"0/0/{layer}/4/100")
        keeps(lab, want.captured(0)[layer, 4, 101, 1:])
    print("layers through the kernel after", [f"{time:.0f} ms" for time in lab.evaluate("window.times")])
    role(lab, "thumb", 2).click()
    drawn(lab, "0/2/0/4/100")
    keeps(lab, want.captured(2)[0, 4, 101, 1:])
    role(lab, "cls").click()
    drawn(lab, "0/2/0/4/-1")
    keeps(lab, want.captured(2)[0, 4, 0, 1:])
    slide(lab, "threshold", 30)
    keeps(lab, want.captured(2)[0, 4, 0, 1:], 0.3)
    role(lab, "mass").uncheck()
    slide(lab, "layer", 5)
    role(lab, "head").select_option("colours")
    drawn(lab, "0/2/5/colours/-1")
    lab.screenshot(path=shots / "attention_colours.png")


def watched(chromium, address):
    """A page without a network, and what it complained about or asked for."""
    context = chromium.new_context(viewport={"width": 1050, "height": 900}, offline=True)
    page, wrong = context.new_page(), []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
    page.goto(address)
    page.wait_for_selector(".mimlab-attention[data-ready]", timeout=30_000)
    return page, wrong


def test_the_export_lives_from_disk(chromium, run, want, shots):  # noqa: F811
    executed = mimlab.execute(
        ROOT / "notebooks" / "05_attention.ipynb", {"run": str(run.path), "images": 3}, progress=False
    )
    page, wrong = watched(chromium, export_html(executed).as_uri())
    role(page, "mass").check()
    for head in ("mean", "3"):
        role(page, "head").select_option(head)
        click(page, 60)
        drawn(page, f"0/0/5/{head}/60")
        weights = want.captured(0)[5, :, 61, 1:]
        keeps(page, weights.mean(dim=0) if head == "mean" else weights[3], few=3)  # 8 bits
    role(page, "cls").click()
    slide(page, "layer", 1)
    drawn(page, "0/0/1/3/-1")
    keeps(page, want.captured(0)[1, 3, 0, 1:])
    click(page, 60)  # a layer of which only CLS was kept
    assert "has not kept that map" in role(page, "why").inner_text()
    assert role(page, "map").get_attribute("data-shown") == ""
    page.screenshot(path=shots / "attention_export.png")
    role(page, "thumb", 2).click()
    role(page, "cls").click()
    drawn(page, "0/2/1/3/-1")
    assert role(page, "why").inner_text() == "" and wrong == []
    assert page.locator(".js-plotly-plot").count() >= 8
    page.close()


def small(name="vit", size=32, title="a", images=2, **options):
    torch.manual_seed(0)
    encoder = encoders.create(name, size, 8, **({"dim": 24, "depth": 3, "heads": 2} | options)).eval()
    return look(title, encoder, torch.rand(2, 3, size, size), images)


def page_of(chromium, tmp_path, first, other=None):
    return watched(chromium, AttentionView(Attended(first, other, 0.6)).html(tmp_path / "a.html").as_uri())


def test_two_models_are_linked(chromium, tmp_path):
    page, wrong = page_of(chromium, tmp_path, small(), small(size=48, title="b", depth=2, heads=1))
    drawn(page, "0/0/2/mean/-1")
    drawn(page, "1/0/1/mean/-1", 1)
    click(page, 6, (4, 4))
    drawn(page, "0/0/2/mean/6")
    drawn(page, "1/0/1/mean/15", 1)  # the same place among 6 x 6 patches
    role(page, "head").select_option("1")
    drawn(page, "0/0/2/1/6")
    drawn(page, "1/0/1/mean/15", 1)  # it has one head
    click(page, 0, (6, 6), which=1)
    drawn(page, "0/0/2/1/0")
    slide(page, "layer", 0)
    drawn(page, "1/0/0/mean/0", 1)
    role(page, "map").focus()
    page.keyboard.press("ArrowRight")
    drawn(page, "0/0/0/1/1")
    assert wrong == []
    page.close()


def test_what_a_model_does_not_have_is_one_line(chromium, tmp_path):
    page, wrong = page_of(chromium, tmp_path, small(class_token=False), small("xcit", title="b"))
    assert role(page, "why").inner_text() == "" and "Only CLS looks" in role(page, "why", 1).inner_text()
    role(page, "cls").click()
    drawn(page, "1/0/1/mean/-1", 1)
    assert "no class token" in role(page, "why").inner_text() and wrong == []
    torch.manual_seed(0)
    resnet = look("r", encoders.create("resnet18", 32, 8).eval(), torch.rand(1, 3, 32, 32), 1)
    page, wrong = page_of(chromium, tmp_path, resnet)
    assert "has no attention" in role(page, "why").inner_text() and not role(page, "layer").is_visible()
    click(page, 3, (4, 4))
    assert wrong == []
    page.close()
