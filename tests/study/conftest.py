"""An empty folder to work in, and notebooks to write there."""

from pathlib import Path

import nbformat
import pytest

import mimlab

ROOT = Path(mimlab.__file__).parent.parent


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in; workers and kernels find this mimlab."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MIMLAB_ROOT", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def write_notebook(path, *cells):
    """A notebook without settings class; its first cell has the parameters."""
    node = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    node.cells[0].metadata.tags = ["parameters"]
    nbformat.write(node, path)
    return path


@pytest.fixture
def notebook_writer():
    return write_notebook
