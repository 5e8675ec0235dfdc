"""Nothing is worse than linear in the number of images, and a million of them open at once in little memory."""

import json
import os
import subprocess
import sys

import pytest

from mimlab import data
from mimlab.scale import growth, power

MILLION = """
import json, resource, sys, time
import numpy as np
from mimlab import data
from mimlab.config import Pretrain
from mimlab.data.augment import Augment
from mimlab.batches import Batches
def mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 2**20)
before, began = mb(), time.process_time()
images = data.open("mimlab.scale.blank", size=32, fraction=float(sys.argv[1]), count=1_000_000, classes=1000)
opened = time.process_time() - began
views, labels, rows = Batches(images, Augment(32), Pretrain(batch_size=64), len(images) // 64)[0]
first = time.process_time() - began - opened
counts = np.bincount(images.labels)
print(json.dumps([len(images), opened, first, mb() - before, int(counts.min()), int(counts.max()), views[0].shape[0]]))
"""


@pytest.mark.parametrize("fraction", [1.0, 0.01])
def test_a_million_images_open_at_once_in_little_memory(fraction, tmp_path, monkeypatch):
    monkeypatch.setenv("MIMLAB_HOME", str(tmp_path))
    growth.written(1_000_000, 32, 1000)
    assert (tmp_path / "images").exists() and not list(tmp_path.rglob("*.partial"))
    child = subprocess.run(
        [sys.executable, "-c", MILLION, str(fraction)], capture_output=True, text=True, env=os.environ
    )
    assert child.returncode == 0, child.stderr
    count, opened, first, grown, fewest, most, batch = json.loads(child.stdout)
    assert count == pytest.approx(1_000_000 * fraction, rel=1e-3) and batch == 64
    assert opened < 5 and first < 2
    assert grown < 150  # MiB; the pixels are 3 GB, the labels 8 MB
    if fraction < 1:
        assert fewest >= 7 and most <= 13  # every class has its share


def test_nothing_is_worse_than_linear():
    counts = (40_000, 160_000, 640_000)
    found = [growth.costs(count, size=8) for count in counts]
    assert set(found[0]) == {"open", "open 1 %", "first batch", "neighbours"}
    for part in found[0]:
        exponent = power(counts, [row[part] for row in found])[1]
        assert exponent < 1.35, (part, exponent)  # n log n is 1.08 here


def test_a_subset_does_not_cost_more_with_many_classes():
    """One pass a class would be 20,000 passes: minutes."""
    import time

    import numpy as np

    labels = np.random.default_rng(0).integers(0, 20_000, 400_000)
    began = time.process_time()
    rows = data.subset(labels, 0.1, 0)
    assert time.process_time() - began < 5
    assert len(np.unique(labels[rows])) == 20_000


def test_the_cache_folder_is_put_back(monkeypatch):
    monkeypatch.setenv("MIMLAB_HOME", "here")
    with growth.elsewhere() as there:
        assert os.environ["MIMLAB_HOME"] == there != "here"
    assert os.environ["MIMLAB_HOME"] == "here" and not os.path.exists(there)
