"""Names are files."""

from types import SimpleNamespace

import pytest

from mimlab import find
from mimlab.errors import Refused


def test_a_name_is_its_file():
    assert find.find("masks", "random").__name__ == "mimlab.masks.random"
    assert "blockwise" in find.names("masks") and "__init__" not in find.names("masks")


def test_a_users_own_module_and_function(tmp_path, monkeypatch):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "__init__.py").write_text("")
    (tmp_path / "theirs" / "mask.py").write_text("def rank(batch, grid, generator): ...")
    monkeypatch.syspath_prepend(tmp_path)
    assert callable(find.find("masks", "theirs.mask").rank)

    def diagonal(batch, grid, generator): ...

    assert find.find("masks", diagonal).rank is diagonal
    assert find.find("masks", SimpleNamespace(rank=diagonal)).rank is diagonal


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("blokwise", "no masks called 'blokwise' .did you mean 'blockwise'..; there are: blockwise, random, split"),
        ("not.there", "no module called 'not.there' can be imported"),
        ("", "'' is not a name"),
        (3, "3 is not a name"),
    ],
)
def test_what_is_not_there(name, said):
    with pytest.raises(Refused, match=said):
        find.find("masks", name)


def test_options():
    def build(a, *, depth=2, dim): ...

    assert list(find.options(build)) == ["depth", "dim"]
    find.check_options("args", {"dim": 3}, build)
    with pytest.raises(Refused, match="args: no option 'dept' .did you mean 'depth'..; there are: depth, dim"):
        find.check_options("args", {"dept": 3}, build)
    with pytest.raises(Refused, match="args = 3 is not a dict"):
        find.check_options("args", 3, build)


def test_a_refusal_is_one_line_in_a_notebook():
    assert Refused("x = 1 cannot work")._render_traceback_() == ["Refused: x = 1 cannot work"]
