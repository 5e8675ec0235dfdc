import pytest


@pytest.fixture(autouse=True)
def home(tmp_path_factory, monkeypatch):
    """An empty cache folder for every test."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("MIMLAB_HOME", str(folder))
    return folder
