"""A process of its own for whatever takes turns: what one case leaves in the memory of its process touches no other.

Memory that a program has freed stays with its process, in pieces that depend on all that ran there; cases that share one
slow each other or help each other, and no user trains two models in turns. So each case has a process, forked from one
that has loaded all modules, and waits there until it is asked. A script that calls this does so under
`if __name__ == "__main__":`, as Python's multiprocessing asks for.
"""

import contextlib
import multiprocessing
import traceback

from mimlab.errors import Failed, Refused
from mimlab.find import names

MODULES = ("mimlab.bench.works", "timm.models.vision_transformer")


class Child:
    """`work(say, **given)` in a process of its own, from its start to its first answer, `self.first`.

    There `say(answer)` hands an answer over and returns the next word, None at the end. Calling the child gives it a word
    and returns the answer. Raises what the work raised: `Refused` as it is, anything else as `Failed`.
    """

    def __init__(self, work, **given):
        ours, theirs = context().Pipe()
        self.process = context().Process(target=serve, args=(theirs, work, given))
        self.process.start()
        theirs.close()  # so that its death ends the pipe
        self.pipe = ours
        try:
            self.first = self.hear()
        except BaseException:
            self.close()
            raise

    def __call__(self, word="go"):
        with contextlib.suppress(OSError):  # it is gone, as the next line tells
            self.pipe.send(word)
        return self.hear()

    def hear(self):
        try:
            answer, error = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            raise Failed(f"a process of the benchmark ended with {self.process.exitcode}") from None
        if error is None:
            return answer
        kind, text, trace = error
        raise Refused(text) if kind == "Refused" else Failed(f"{kind}: {text}") from RuntimeError(trace)

    def close(self):
        with contextlib.suppress(OSError):  # it may be gone
            self.pipe.send(None)
        self.pipe.close()
        self.process.join()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def context():
    """How processes are started: forked from a server that has the modules, where there is one; no torch runs in it."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    found = multiprocessing.get_context("forkserver")
    # what cannot be imported there, such as a peer that is not installed, is passed over
    found.set_forkserver_preload([*MODULES, *(f"mimlab.bench.peers.{name}" for name in names("bench.peers"))])
    return found


def serve(pipe, work, given):
    """What the process does."""

    def say(answer):
        pipe.send((answer, None))
        try:
            return pipe.recv()
        except EOFError:  # whoever asked is gone
            return None

    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):  # whoever asked hears of Ctrl-C as well
        try:
            work(say, **given)
        except Exception as error:
            text = str(error).splitlines()[0] if str(error) else ""
            pipe.send((None, (type(error).__name__, text, traceback.format_exc())))
