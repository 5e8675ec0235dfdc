"""The attention viewer without a browser: its codes, its answers, what a saved page keeps."""

import base64
import io
import json
import re
import time

import numpy as np
import pytest
import torch
from PIL import Image

from mimlab import encoders
from mimlab.errors import Refused
from mimlab.looking.attend import Attended, look
from mimlab.viewers.attention import ROOM, AttentionView, coded, uncoded


def looked(name="vit", size=32, patch=8, images=2, title="a model", layer="last", query="cls", **options):
    torch.manual_seed(0)
    encoder = encoders.create(name, size, patch, **({"dim": 24, "depth": 3, "heads": 2} | options)).eval()
    batch = torch.rand(images, 3, size, size, generator=torch.Generator().manual_seed(1))
    return look(title, encoder, batch, images, layer, query)


@pytest.mark.parametrize(("bits", "off"), [(16, 3e-5), (8, 4e-3)])
def test_codes_are_as_exact_as_said(bits, off):
    weights = torch.randn(3, 5, 50).mul(3).softmax(-1)
    weights[0, 0] = 0
    got = uncoded(*coded(weights, bits))
    scale = (weights.amax(-1, keepdim=True) - weights.amin(-1, keepdim=True)).numpy()
    assert (np.abs(got - weights.numpy()) <= off * scale).all() and (got[0, 0] == 0).all()


def test_a_block_is_what_was_captured():
    one = looked()
    view = AttentionView(Attended(one, None, 0.6))
    told, *parts = view.block(0, 1, 2, 7)
    assert told == {"key": "0/1/2", "first": -1, "count": 17, "bits": 16}  # a light layer travels at once
    np.testing.assert_allclose(uncoded(*parts), one.captured(1)[2][:, :, 1:], atol=1e-5)
    told, *parts = view.block(0, 0, 1, 7, whole=False)
    assert told == {"key": "0/0/1/7", "first": 7, "count": 1, "bits": 16}
    np.testing.assert_allclose(uncoded(*parts)[:, 0], one.captured(0)[1][:, 8, 1:], atol=1e-5)
    for wrong in ((0, 2, 0, 0), (0, 0, 3, 0), (0, 0, 0, 16), (0, 0, 0, -2)):
        with pytest.raises(Refused, match="there is no"):
            view.block(*wrong)


def test_registers_are_no_patches():
    one = looked("vit_medium_patch16_reg4_gap_256", dim=None, depth=1, heads=None)
    view = AttentionView(Attended(one, None, 0.6))
    _, *parts = view.block(0, 0, 0, 3, whole=False)
    np.testing.assert_allclose(
        uncoded(*parts)[:, 0], one.captured(0)[0][:, one.encoder.prefix + 3, one.encoder.prefix :], atol=1e-5
    )


def test_the_kernel_answers_the_newest_question(monkeypatch):
    view, sent = AttentionView(Attended(looked(), None, 0.6)), []
    monkeypatch.setattr(view, "send", lambda content, buffers=None: sent.append((content, buffers)))
    view._heard(view, {"type": "ask", "model": 0, "image": 0, "layer": 1, "query": -1}, [])
    view._heard(view, {"type": "ask", "model": 0, "image": 0, "layer": 9, "query": -1}, [])
    end = time.monotonic() + 20
    while not any("refused" in content for content, _ in sent):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert "layer 9" in sent[-1][0]["refused"]
    for content, buffers in sent[:-1]:  # the first may have been overtaken
        assert content["key"] == "0/0/1" and len(buffers[1]) == 2 * 17 * 16 * 2


def state(view):
    html = view._copy()["text/html"]
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.S)[1])["state"]


def test_a_saved_page_keeps_cls_everywhere_and_the_queries_of_layers():
    view = AttentionView(Attended(looked(), None, 0.6))
    kept = state(view)["kept"]
    assert {f"0/{image}/{layer}/-1" for image in range(2) for layer in range(3)} < set(kept)
    assert {f"0/{image}/{layer}" for image in range(2) for layer in range(3)} < set(kept)  # so small that all fits
    block = kept["0/0/2"]
    assert block["bits"] == 8
    codes = np.frombuffer(base64.b64decode(block["codes"]), np.uint8).reshape(2, 17, 16)
    ends = np.frombuffer(base64.b64decode(block["ends"]), "<f4").reshape(2, 17, 2)
    want = view._attended.first.captured(0)[2][:, :, 1:]
    np.testing.assert_allclose(uncoded(ends, codes), want, atol=4e-3 * float(want.max()))


def test_a_saved_page_is_small_and_keeps_the_shown_layer_first():
    view = AttentionView(Attended(looked(size=56, patch=4, images=4, heads=6, layer="1"), None, 0.6))
    kept = state(view)["kept"]
    whole = [key for key in kept if key.count("/") == 2]
    assert (
        whole[0] == "0/0/1" and len(whole) < 12 and sum(len(b["codes"]) + len(b["ends"]) for b in kept.values()) <= ROOM
    )
    assert {f"0/{image}/{layer}/-1" for image in range(4) for layer in range(3)} < set(kept)
    assert len(view.html()) < 1_000_000 and not re.search(r"(?:src|href)=.http", view.html())


def test_models_without_cls_patches_or_attention():
    bare = AttentionView(Attended(looked(class_token=False), None, 0.6))
    assert bare.query == [0.625, 0.625] and bare.models[0]["cls"] is False
    assert "0/0/2/10" in state(bare)["kept"]
    xcit = AttentionView(Attended(looked("xcit"), None, 0.6))
    assert (xcit.models[0]["all"], xcit.models[0]["layers"], xcit.query) == (False, 2, [])
    assert set(state(xcit)["kept"]) == {f"0/{image}/{layer}/-1" for image in range(2) for layer in range(2)}
    torch.manual_seed(0)
    resnet = look("r", encoders.create("resnet18", 32, 8).eval(), torch.rand(1, 3, 32, 32), 1)
    view = AttentionView(Attended(resnet, None, 0.6))
    assert view.models[0]["layers"] == 0 and "no attention" in view.models[0]["said"] and state(view)["kept"] == {}
    assert Image.open(io.BytesIO(view.png())).size[0] > 100


def test_two_models_and_the_state_as_shown():
    view = AttentionView(Attended(looked(query=(1, 2)), looked(size=48, patch=8, depth=2, title="other"), 0.4))
    assert view.threshold == 0.4 and [round(at, 3) for at in view.query] == [0.375, 0.625]
    view.head, view.layer = "colours", 0
    found = state(view)
    assert (found["head"], found["layer"], found["live"]) == ("colours", 0, False)
    assert "1/0/1/15" in found["kept"]  # the same place in the other's grid of 6 x 6
    assert [model["title"] for model in found["models"]] == ["a model", "other"]


def test_live_and_in_batch(monkeypatch, tmp_path):
    view = AttentionView(Attended(looked(), None, 0.6))
    live, _ = view._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in live and "text/html" in live
    monkeypatch.setenv("MIMLAB_BATCH", "1")
    assert set(view._repr_mimebundle_()) == {"text/plain", "text/html", "image/png"}
    assert view.html(tmp_path / "a.html").read_text().startswith("<!DOCTYPE html>")
