"""Imports without what makes them take seconds."""

import sys


def nbformat():
    """The package nbformat, which plotly and papermill import too.

    It imports jsonschema, which compiles a grammar of internationalised addresses where `rfc3987_syntax` is installed, as
    JupyterLab wants it. Notebooks have no such addresses, and jsonschema does without.
    """
    name = "rfc3987_syntax"
    hidden = name not in sys.modules
    if hidden:
        sys.modules[name] = None  # as if it were not installed
    try:
        import nbformat
    finally:
        if hidden:
            sys.modules.pop(name, None)
    return nbformat
