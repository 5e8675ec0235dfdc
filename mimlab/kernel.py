"""papermill from start to the renamed copy, in a kernel of this very interpreter."""

import contextlib
import hashlib
import os
from pathlib import Path

from mimlab import files, strict
from mimlab.errors import Failed, Refused
from mimlab.watch import Silent

AUTOSAVE = 20  # s between saves of a running cell
ADDED = {"injected-parameters", "papermill-error-cell-tag"}  # tags of cells that papermill puts in
START = 600  # s for a kernel to start: on a busy machine papermill's 60 are too few


def run(node, given, output, progress, kernel):
    """Execute a notebook node with the values `given` into `output`, in a `kernel` of `new`, which is started if need be.

    `progress`: a `watch.Silent` or None. Raises Refused where a cell raised it; Failed for every other error in a cell.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError, strip_color

    running, failed = (output.with_name(f"{output.stem}.{state}.ipynb") for state in ("running", "failed"))
    try:
        with progress or Silent() as watch:
            done = papermill.execute_notebook(
                node,
                str(running).replace("{", "{{").replace("}", "}}"),  # papermill formats the path
                {name: str(value) if isinstance(value, Path) else value for name, value in given.items()},
                kernel_name="python3",
                language="python",
                progress_bar=False,
                autosave_cell_every=AUTOSAVE,
                store_widget_state=False,
                record_timing=False,
                start_timeout=START,
                km=kernel,
                on_cell_start=kernel.begins(watch.cell_starts),
                on_cell_executed=kernel.ends(watch.cell_ends),  # on_cell_complete comes when the cell was merely sent
            )
    except BaseException as error:
        _settle()
        if running.exists():
            _clean(running)
            os.replace(running, failed)
        if isinstance(error, PapermillExecutionError):
            if error.ename == "Refused":
                raise Refused(error.evalue) from None
            last = strip_color("\n".join(error.traceback)).rstrip().splitlines()[-8:]
            what = f"{error.ename}: {error.evalue.splitlines()[0] if error.evalue else ''}".rstrip(": ")
            told = f"{output.stem}: cell [{error.exec_count}] raised {what}; kept as {failed}"
            raise Failed("\n".join([told, *last])) from None
        if isinstance(error, DeadKernelError):
            told = (
                f"{output.stem}: the kernel died (out of memory, or killed) in cell [{watch.started}]; kept as {failed}"
            )
            raise Failed(told) from None
        raise
    _strip(done)
    _write(done, running)
    os.replace(running, output)
    _trust(done)
    failed.unlink(missing_ok=True)  # it told of an attempt that has now succeeded


def check(output, node, force=False):
    """Refuse to replace what somebody wrote by an executed copy of `node`, unless with `force`; never through a link.

    A copy that is as it was executed may be replaced: its cells are those that its metadata tells, or the notebook's.
    """
    running, failed = (output.with_name(f"{output.stem}.{state}.ipynb") for state in ("running", "failed"))
    files.plain(running, failed, output)
    source = digest(node)
    files.replaceable(output, "output", lambda raw: _executed(raw, source), force)
    files.replaceable(failed, "output", lambda raw: _executed(raw, source) or not _json(raw), force)  # one cut off
    node.metadata["mimlab"] = {**node.metadata.get("mimlab", {}), "executed": source}


def digest(node):
    """16 hex digits of a notebook's cells, but for those that papermill puts in."""
    cells = [
        [cell["cell_type"], "".join(cell["source"])]
        for cell in node["cells"]
        if not ADDED & set(cell.get("metadata", {}).get("tags", []))
    ]
    return hashlib.blake2b(strict.dumps(cells).encode(), digest_size=8).hexdigest()


def _executed(raw, source):
    """Whether the bytes of a notebook are an executed copy in which nobody changed a cell."""
    if not raw.strip():
        return True
    try:
        node = files.loads(raw)
        own = digest(node)
        about = node.get("metadata", {}).get("mimlab")
        return own in (source, about.get("executed") if isinstance(about, dict) else None)
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def _json(raw):
    try:
        return isinstance(files.loads(raw), dict)
    except ValueError:
        return False


def new(environment):
    """A manager of a kernel, not started, for this very interpreter and the batch environment; to be given to `end`.

    A kernelspec `python3` of the user or of the system may belong to another Python; none is looked at. The
    environment is the kernel's alone: ours stays as it is, so several notebooks may run in threads.
    """
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    class Kernel(AsyncKernelManager):
        def __init__(self):
            super().__init__(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
            self.busy, self.clients = False, []  # with a cell; who talks to it

        def client(self, **options):
            self.clients.append(super().client(**options))
            return self.clients[-1]

        async def start_kernel(self, **options):
            # else: a warning about TCP at each start, tracebacks of one that is interrupted, and a history file that all share
            quiet = ["--log-level=CRITICAL", "--HistoryManager.hist_file=:memory:"]
            given = {"extra_arguments": quiet, "env": {**os.environ, **environment}}
            await AsyncKernelManager.start_kernel(self, **{**options, **given})

        async def shutdown_kernel(self, now=False, restart=False):
            """jupyter_client interrupts a kernel before it asks it to end, which only a cell at work needs.

            A kernel without one may be in the middle of a message, and would complain of a KeyboardInterrupt.
            """
            if now or restart or self.busy:
                await AsyncKernelManager.shutdown_kernel(self, now=now, restart=restart)
                return
            self.stop_restarter()
            await self.request_shutdown()
            await self.finish_shutdown()
            await self.cleanup_resources()

        async def end(self):
            for client in self.clients:
                client.stop_channels()
            if self.has_kernel and await self.is_alive():
                await self.shutdown_kernel()
            else:
                await self.cleanup_resources()

        def begins(self, tell):
            return lambda **cell: setattr(self, "busy", True) or tell(**cell)

        def ends(self, tell):
            return lambda **cell: setattr(self, "busy", False) or tell(**cell)

    return Kernel()


def end(kernel):
    """End the kernel, if it runs, and close what it left."""
    from jupyter_core.utils import run_sync

    run_sync(kernel.end)()


def _settle():
    """Cancel what an interrupt left waiting in this thread's loop, before it finds its kernel dead and complains of it."""
    import asyncio

    from jupyter_core.utils import ensure_event_loop

    loop = ensure_event_loop()
    waiting = [] if loop.is_running() else asyncio.all_tasks(loop)  # within Jupyter the loop is not ours
    for task in waiting:
        task.cancel()
    if waiting:
        loop.run_until_complete(asyncio.gather(*waiting, return_exceptions=True))


def _trust(node):
    """Sign what ran here, as JupyterLab does with cells that it runs, so that its viewers are alive when it is opened."""
    import sqlite3

    from nbformat.sign import NotebookNotary

    with contextlib.suppress(OSError, sqlite3.Error):  # a home folder that cannot be written
        NotebookNotary().sign(node)


def _strip(node):
    """Remove what papermill noted: paths of this machine and times."""
    for part in (node, *node.cells):
        part.metadata.pop("papermill", None)


def _clean(path):
    """Strip a copy that was cut off, if it is whole enough to be read."""
    import nbformat

    try:
        node = nbformat.read(path, as_version=4)
    except (ValueError, AttributeError, nbformat.ValidationError):
        return  # killed in the middle of a save: keep the bytes as evidence
    _strip(node)
    _write(node, path)


def _write(node, path):
    import nbformat

    aside = path.with_name(path.name + ".part")
    nbformat.write(node, aside)
    os.replace(aside, path)
