"""Run a notebook strictly: names and values are checked before a kernel starts, and only a success replaces a success."""

import importlib.util
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

from mimlab import files, kernel, light, parameters_cell, remote, trusted, yaml_text
from mimlab.errors import Refused, reason, shown
from mimlab.find import closest
from mimlab.places import places
from mimlab.watch import Cells

# what the kernel sees besides our own environment: viewers print text, and figures are data alone, which JupyterLab
# and VS Code draw by themselves; an HTML export gets plotly's JavaScript, once (page.py)
BATCH = {"MIMLAB_BATCH": "1", "PLOTLY_RENDERER": "plotly_mimetype"}
FIGURE = "application/vnd.plotly.v1+json"


def parameters(notebook):
    """Name -> {"default": value, "help": text} of the cell tagged `parameters`.

    Raises Refused where the file is missing, is no notebook, has no such cell, or a default is no plain value.
    """
    return _parameters(Path(notebook), _read(Path(notebook)))


def execute(notebook, parameters=None, *, output=None, log=None, progress=True, static=False, force=False):
    """Run a notebook with papermill and return the path of the executed copy.

    `parameters` is name -> value, as Python values or as text from a command line; where the notebook's metadata
    {"mimlab": {"config": "Pretrain"}} names a dataclass of mimlab.config, that class checks and types all of
    them, and `output` defaults to the notebook's name, without its number, in the folder of that config.
    The notebook and `output` may be addresses that fsspec opens; a failed copy is sent there too.
    `log` is the file that grows while it runs, from which progress is told; None: the config's own.
    A file at `output` that was written or changed by hand is kept and refused, unless with `force`.
    With `static` every figure is a picture, for places that show no scripts, such as GitHub.
    While it runs the copy is `<name>.running.ipynb`; a failed one stays as `<name>.failed.ipynb`, beside a finished
    earlier one.
    Raises Refused before anything starts, or where a cell raised it; Failed for every other error in a cell.
    """
    if output is not None and remote.away(output):
        return _execute_away(notebook, parameters, str(output), log=log, progress=progress, static=static, force=force)
    notebook, given = remote.here(notebook) if remote.away(notebook) else Path(notebook), dict(parameters or {})
    if static and not (importlib.util.find_spec("kaleido") and _browser()):
        raise Refused("static: pictures of figures need kaleido and a Chrome or Chromium; pip install mimlab[static]")
    node = _read(notebook)
    known = _parameters(notebook, node)
    for name in given:
        if name not in known:
            there = ", ".join(known) or "none"
            raise Refused(f"{notebook.name}: no parameter {shown(name)}{closest(name, known)}; there are: {there}")
    config = _config(notebook, node)
    if config is None and output is None:
        raise Refused(f"output: {notebook.name} names no config, so give a path for the executed copy")
    if config is None:
        given = {name: _typed(name, value, known[name]["default"]) for name, value in given.items()}
    started = kernel.new(BATCH | ({"PLOTLY_RENDERER": "png"} if static else {}))
    try:
        if config is not None:
            cfg = config.read({name: parameter["default"] for name, parameter in known.items()} | given)
            given = {name: getattr(cfg, name) for name in given}
            if output is None or (progress and log is None):
                folder, grows = places(started, config.__name__, cfg)
                log = log or (Path(grows) if progress and grows else None)
                output = output or Path(folder) / re.sub(r"^\d+[_-]*", "", notebook.name)
        output = Path(output)
        if output.suffix != ".ipynb" or output.resolve() == notebook.resolve():
            raise Refused(f"output = '{output}': give a path that ends in .ipynb and is not the notebook itself")
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Refused(f"output = '{output}': cannot make {output.parent} ({reason(error)})") from None
        kernel.check(output, node, force)
        kernel.run(node, given, output, Cells(output.stem, node, log, sys.stderr) if progress else None, started)
    finally:
        kernel.end(started)
    return output


def _execute_away(notebook, parameters, address, **options):
    """Execute in a folder of our own, then send the copy, or the failed one, to an address, which is returned."""
    if not address.endswith(".ipynb"):
        raise Refused(f"output = '{address}': give an address that ends in .ipynb")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / address.rpartition("/")[2]
        if (before := remote.there(address)) is not None and not options.get("force"):
            output.write_bytes(before)
            kernel.check(output, _read(remote.here(notebook) if remote.away(notebook) else Path(notebook)))
        try:
            execute(notebook, parameters, output=output, **options)
        except BaseException:
            failed = output.with_name(f"{output.stem}.failed.ipynb")
            if failed.exists():
                remote.send(failed, address.removesuffix(".ipynb") + ".failed.ipynb")
            raise
        remote.send(output, address)
    return address


