"""A process of its own: its answers, its errors, its end, and how it came to be."""

import os
import signal
import sys
import time

import pytest

from mimlab.bench.child import Child, context
from mimlab.errors import Failed, Refused


def counting(say, start):
    word = say((os.getpid(), "mimlab.bench.works" in sys.modules))
    while word:
        start += word
        word = say(start)


def refusing(say):
    raise Refused("vocab = 0 cannot work")


def failing(say):
    say("so far so good")
    raise KeyError("gone")


def dying(say):
    os._exit(7)


def killed(pid):
    """Whether a process is gone within ten seconds."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


def test_words_and_answers():
    with Child(counting, start=5) as one, Child(counting, start=50) as other:
        pids = {os.getpid(), one.first[0], other.first[0]}
        assert len(pids) == 3
        assert [one(1), other(1), one(2), other(10)] == [6, 51, 8, 61]
        if context().get_start_method() == "forkserver":
            assert one.first[1] and other.first[1]  # modules are there from the start
    assert one.process.exitcode == other.process.exitcode == 0


def test_errors_come_back_as_what_they_are():
    with pytest.raises(Refused, match="^vocab = 0 cannot work$"):
        Child(refusing)
    child = Child(failing)
    assert child.first == "so far so good"
    with pytest.raises(Failed, match="KeyError: 'gone'") as error:
        child()
    assert "in failing" in str(error.value.__cause__)  # the line where it happened
    child.close()
    with pytest.raises(Failed, match="ended with 7"):
        Child(dying)


def test_it_ends_with_whoever_asked_and_a_kill_is_told():
    with pytest.raises(ZeroDivisionError), Child(counting, start=0) as child:
        1 / 0  # noqa: B018
    assert killed(child.first[0])
    with Child(counting, start=0) as child:
        os.kill(child.first[0], signal.SIGKILL)
        with pytest.raises(Failed, match="ended with -9"):
            child()


def test_ctrl_c_ends_it_without_a_word(capfd):
    with Child(counting, start=0) as child:
        os.kill(child.first[0], signal.SIGINT)
        with pytest.raises(Failed, match="ended with 0"):
            child()
    assert capfd.readouterr().err == ""
