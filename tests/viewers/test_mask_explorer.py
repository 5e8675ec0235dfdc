"""The explorer's Python side: its state against the contract with the browser, its messages, its copies."""

import ast
import base64
import io
import json
import re
import threading
import time
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import mimlab
from mimlab import find, masks
from mimlab.distributed import generator_for
from mimlab.errors import Refused
from mimlab.viewers import pictures, ranks
from mimlab.viewers.mask_explorer import MaskExplorer

IMAGES = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
WIDGET = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(autouse=True)
def live(monkeypatch):
    monkeypatch.delenv("MIMLAB_BATCH", raising=False)


def explorer(out=".", images=IMAGES, **settings):
    """A `MaskExplorer` whose messages to the browser are collected in `.sent`."""
    made = MaskExplorer(images, out=str(out), **({"image_size": 32, "patch_size": 4} | settings))
    made.sent = []
    made.view.send = lambda content, buffers=None: made.sent.append(content)
    return made


def tell(made, **content):
    made._heard(made.view, content, [])


def heard(made, kind, count=1, seconds=20):
    """The messages of a kind, once there are `count`."""
    end = time.monotonic() + seconds
    while sum(m["type"] == kind for m in made.sent) < count and time.monotonic() < end:
        time.sleep(0.005)
    found = [m for m in made.sent if m["type"] == kind]
    assert len(found) >= count, made.sent
    return found


def rows_first(batch, grid, generator):
    return torch.rand(batch, grid[0], 1, generator=generator).expand(-1, -1, grid[1]).flatten(1)