def read_parameters(path):
    """{name: value} of a YAML file, at a path or an address, as papermill's -f takes them. Raises `Refused`."""
    found = yaml_text.read(path, "parameters")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise Refused(f"parameters = {shown(str(path))} should hold names with values")
    if remote.away(path):
        trusted.check_all(found, f"the parameters '{path}'")
    return found


def export_html(notebook, force=False):
    """Write an executed notebook as one HTML file beside it, complete without a network; returns its path.

    Only an earlier one is replaced, unless with `force`.
    """
    nbformat = light.nbformat()
    from nbconvert import HTMLExporter

    from mimlab import page

    notebook = Path(notebook)
    _must_exist(notebook)
    node = nbformat.read(notebook, as_version=4)
    drawn = [out for cell in node.cells for out in cell.get("outputs", ()) if FIGURE in out.get("data", {})]
    for out in drawn:  # nbconvert would leave them out
        out.data = {"text/html": page.plot(out.data[FIGURE])}
    # Loaders of MathJax, require.js and mermaid would fetch from a CDN, and hang where that is blocked.
    html, _ = HTMLExporter(require_js_url="", mathjax_url="").from_notebook_node(
        node, {"metadata": {"name": notebook.stem}}
    )
    html = re.sub(r"<script\b[^>]*\bsrc=\"(https?:[^\"]*)?\"[^>]*>\s*</script>", "", html)
    if drawn:
        before, end, after = html.rpartition("</body>")
        html = before + page.library() + end + after
    target = notebook.with_suffix(".html")
    head = re.sub(r"<head\b[^>]*>", lambda found: f"{found[0]}{page.MARK}", html[:1000], count=1)
    files.replaceable(target, "html", page.ours, force)
    files.write(target, head + html[1000:])
    return target


def _must_exist(notebook):
    if not notebook.is_file():
        beside = sorted(path.name for path in notebook.parent.glob("*.ipynb"))
        raise Refused(
            f"notebook: there is no file '{notebook}'{closest(notebook.name, beside)}; "
            f"there are: {', '.join(beside) or 'none'}"
        )


def _read(notebook):
    """The notebook as a node of the latest format, or Refused."""
    nbformat = light.nbformat()

    _must_exist(notebook)
    try:
        node = nbformat.read(notebook, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError, UnicodeDecodeError, AttributeError):
        raise Refused(f"notebook: '{notebook}' is not a Jupyter notebook (.ipynb)") from None
    if not any("parameters" in cell.metadata.get("tags", []) for cell in node.cells):
        raise Refused(f"{notebook.name}: no cell is tagged 'parameters'; tag the one that sets the settings")
    # the kernel is this interpreter whatever was recorded, and papermill wants the language named
    node.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return node


def _parameters(notebook, node):
    cell = next(cell for cell in node.cells if "parameters" in cell.metadata.get("tags", []))
    return parameters_cell.read(cell.source, notebook.name)


def _typed(name, value, default):
    """Text of a command line read as YAML where the default is no text: without a config nothing else tells the type."""
    if not isinstance(value, str) or isinstance(default, str):
        return value
    return yaml_text.load(value, f"{name} = {shown(value)} is no value such as 3, 0.5, true or [1, 2]")


def _config(notebook, node):
    """The dataclass that the notebook's metadata names, or None."""
    name = node.metadata.get("mimlab", {}).get("config")
    if name is None:
        return None
    module = importlib.import_module("mimlab.config")
    known = [key for key, value in vars(module).items() if hasattr(value, "read")]
    if name not in known:
        raise Refused(
            f"{notebook.name}: metadata names the config {shown(name)}{closest(name, known)}; there are: {', '.join(known)}"
        )
    return getattr(module, name)


def _browser():
    """Where a Chrome or Chromium is, or None."""
    known = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    return os.environ.get("BROWSER_PATH") or next(filter(None, map(shutil.which, known)), None)
