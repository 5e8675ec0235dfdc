"""Every test has a cache folder of its own session, few threads, and no network."""

import json
import os
import signal
import socket

import pytest

# A shell starts background jobs with Ctrl-C ignored, and children inherit that; tests interrupt themselves.
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory):
    """MIMLAB_HOME for the session: caches are shared between tests, never with the user's."""
    folder = tmp_path_factory.mktemp("home")
    os.environ["MIMLAB_HOME"] = str(folder)
    os.environ["JUPYTER_DATA_DIR"] = str(folder / "jupyter")  # where signatures of trusted notebooks are
    return folder


@pytest.fixture
def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def folder(tmp_path):
    """`make(name, rows, evals, **settings)` writes a run folder without training."""

    from run_cases import finish

    import mimlab
    from mimlab.run import Run

    def make(name, rows=(), evals=None, finished=True, **settings):
        path = tmp_path / name
        (path / "evals").mkdir(parents=True)
        given = {"method": "mae", "data": "emoji", "image_size": 16, "patch_size": 4, "batch_size": 8, "knn_every": 0}
        cfg = mimlab.Pretrain(out=str(tmp_path), **(given | settings)).resolved()
        about = {"data_fingerprint": "f", "images": 64, "classes": None, "timm": {}, "versions": {}, "commit": "c"}
        (path / "config.json").write_text(json.dumps({"settings": cfg.dict()} | about))
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for protocol, content in (evals or {}).items():
            (path / "evals" / f"{protocol}.json").write_text(json.dumps(content))
        if finished:
            finish(path)
        return Run(path)

    make.out = str(tmp_path)
    return make