def png(size=(20, 10), colour=(255, 0, 0)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


# the state


def test_the_state_at_the_start():
    made = explorer(mask="split", mask_args={"by": "rows"}, mask_ratio=0.3, seed=5)
    view = made.view
    assert view.grid == [8, 8] and view.counts == ranks.counts(64) and view.live
    assert view.panels == [{"mask": "split", "args": {"by": "rows"}, "seed": 5}] and view.ratio == 0.3
    assert view.picture["width"] == view.picture["height"] == 32
    assert torch.equal(pictures.read(pictures.content(view.picture["src"]), 32), IMAGES[0])
    assert view.source == {"data": None, "data_args": None, "image_size": 32, "patch_size": 4}
    assert [item["name"] for item in view.menu] == find.names("masks")
    assert (view.fill, view.complement, view.painted, view.run, view.said) == ("grey", False, {}, None, "")
    assert view.token.startswith("data:image/png")
    state = {name: getattr(view, name) for name in view.keys if not name.startswith("_") and name != "layout"}
    json.dumps(state | {"tabbable": None}, allow_nan=False)


def test_ranks_at_the_start_are_the_masks_of_sample():
    view = explorer(mask="split", mask_args={"by": "rows"}, seed=11).view
    ready = [name for name in find.names("masks") if not masks.looks(name)]
    assert view.seeds == 8
    own = {f'split|{seed}|{{"by":"rows"}}' for seed in (*range(8), 11)}
    assert set(view.ranks) == own | {f"{name}|{seed}|{{}}" for name in ready for seed in range(8)}
    for key, entry in view.ranks.items():
        name, seed, args = key.split("|")
        for percent in (5, 50, 93):
            generator = generator_for(int(seed), 0, "mask")
            want = masks.sample(name, 1, (8, 8), percent / 100, generator, **json.loads(args))[0]
            assert torch.equal(ranks.mask_in(entry, percent, 64), want), key


def test_large_grids_start_with_fewer_seeds():
    made = explorer(image_size=96, patch_size=2, strategies=["random", "blockwise"])
    assert 1 <= made.view.seeds < 8
    assert len(json.dumps(made.view.ranks)) < 300_000
    assert f"random|{made.view.seeds - 1}|{{}}" in made.view.ranks


def test_functions_and_modules_are_on_the_menu(tmp_path, monkeypatch):
    (tmp_path / "my_masks_e2").mkdir()
    (tmp_path / "my_masks_e2" / "top.py").write_text(
        '"""Top first. More."""\nimport torch\n\ndef rank(batch, grid, generator):\n'
        "    return -torch.arange(float(grid[0] * grid[1])).expand(batch, -1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    made = explorer(strategies=["random", "my_masks_e2.top"], mask=rows_first)
    assert [item["name"] for item in made.view.menu] == ["random", "my_masks_e2.top", "rows_first"]
    assert made.view.menu[1]["about"] == "Top first."
    assert sorted(made.masks.view(8, 8).sum(1).tolist()) == [0] * 4 + [8] * 4  # whole rows
    made.panels = [{"mask": "my_masks_e2.top"}, {"mask": rows_first, "seed": 2}]
    assert made.masks[0].tolist() == [True] * 32 + [False] * 32
    assert torch.equal(made.masks[1], masks.sample(rows_first, 1, (8, 8), 0.5, generator_for(2, 0, "mask"))[0])


def test_a_strategy_that_fails_leaves_the_explorer_alive():
    def broken(batch, grid, generator):
        return torch.rand(batch, 3)

    made = explorer(mask=broken, strategies=["random"])
    assert "(1, 3)" in made.view.ranks["broken|0|{}"]["error"]
    with pytest.raises(Refused, match="broken"):
        made.masks  # noqa: B018
    assert "broken" in made.html() and made.png().startswith(b"\x89PNG")
    made.panels = [{"mask": "random"}]
    assert made.masks.sum() == 32


def test_strategies_that_ask_a_model_wait_for_a_run():
    made = explorer(mask="attention")
    assert "run" in next(item["blocked"] for item in made.view.menu if item["name"] == "attention")
    assert "asks a model" in made.view.ranks["attention|0|{}"]["error"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"patch_size": 5}, "patch_size = 5 does not divide image_size = 32; try one of: 2, 4, 8, 16"),
        ({"patch_size": 32}, "patch_size = 32 makes 1 patches"),
        ({"image_size": 256, "patch_size": 1}, "65536 patches"),
        ({"image_size": "32"}, "image_size = '32' is not a whole number"),
        ({"mask_ratio": 0}, "mask_ratio = 0 is not"),
        ({"mask_ratio": 1.0}, "mask_ratio = 1.0 is not"),
        ({"mask": "blokwise"}, "did you mean 'blockwise'"),
        ({"mask_args": {"bye": 1}}, "no option 'bye'"),
        ({"mask": "stripes", "mask_args": {"width": 99}}, "width = 99"),
        ({"seed": 1.5}, "seed = 1.5"),
        ({"run": "nowhere"}, "nowhere"),
        ({"images": None, "data": "emojis"}, "did you mean 'emoji'"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(given, says):
    with pytest.raises(Refused, match=re.escape(says)):
        explorer(**given)


# Python


def test_masks_are_as_shown_with_painted_patches():
    made = explorer(mask="grid", mask_ratio=0.25)
    plain = made.masks.clone()
    on, off = int(plain[0].int().argmin()), int(plain[0].int().argmax())
    made.view.painted = {"0": {str(on): 1, str(off): 0, "999": 1}}
    changed = (made.masks != plain).nonzero()[:, 1].tolist()
    assert sorted(changed) == sorted([on, off]) and made.masks[0, on] and not made.masks[0, off]
    made.ratio = 0.754
    assert made.ratio == made.view.ratio == 0.75
    made.panels = [{"mask": "random", "args": {}, "seed": k} for k in range(6)]
    assert made.masks.shape == (6, 64) and made.masks[1:].sum(1).tolist() == [48] * 5


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ratio", 0, "mask_ratio = 0"),
        ("ratio", "0.5", "mask_ratio = '0.5'"),
        ("panels", [], "1 to 6"),
        ("panels", [{"mask": "random"}] * 7, "1 to 6"),
        ("panels", [{"seed": 0}], "no dict with mask"),
        ("panels", [{"mask": "randon"}], "did you mean 'random'"),
        ("panels", [{"mask": "random", "args": 3}], "mask_args = 3"),
        ("panels", [{"mask": "random", "seed": True}], "seed = True"),
    ],
    ids=str,
)
def test_what_python_sets_is_checked(name, value, says):
    made = explorer()
    with pytest.raises(Refused, match=re.escape(says)):
        setattr(made, name, value)
    assert made.ratio == 0.5 and made.panels == [{"mask": "random", "args": {}, "seed": 0}]


