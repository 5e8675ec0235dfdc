"""Pickles looked at before anything reads them: nothing is made, memory and time stay bounded."""

import contextlib
import io
import pickle
import pickletools
import zipfile

OPERATIONS, DEEPEST = 5_000_000, 12  # of a pickle; tuples within tuples


def check(path):
    """Raise UnpicklingError for a file of torch.save that would unpack to more than it is, or hash for ever.

    Where bytes end early or are no pickle nothing is raised: what reads them says so, and comes no further than this.
    """
    with contextlib.suppress(ValueError, EOFError):
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                bounded(file, 5)  # of the older format
            return
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
            if packed or sum(entry.file_size for entry in entries) > path.stat().st_size:
                raise pickle.UnpicklingError("compressed entries, which torch.save never writes")
            for entry in entries:
                if entry.filename.endswith("data.pkl"):
                    bounded(archive.read(entry))


def bounded(pickled, count=1):
    """Refuse pickles that ask for much memory or time: memo numbers beyond what they hold, tuples in tuples in tuples.

    A tuple that holds another twice, and so on, takes for ever to be hashed. pickled: the bytes, returned, or a file that
    stands before `count` pickles, where it stands again. Operations are looked at, nothing is made.
    """
    file = io.BytesIO(pickled) if isinstance(pickled, bytes) else pickled
    start, mark = file.tell(), pickletools.markobject
    for _ in range(count):
        stack, memo = [], {}  # how deep each object is nested in tuples; None: a mark
        for made, (code, argument, _) in enumerate(pickletools.genops(file)):
            if code.name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
                number = len(memo) if argument is None else argument
                if number > made + 1024:
                    raise pickle.UnpicklingError(f"memo number {number} after {made} operations")
                memo[number] = stack[-1]
                continue
            taken = []
            if mark in code.stack_before or code.name == "POP_MARK":
                while (top := stack.pop()) is not None:
                    taken.append(top)
            before = (
                code.stack_before[: code.stack_before.index(mark)] if mark in code.stack_before else code.stack_before
            )
            for _ in before if code.name != "POP_MARK" else ():
                taken.append(stack.pop() or 0)
            depth = (
                1 + max(taken, default=0)
                if "TUPLE" in code.name
                else max(taken, default=0)
                if code.name == "FROZENSET"
                else 0
            )
            if code.name in ("GET", "BINGET", "LONG_BINGET"):
                depth = memo[argument]
            if depth > DEEPEST or made > OPERATIONS:
                raise pickle.UnpicklingError("it is nested too deep, or too long")
            stack += [None if after is mark else depth for after in code.stack_after]
    file.seek(start)
    return pickled
