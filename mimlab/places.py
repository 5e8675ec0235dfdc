"""Where a notebook's copy and log go, which takes its settings checked: by this process, or by the notebook's kernel.

The check takes torch and timm: seconds, spent once and in one process where the kernel does it.
"""

import ast
import asyncio
import importlib
import json
import sys

from mimlab import strict
from mimlab.errors import Failed, Refused
from mimlab.kernel import START

ALIVE = 1.0  # s between looks whether a kernel that is asked still lives


def places(kernel, name, cfg):
    """(folder, log) of settings `cfg` of the class `name`, as texts, log perhaps None. Raises Refused, and Failed.

    Where torch is loaded it is done here, before any kernel starts; else by `kernel`, of `kernel.new`, which is started.
    """
    from nbclient.exceptions import DeadKernelError

    if "torch" in sys.modules:
        return _places(cfg)
    from jupyter_core.utils import run_sync

    values = strict.dumps(cfg.dict(), default=str)
    try:
        said = run_sync(_asked)(kernel, f"__import__('mimlab.places').places.answer({name!r}, {values!r})")
    except DeadKernelError:
        raise Failed("the kernel died (out of memory, or killed) before the first cell") from None
    return tuple(json.loads(ast.literal_eval(said)))


def answer(name, values):
    """What the kernel says to `places`, as JSON."""
    return strict.dumps(_places(getattr(importlib.import_module("mimlab.config"), name).read(json.loads(values))))


def _places(cfg):
    log = cfg.log()
    return str(cfg.folder()), None if log is None else str(log)


async def _asked(kernel, expression):
    """Start the kernel and return the text of `expression`, of which the notebook sees nothing."""
    from nbclient.exceptions import DeadKernelError

    kernel.busy = True
    await kernel.start_kernel()
    client = kernel.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=START)
    except RuntimeError as error:
        raise DeadKernelError(str(error)) from None
    asked = client.execute("", silent=True, user_expressions={"said": expression}, reply=True, timeout=START)
    reply = asyncio.ensure_future(asked)
    while not (await asyncio.wait({reply}, timeout=ALIVE))[0]:
        if not await kernel.is_alive():
            raise DeadKernelError("Kernel died")
    kernel.busy, said = False, reply.result()["content"]["user_expressions"]["said"]
    if said["status"] == "ok":
        return said["data"]["text/plain"]
    if said["ename"] == "KeyboardInterrupt":
        raise KeyboardInterrupt
    raise Refused(said["evalue"]) if said["ename"] == "Refused" else Failed("\n".join(said["traceback"]))