def test_settings_and_the_cell_agree():
    made = explorer(
        images=None, data="emoji", mask="noise", mask_args={"colour": "red", "weak": 0.7, "strong": 3.0}, mask_ratio=0.6
    )
    want = {
        "data": "emoji", "data_args": {}, "image_size": 32, "patch_size": 4, "mask": "noise", "mask_ratio": 0.6,
        "mask_args": {"colour": "red", "strong": 3},
    }  # fmt: skip
    assert made.settings == want
    cell = made.cell()
    assert cell.startswith('data = "emoji"\ndata_args = {}\nimage_size = 32\n') and cell.endswith("}\n")
    lines = ast.parse(cell).body
    assert {line.targets[0].id: ast.literal_eval(line.value) for line in lines} == want
    mimlab.Pretrain(**made.settings).resolved()
    assert explorer(mask=rows_first).settings["mask"] is rows_first


def test_it_is_read_from_the_settings_of_the_notebook():
    cfg = mimlab.Explore(
        data="emoji", image_size=28, patch_size=7, mask="split", mask_args={"by": "rows"}, mask_ratio=0.4, seed=3,
        strategies="random, grid",
    )  # fmt: skip
    made = MaskExplorer.read(cfg)
    assert made.panels == [{"mask": "split", "args": {"by": "rows"}, "seed": 3}] and made.ratio == 0.4
    assert [item["name"] for item in made.view.menu] == ["random", "grid", "split"]
    assert made.view.source == {"data": "emoji", "data_args": {}, "image_size": 28, "patch_size": 7}


def test_another_image_can_be_shown():
    made = explorer()
    made.show(IMAGES[2])
    assert torch.equal(pictures.read(pictures.content(made.view.picture["src"]), 32), IMAGES[2])
    assert made.view.picture["name"] == "your image"
    with pytest.raises(Refused, match="images: shape"):
        made.show(torch.zeros(4, 4))


# messages


def test_ranks_are_answered_under_the_keys_of_the_browser():
    made = explorer()
    want = [
        {"mask": "split", "args": {"by": "columns"}, "seed": 40},
        {"mask": "superpixel", "args": {"segments": 10}, "seed": 1},
    ]
    tell(made, type="rank", want=want)
    (answer,) = made.sent
    assert answer["type"] == "ranks" and list(answer["ranks"]) == [
        'split|40|{"by":"columns"}',
        'superpixel|1|{"segments":10}',
    ]
    scores = masks.score("superpixel", IMAGES[:1] / 255, (8, 8), segments=10)
    for panel, entry, seen in zip(want, answer["ranks"].values(), (None, scores)):
        mask = ranks.mask_of(panel["mask"], panel["seed"], (8, 8), 0.37, panel["args"], seen)
        assert torch.equal(ranks.mask_in(entry, 37, 64), mask)


def test_an_option_out_of_range_is_an_entry_and_nonsense_is_said():
    made = explorer()
    tell(made, type="rank", want=[{"mask": "stripes", "args": {"width": 77}, "seed": 0}])
    assert "width = 77" in made.sent[0]["ranks"]['stripes|0|{"width":77}']["error"]
    for content in (
        {"type": "rank", "want": [{"mask": "nothing", "args": {}, "seed": 0}]},
        {"type": "rank"},
        {"type": "upload", "name": "x"},
        {"type": "preset", "mask": "random"},
    ):
        made.sent.clear()
        tell(made, **content)
        assert [m["type"] for m in made.sent] == ["said"] and made.sent[0]["bad"] and "\n" not in made.view.said != ""
    made.sent.clear()
    tell(made, type="unheard of")
    assert not made.sent


def test_an_upload_is_shown_and_one_that_is_no_image_is_said():
    made = explorer()
    tell(made, type="upload", name="red.png", data="data:image/png;base64," + base64.b64encode(png()).decode())
    assert made.view.picture["name"] == "red.png" and made.view.said == ""
    shown = pictures.read(pictures.content(made.view.picture["src"]), 32)
    assert (shown == torch.tensor([255, 0, 0])[:, None, None]).all()
    before = made.view.picture
    tell(made, type="upload", name="notes.png", data="data:image/png;base64," + base64.b64encode(b"hello").decode())
    assert "notes.png" in made.view.said and made.view.picture == before
    tell(made, type="upload", name="page", data="data:text/html;base64,AAAA")
    assert "no image" in made.view.said and made.view.picture == before


