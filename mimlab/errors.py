"""The two errors that users meet, and how they repeat a value: short, on one line, without control characters."""

import re
import reprlib
import unicodedata

VALUE = 200  # characters of a value
LONGEST = 2000  # characters of a message; a list of all names that there are is the longest that is meant
WORD = 400  # of a word without a space in it, such as a path


class Refused(ValueError):
    """A setting that cannot work: one line that names the field, the value and what would work.

    The command line prints the line alone and exits with 2; a notebook shows it without a traceback. Whatever the
    message repeats from a file or a setting, it stays one line that a terminal only prints (`one_line`).
    """

    def __init__(self, message=""):
        super().__init__(one_line(message))

    def _render_traceback_(self):  # IPython asks for this name
        return [f"Refused: {self}"]


class Failed(RuntimeError):
    """A notebook or a child process that stopped: what it said, and where the rest is kept.

    A first line, then the last lines of its own traceback; ours would add nothing.
    """


def one_line(text):
    """`text` without what moves a terminal's cursor or colours it (written as escapes), with long words and itself shortened."""
    text = re.sub(r"\s*\n\s*", " ", str(text)[: 10 * LONGEST])
    text = "".join(c if _prints(c) else c.encode("unicode_escape").decode() for c in text)
    text = re.sub(rf"\S{{{WORD},}}", lambda word: _middle(word[0], WORD), text)
    return _middle(text, LONGEST)


def reason(error):
    """What an exception says in its first line, or the name of its kind where it says nothing."""
    said = getattr(error, "strerror", None) or str(error)
    return next((line.strip() for line in str(said).splitlines() if line.strip()), type(error).__name__)


def shown(value):
    """`repr` of any value in at most some hundred characters, in a time that does not depend on how much it holds."""
    try:
        return one_line(_middle(_SHORT.repr(value), VALUE))
    except Exception:  # an object whose own methods raise, of a class called list
        return f"a {type(value).__name__} that cannot be written down"


def _prints(character):
    """Neither a control character, nor one that turns the direction of writing, nor half of a pair."""
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _middle(text, most):
    return text if len(text) <= most else f"{text[: most * 2 // 3]} ... {text[-most // 4 :]}"


class _Short(reprlib.Repr):
    def __init__(self):
        super().__init__()
        self.maxlevel = 4
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 6
        self.maxstring = self.maxother = VALUE

    def repr_int(self, value, level):
        # Python itself refuses to write down very long ones
        return repr(value) if value.bit_length() < 400 else f"a whole number of {value.bit_length():,} bits"

    def repr_str(self, value, level):
        return repr(value if len(value) <= VALUE else _middle(value, VALUE))

    def repr_bytes(self, value, level):
        return repr(value[:VALUE])


_SHORT = _Short()
