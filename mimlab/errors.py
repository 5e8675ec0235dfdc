"""The one error that a user's setting can cause."""


class Refused(ValueError):
    """A setting that cannot work: one line that names the field, the value and what would work.

    The command line prints the line alone and exits with 2; a notebook shows it without a traceback.
    """

    def _render_traceback_(self):  # IPython asks for this name
        return [f"Refused: {self}"]