def test_presets_are_saved(tmp_path, monkeypatch):
    monkeypatch.setenv("MIMLAB_ROOT", str(tmp_path))
    made = explorer(mask=rows_first, strategies="grid")
    setting = {"mask": "grid", "mask_ratio": 0.6, "mask_args": {"unit": 4}}
    tell(made, type="preset", path="presets/a.yaml", **setting)
    assert yaml.safe_load((tmp_path / "presets/a.yaml").read_text()) == setting
    assert made.sent[-1]["bad"] is False and "a.yaml" in made.sent[-1]["text"]
    tell(made, type="preset", path="presets/a.txt", **setting)
    assert "should end in .yaml" in made.view.said
    tell(made, type="preset", path="presets/b.yaml", **(setting | {"mask": "rows_first"}))
    assert "function of this notebook" in made.view.said and not (tmp_path / "presets/b.yaml").exists()


# controls


def test_controls_choose_images_and_sizes():
    made = explorer(images=None, data="emoji")
    panel = made._controls
    assert panel._data.value == "emoji" and panel._number.max > 100 and not panel._number.disabled
    first = made.view.picture
    panel._on.click()
    assert panel._number.value == 1 and made.view.picture["name"] == "emoji 1" and made.view.picture != first
    panel._back.click()
    panel._back.click()
    assert panel._number.value == panel._number.max
    made.view.painted = {"0": {"1": 1}}
    panel._patch_size.value = 8
    assert made.view.grid == [4, 4] and made.view.painted == {} and made.view.source["patch_size"] == 8
    assert len(made.view.counts) == 101 and made.masks.shape == (1, 16)


def test_sizes_that_do_not_fit_are_said_and_the_state_stays():
    made = explorer(patch_size=16)
    panel, state = made._controls, made.view.picture
    panel._image_size.value = 28
    assert "patch_size = 16 does not divide image_size = 28" in made.view.said
    assert made.view.grid == [2, 2] and made.view.picture == state and panel._image_size.value == 28
    panel._patch_size.value = 7  # now they go together
    assert made.view.grid == [4, 4] and made.view.said == "" and made.view.picture["width"] == 28
    panel._patch_size.value = -1
    assert "patch_size = -1" in made.view.said and made.view.grid == [4, 4]


def test_a_set_that_cannot_be_opened_leaves_the_old_one(monkeypatch):
    made = explorer()
    before = made.view.picture
    monkeypatch.setattr("mimlab.data.open", lambda *a, **k: 1 / 0)
    made._controls._data.value = "emoji"
    assert made.view.said == "ZeroDivisionError: division by zero"
    assert made._controls._data.value == "your own" and made.view.picture == before


def test_the_file_picker():
    made = explorer()
    file = {
        "name": "blue.png",
        "type": "image/png",
        "size": 1,
        "content": memoryview(png(colour=(0, 0, 255))),
        "last_modified": 0,
    }
    made._controls._upload([file])
    assert made.view.picture["name"] == "blue.png" and made._controls._number.max == 3
    made._controls._upload([file | {"content": memoryview(b"no"), "name": "bad.png"}])
    assert "bad.png" in made.view.said and made.view.picture["name"] == "blue.png"


# a run


def test_a_run_brings_its_sizes_and_checkpoints(out, splitmask):
    made = explorer(out)
    made._controls._run.value = "splitmask"
    assert made.view.run == {"name": "splitmask", "steps": [*splitmask.weights(), "final"], "step": "final", "note": ""}
    assert made.view.grid == [4, 4] and made.view.picture["width"] == 28
    assert made._controls._image_size.value == 28 and made._controls._image_size.disabled
    assert not any(item["blocked"] for item in made.view.menu)
    made._controls._run.value = "none"
    assert made.view.run is None and not made._controls._image_size.disabled


def look(made, number, panel=0, step="final"):
    bits = ranks.packed(made.masks[panel])
    tell(made, type="look", id=number, panel=panel, bits=bits, step=step)


def test_looks_are_answered_by_the_checkpoint_asked_for(out, splitmask):
    made = explorer(out, run="splitmask")
    for number, step in enumerate(made.view.run["steps"]):
        look(made, number, step=step)
        answer = heard(made, "seen", number + 1)[-1]
        assert answer["id"] == number and answer["panel"] == 0 and made.view.run["step"] == step
        method = splitmask.method(None if step == "final" else step)
        with torch.no_grad():
            judged = method.judge(made._scene.image[None] / 255, made.masks)
        loss = np.frombuffer(base64.b64decode(answer["loss"]), "<f4")
        assert np.allclose(loss[made.masks[0]], judged.loss[0, made.masks[0]], atol=1e-5)
        assert np.isnan(loss[~made.masks[0].numpy()]).all()
    assert made.view.run["note"] == answer["note"] != ""
    look(made, 9, step=77)
    assert "step = 77 is no checkpoint" in made.view.said


