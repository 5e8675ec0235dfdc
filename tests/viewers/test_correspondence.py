"""The correspondence viewer and the map: what they send is what the features say, small, and complete without a kernel."""

import base64
import io
import json
import re
import time

import numpy as np
import pytest
import torch
from PIL import Image

from mimlab.errors import Refused
from mimlab.viewers.correspondence import Correspondence, packed
from mimlab.viewers.feature_map import FeatureMap


def cells(b=3, h=4, w=5, d=24, seed=0):
    return torch.randn(b, h, w, d, generator=torch.Generator().manual_seed(seed))


def unpacked(found):
    rows = np.frombuffer(base64.b64decode(found["values"]), np.int8).reshape(-1, found["dims"])
    return rows * np.frombuffer(base64.b64decode(found["scales"]), "<f4")[:, None]


def exact(features):
    rows = torch.nn.functional.normalize(features.flatten(0, 2), dim=1).numpy()
    return rows @ rows.T


def told(found):
    return float(re.search(r"at most ([\d.e-]+)", found["note"])[1])


def test_packed_features_give_the_cosines():
    found = packed(cells())
    rows = unpacked(found)
    assert found["grid"] == [4, 5] and found["dims"] == 24 and "24 dimensions," in found["note"]
    assert np.abs(rows @ rows.T - exact(cells())).max() < min(0.02, 1.5 * told(found) + 1e-3)


def test_what_is_too_large_is_reduced_and_says_so():
    low = cells(d=6) @ torch.randn(6, 24, generator=torch.Generator().manual_seed(1))
    found = packed(low, 60 * 8)  # of rank 6: 8 axes hold it all
    rows = unpacked(found)
    assert found["dims"] == 8 and "8 of 24 dimensions, by PCA" in found["note"]
    assert np.abs(rows @ rows.T - exact(low)).max() < 0.02
    coarse = packed(cells(), 60 * 8)
    assert told(coarse) > 0.1 and len(base64.b64decode(coarse["values"])) <= 60 * 8


def test_features_that_are_not_finite_are_refused():
    wrong = cells()
    wrong[0, 0, 0, 0] = torch.nan
    with pytest.raises(Refused, match="diverged"):
        packed(wrong)
    with pytest.raises(Refused, match="for 2 images"):
        Correspondence(torch.rand(2, 3, 8, 8), cells())


def test_another_layer_is_asked_once_and_the_query_keeps_its_place():
    asked = []

    def ask(layer):
        asked.append(layer)
        return cells(h=8, w=10, seed=layer)

    viewer = Correspondence(torch.rand(3, 3, 32, 40), cells(), layers=[0, 1, "output"], ask=ask)
    viewer.view.query = [1, 2 * 5 + 3]
    viewer.view.layer = "1"
    until(lambda: viewer.view.cells["layer"] == "1")
    assert viewer.query == (1, 4, 6) and viewer.view.cells["grid"] == [8, 10]
    viewer.view.layer = "output"
    until(lambda: viewer.view.cells["layer"] == "output")
    viewer.view.layer = "1"
    until(lambda: viewer.view.cells["layer"] == "1")
    assert asked == [1]


def test_a_layer_that_fails_is_one_line():
    def ask(layer):
        raise Refused("no such thing")

    viewer = Correspondence(torch.rand(3, 3, 32, 40), cells(), layers=[0, "output"], ask=ask)
    viewer.view.layer = "0"
    until(lambda: viewer.view.said)
    assert viewer.view.said == "no such thing" and viewer.view.layer == viewer.view.cells["layer"] == "output"


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def state(html):
    text = re.search(r'<script type="application/json">(.*?)</script>', html, re.S)[1]
    return json.loads(text)["state"]


def test_a_saved_copy_is_whole_and_small(monkeypatch):
    monkeypatch.setenv("MIMLAB_BATCH", "1")
    images = torch.rand(32, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    images = torch.nn.functional.interpolate(images, size=224, mode="bicubic").clamp(0, 1)
    viewer = Correspondence(images, cells(32, 14, 14, 384), layers=[0, "output"], ask=lambda layer: None, title="run")
    bundle = viewer._repr_mimebundle_()
    found = state(bundle["text/html"])
    assert len(json.dumps(bundle)) < 1_000_000
    assert viewer.view.cells["dims"] == 239 and found["cells"]["dims"] == 66  # 32 * 196 patches
    assert not found["live"] and len(found["pictures"]) == 32 and found["cells"]["grid"] == [14, 14]
    assert "application/vnd.jupyter.widget-view+json" not in bundle
    picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert min(picture.size) > 180 and "image 0" in bundle["text/plain"]
    assert not re.search(r"(?:src|href)=.http", bundle["text/html"])


def test_live_there_is_a_widget_and_the_copy():
    bundle = Correspondence(torch.rand(1, 3, 32, 40), cells(1))._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle and "text/html" in bundle


def test_the_map_keeps_places_labels_and_images():
    points = torch.tensor([[0.0, 0.0], [4.0, 1.0], [2.0, 2.0], [4.0, 0.0], [0.0, 1.0]])
    images = torch.arange(5, dtype=torch.uint8).mul(50).view(5, 1, 1, 1).expand(5, 3, 32, 32)
    found = FeatureMap(points, images, torch.tensor([0, 1, 1, 0, 2]), ["a", "b", "c"], "t", "n")
    bundle = found._repr_mimebundle_()
    held = state(bundle["text/html"])
    assert held["points"] == [[0, 2500], [10000, 5000], [5000, 7500], [10000, 2500], [0, 5000]]  # one scale
    assert held["labels"] == [0, 1, 1, 0, 2] and held["classes"] == ["a", "b", "c"]
    sprite = held["sprite"]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(sprite["src"].split(",")[1]))).convert("L"))
    for k in range(5):
        row, column = divmod(k, sprite["columns"])
        value = pixels[row * sprite["side"] + 16, column * sprite["side"] + 16]
        assert abs(int(value) - 50 * k) < 6
    bare = state(FeatureMap(points, images)._repr_mimebundle_()["text/html"])
    assert bare["labels"] is None and "no labels" in bare["note"]
    with pytest.raises(Refused, match="diverged"):
        FeatureMap(points * torch.nan, images)


def test_a_map_of_2000_images_is_small():
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(2000, 3, 32, 32, generator=generator) * 255).byte()
    bundle = FeatureMap(torch.rand(2000, 2, generator=generator), images)._repr_mimebundle_()
    assert len(json.dumps(bundle)) < 3_000_000
