"""What files hold, as one text: the same for a copy anywhere, another one after any edit.

All bytes are read once; after that sizes and times of the files in their place vouch for them (MIMLAB_HOME/contents).
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

from mimlab import data
from mimlab.data._listed import text

CHUNK = 2**20  # bytes


def contents(root, files):
    """32 hex digits of the names, sizes and bytes of `files`, [(path below root, `os.stat_result` or None)], in any order.

    The names count as they can be printed (NFC). A file without a state, such as a link to nowhere, counts by its name.
    """
    from mimlab.data.cache import digest

    times = [[text(name), *_times(state)] for name, state in sorted(files, key=lambda one: one[0])]
    memo = data.home() / "contents" / digest(text(os.path.realpath(root)), times)
    try:
        known = memo.read_text(encoding="ascii").strip()
        if len(known) == 32:
            return known
    except (OSError, ValueError):
        pass
    with ThreadPoolExecutor(4) as threads:  # hashing lets other threads run
        parts = threads.map(lambda one: [text(one[0]), _file(os.path.join(root, one[0]), one[1])], files)
        found = digest(sorted(parts))
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        aside = memo.with_name(f".{memo.name}.{os.getpid()}")
        aside.write_text(found, encoding="ascii")
        aside.replace(memo)
    except OSError:
        pass  # read again next time; whoever needs the disk says so
    return found


def _times(state):
    return (-1, 0, 0) if state is None else (state.st_size, state.st_mtime_ns, state.st_ctime_ns)


def _file(path, state):
    """A digest of one file's bytes, or why there is none."""
    if state is None:
        return "nothing"
    found = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            while part := file.read(CHUNK):
                found.update(part)
    except OSError as error:
        return f"{type(error).__name__} {state.st_size}"
    return found.hexdigest()