def test_of_a_panel_only_the_newest_look_is_answered(out, splitmask):
    made = explorer(out, run=splitmask)
    made.panels = [{"mask": "random"}, {"mask": "grid"}]
    plain, seen, asked = made._scene.see, [], threading.Event()
    made._scene.see = lambda mask: (asked.wait(20), seen.append(1), plain(mask))[2]
    for number in range(8):
        look(made, number, panel=number % 2)
    asked.set()
    answers = heard(made, "seen", 2)
    time.sleep(0.3)
    assert sorted(m["id"] for m in heard(made, "seen", 2)) == [6, 7] and len(answers) == 2
    assert len(seen) <= 3  # the first was overtaken while it was made


def test_ranks_do_not_wait_for_a_look(out, splitmask):
    made = explorer(out, run=splitmask)
    end, ended = threading.Event(), []

    def see(mask):
        ended.append(end.wait(20))

    made._scene.see = see
    look(made, 1)
    tell(made, type="rank", want=[{"mask": "random", "args": {}, "seed": 99}])
    assert made.sent[-1]["type"] == "ranks" and not ended
    end.set()


def test_another_image_drops_looks_at_the_old_one(out, splitmask):
    made = explorer(out, run=splitmask)
    made.panels = [{"mask": "random"}, {"mask": "grid"}]
    made._scene.see = lambda mask: time.sleep(0.2)
    look(made, 1)
    made.show(IMAGES[1])
    look(made, 2, panel=1)
    assert [m["id"] for m in heard(made, "seen")] == [2]


def test_looks_that_cannot_be_answered_are_refused_in_a_line(out, splitmask, no_picture):
    made = explorer(out, run=no_picture)
    look(made, 1)
    (answer,) = heard(made, "seen")
    assert "predicts no picture" in answer["refused"] and np.isfinite(answer["numbers"]["loss"])
    tell(made, type="look", id=2, panel=0, bits=ranks.packed(torch.ones(16).bool()), step="final")
    assert "16 of 16 patches hidden" in heard(made, "seen", 2)[-1]["refused"]
    without = explorer()
    look(without, 3)
    assert without.sent[-1] == {"type": "seen", "id": 3, "panel": 0, "refused": "no run is loaded"}


def test_strategies_that_ask_get_the_run_at_its_checkpoint(out, splitmask):
    made = explorer(out, run=splitmask, strategies=["random", "attention"], mask="attention")
    assert {key.split("|")[0] for key in made.view.ranks} == {"random"}
    assert not made._scene.weights.method.cache_info().misses  # the first picture does not wait for a model
    want = [{"mask": "attention", "args": {}, "seed": 1}, {"mask": "attention", "args": {"hide": "low"}, "seed": 1}]
    tell(made, type="rank", want=want)
    answers = heard(made, "ranks", 2)
    made.sent.clear()
    first = made.view.run["steps"][0]
    made.view.run = made.view.run | {"step": first}  # as the browser's slider does
    answers += heard(made, "ranks", 2)
    for k, answer in enumerate(answers):
        ((key, entry),) = answer["ranks"].items()
        method = splitmask.method(None if k < 2 else first)
        scores = masks.score("attention", made._scene.image[None] / 255, (4, 4), method)
        args = want[k % 2]["args"]
        assert key == f"attention|1|{ranks.text(args)}"
        assert torch.equal(ranks.mask_in(entry, 40, 16), ranks.mask_of("attention", 1, (4, 4), 0.4, args, scores))


# without a kernel


