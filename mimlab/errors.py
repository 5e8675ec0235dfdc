"""The two errors that users meet: a setting that cannot work, and work elsewhere that failed."""


class Refused(ValueError):
    """A setting that cannot work: one line that names the field, the value and what would work.

    The command line prints the line alone and exits with 2; a notebook shows it without a traceback.
    """

    def _render_traceback_(self):  # IPython asks for this name
        return [f"Refused: {self}"]


class Failed(RuntimeError):
    """A notebook or a child process that stopped: what it said, and where the rest is kept.

    A first line, then the last lines of its own traceback; ours would add nothing.
    """
