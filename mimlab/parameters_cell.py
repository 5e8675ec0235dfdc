"""A notebook's parameters cell, read by Python's own parser: names, values, and the comment behind each."""

import ast
import io
import re
import tokenize

from mimlab.errors import Refused, shown


def read(source, where):
    """Name -> {"default": value, "help": text} of a cell's source, in its order; what is said last of a name counts.

    A cell is plain assignments: `name = value  # help`, also annotated, over several lines, or `a = b = 3`. `Refused`
    names any other line; `where` is the notebook's name.
    """
    try:
        body = ast.parse(source).body
        comments = _comments(source)
    except SyntaxError as error:
        line = (error.lineno or 1) - 1
        text = source.splitlines()[line] if line < len(source.splitlines()) else ""
        raise Refused(_said(where, line + 1, text, error.msg)) from None
    except (ValueError, RecursionError, MemoryError) as error:  # a zero byte, nested without end
        raise Refused(_said(where, 1, source, error)) from None
    found = {}
    for one in body:
        for name in _names(one):
            found[name] = {"default": _value(one, name, source, where), "help": _help(one, comments)}
        if not _names(one):
            raise Refused(_said(where, one.lineno, ast.get_source_segment(source, one) or ""))
    return found


def _names(statement):
    """What a plain assignment sets, or [] for anything else."""
    if isinstance(statement, ast.AnnAssign):
        targets = [statement.target] if statement.value is not None else []
    else:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
    return [target.id for target in targets] if all(isinstance(target, ast.Name) for target in targets) else []


def _value(statement, name, source, where):
    try:
        return ast.literal_eval(statement.value)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):  # a call, a name, a list as a dict's name
        text = ast.get_source_segment(source, statement.value) or ""
        raise Refused(_said(where, statement.lineno, f"{name} = {text}")) from None


def _comments(source):
    """Line -> (column, text) of each comment."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    try:
        return {one.start[0]: (one.start[1], one.string) for one in tokens if one.type == tokenize.COMMENT}
    except tokenize.TokenError as error:
        raise SyntaxError(str(error)) from None


def _help(statement, comments):
    """The comment behind a statement's last line, else behind its first, without a `type:` of old."""
    for line in (statement.end_lineno, statement.lineno):
        if line in comments:
            return re.sub(r"^#\s*(type:\s*\S+\s*)?", "", comments[line][1]).strip()
    return ""


def _said(where, line, text, why=""):
    why = f" ({why})" if why else ""
    return (
        f"{where}: line {line} of the parameters cell is {shown(text.strip())}{why}; "
        "a parameters cell holds plain lines such as name = 0.5"
    )