class Scripts(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.images, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.inside = tag == "script"
        if tag == "script":
            self.found.append("")
        self.images += [dict(attributes)["src"]] if tag == "img" else []

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.found[-1] += data


def saved(html):
    return json.loads(Scripts(html).found[0])["state"]


def test_live_it_is_a_widget_with_a_copy_beside():
    halves = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    halves[0, :, :, 9:], halves[1, :, torch.ones(32, 32).tril() == 1] = 255, 255
    made = explorer(images=halves[0])
    bundle = made._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", "image/png", WIDGET}
    made._repr_mimebundle_()
    answers = heard(made, "ranks")  # strategies that look follow, once
    made.show(halves[1])
    answers = heard(made, "ranks", 2)  # and again for another image
    time.sleep(0.2)
    assert len(heard(made, "ranks")) == len(answers) == 2
    for answer, image in zip(answers, halves):
        assert set(answer["ranks"]) == {f"superpixel|{seed}|{{}}" for seed in range(8)}
        want = ranks.mask_of("superpixel", 3, (8, 8), 0.5, {}, masks.score("superpixel", image[None] / 255, (8, 8)))
        assert torch.equal(ranks.mask_in(answer["ranks"]["superpixel|3|{}"], 50, 64), want)
    assert answers[0] != answers[1]


def test_in_batch_it_is_html_and_a_picture(monkeypatch):
    monkeypatch.setenv("MIMLAB_BATCH", "1")
    made = explorer(mask="grid", mask_args={"unit": 4}, seed=9)
    made.view.painted, made.view.complement = {"0": {"3": 1}}, True
    bundle = made._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", "image/png"} and "\n" not in bundle["text/plain"]
    assert "http" not in bundle["text/html"].replace("http://www.w3.org/2000/svg", "")
    picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert picture.width == 3 * (pictures.SIDE + pictures.GAP) + pictures.GAP  # image, visible, complement
    assert Scripts(bundle["text/html"]).images == [f"data:image/png;base64,{bundle['image/png']}"]
    state = saved(bundle["text/html"])
    assert not state["live"] and state["painted"] == {"0": {"3": 1}} and state["complement"] and state["token"]
    usable = [name for name in find.names("masks") if not masks.asks(name)]
    assert {f"{name}|{seed}|{{}}" for name in usable for seed in range(8)} <= set(state["ranks"])
    assert {f'grid|{seed}|{{"unit":4}}' for seed in (*range(8), 9)} <= set(state["ranks"])
    scores = masks.score("superpixel", IMAGES[:1] / 255, (8, 8))
    want = ranks.mask_of("superpixel", 2, (8, 8), 0.5, {}, scores)
    assert torch.equal(ranks.mask_in(state["ranks"]["superpixel|2|{}"], 50, 64), want)


def test_a_photograph_with_all_strategies_stays_light(monkeypatch):
    monkeypatch.setenv("MIMLAB_BATCH", "1")
    made = MaskExplorer()
    bundle = made._repr_mimebundle_()
    assert made.view.grid == [14, 14] and made.view.picture["src"].startswith("data:image/jpeg")
    assert len(json.dumps(bundle)) < 350_000
    made.panels = [{"mask": name} for name in ("random", "blockwise", "grid", "noise", "stripes", "superpixel")]
    assert len(json.dumps(made._repr_mimebundle_())) < 500_000


def test_a_saved_run_shows_what_it_filled_in(out, splitmask, monkeypatch):
    monkeypatch.setenv("MIMLAB_BATCH", "1")
    made = explorer(out, run=splitmask)
    bundle = made._repr_mimebundle_()
    state = saved(bundle["text/html"])
    kept, found = state["seen"]["0"], made._scene.see(made.masks[0])
    assert torch.equal(ranks.unpacked(kept["bits"], 16), made.masks[0]) and kept["step"] == "final"
    assert kept["filled"] == found.message()["filled"] and kept["numbers"] == found.numbers
    assert state["run"]["note"] == found.note and "attention|0|{}" in state["ranks"]
    picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert picture.width == 3 * (pictures.SIDE + pictures.GAP) + pictures.GAP  # image, visible, filled in


def test_a_page_can_be_written(tmp_path):
    made = explorer()
    path = made.html(tmp_path / "masks.html")
    text = path.read_text()
    assert text == made.html() and text.startswith("<!DOCTYPE html>")
    assert saved(text)["grid"] == [8, 8]


def test_nothing_is_printed(capfd):
    made = explorer()
    made._repr_mimebundle_()
    tell(made, type="rank", want=[{"mask": "random", "args": {"x": 1}, "seed": 0}])
    tell(made, type="upload", name="a", data="data:image/png;base64,AAAA")
    heard(made, "ranks", 2)
    assert capfd.readouterr() == ("", "")
