"""The embedded emoji: what the pack holds, its splits and its background."""

import hashlib
import io
import json
import zipfile
from collections import Counter

import numpy as np
import torch
from PIL import Image

from mimlab import data
from mimlab.data import emoji


def test_pack():
    assert emoji.FILE.stat().st_size < 3_000_000
    assert hashlib.sha256(emoji.FILE.read_bytes()).hexdigest() == emoji.SHA256
    with zipfile.ZipFile(emoji.FILE) as pack:
        index = json.loads(pack.read("index.json"))
        assert index["columns"] == ["file", "label", "subcategory", "name"]
        groups = Counter(row[1] for row in index["rows"])
        image = Image.open(io.BytesIO(pack.read("1f34e.webp")))
        assert all(i.compress_type == zipfile.ZIP_STORED for i in pack.infolist())
    assert groups == {
        "Objects": 262,
        "Travel & Places": 218,
        "Animals & Nature": 158,
        "Food & Drink": 130,
        "Activities": 85,
    }
    assert image.mode == "RGBA" and image.size == (64, 64)
    r, g, _, a = np.asarray(image)[40, 32]  # the middle of a red apple
    assert a == 255 and r > 150 and g < 100 and np.asarray(image)[0, 0, 3] == 0
    assert "SIL OPEN FONT LICENSE" in emoji.FILE.with_name("emoji.LICENSE").read_text()


def test_splits_and_background():
    train, test = data.open("emoji", size=16), data.open("emoji", "test", size=16)
    assert (len(train), len(test)) == (682, 171) and len(train.classes) == 5
    shares = np.bincount(test.labels) / (np.bincount(test.labels) + np.bincount(train.labels))
    assert np.abs(shares - 0.2).max() < 0.01
    dark = data.open("emoji", size=16, background="#000000")
    corner = (slice(None), slice(None), 0, 0)
    rows = torch.arange(100)
    assert train.get(rows)[corner].float().mean() > 240 and dark.get(rows)[corner].float().mean() < 15
    assert train.fingerprint != dark.fingerprint
