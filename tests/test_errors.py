"""Messages stay short and on one line, whatever they repeat."""

import pytest

from mimlab.errors import LONGEST, Refused, one_line, shown


def bomb(levels):
    value = ["lol"] * 10
    for _ in range(levels):
        value = [value] * 10
    return value


def itself():
    value = {}
    value["again"] = value
    return value


@pytest.mark.parametrize(
    "value",
    [
        bomb(40),
        itself(),
        10**6000,
        -(10**6000),
        "x" * 10**6,
        b"x" * 10**6,
        list(range(10**6)),
        "\udce9",
        {"a" * 10**6: 1},
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_value_is_shown_in_a_few_characters(value):
    assert len(shown(value)) < 300


def test_a_plain_value_is_shown_as_it_is():
    for value in (0.1, 7, "blockwise", None, {"scale": [0.2, 1.0]}, True):
        assert shown(value) == repr(value)


@pytest.mark.parametrize("character", ["\r", "\x1b", "\x07", "\u202e", "\u2028", "\udce9", "\0"])
def test_what_a_terminal_would_obey_is_written_out(character):
    said = str(Refused(f"photo{character}.png cannot be read"))
    assert character not in said
    assert said.encode("unicode_escape").decode() in said or "\\" in said
    assert said.isprintable()


def test_lines_are_joined():
    assert str(Refused("what a library said\n  on two lines")) == "what a library said on two lines"


def test_a_message_is_never_long():
    assert len(str(Refused("name " * 10**6))) < LONGEST * 1.1
    assert len(one_line("y" * 10**6)) < 1000
    assert one_line("plain, as it was") == "plain, as it was"
