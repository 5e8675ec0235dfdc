"""Files are written aside and renamed, never through a link; and what is read is bounded and may be anything.

Whatever writes into a folder goes through here. A file takes its name when it is whole (`aside`), so that a full disk or
a killed process leaves the old one; the fresh name cannot be guessed and is never one that is there, so nothing that lies in a
received folder, such as a link, is written through. `plain` and `unlinked` refuse links where a file must grow in its
place. `replaceable` keeps what somebody else wrote.
"""

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import stat
from pathlib import Path

from mimlab.errors import Refused, reason, shown

PART = ".part"  # ends every name aside
LARGEST = 64 * 2**20  # bytes of a text or JSON file that is read whole; its lists and dicts take some 25 times as much
HEADER = 16 * 2**20  # of a safetensors file, some 100,000 tensors
LINE = 2**20  # of a line of a file that grows
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)  # neither is on Windows
NONBLOCK = getattr(os, "O_NONBLOCK", 0)


# writing


class Unwritten(Refused):
    """A file that could not be written; `strerror` is why."""

    def __init__(self, path, error):
        self.strerror = reason(error)
        super().__init__(f"cannot write {path}: {self.strerror}; nothing already written was changed")


@contextlib.contextmanager
def aside(path, synced=False):
    """A fresh path in the folder of `path`, which takes its place when the block ends well and goes when it does not.

    `synced`: its content is on the disk before the name says so. Raises `Refused` where it cannot be written.
    """
    path = Path(path)
    fresh = path.with_name(f".{path.name[:80]}.{secrets.token_hex(6)}{PART}")
    try:
        yield fresh
        if synced:
            sync(fresh)
        os.replace(fresh, path)
        if synced:
            sync(path.parent)
    except OSError as error:
        raise Unwritten(path, error) from None
    finally:
        with contextlib.suppress(OSError):  # renamed, or never begun
            fresh.unlink()


def write(path, content, synced=False):
    """Write a file of text or bytes aside and rename it; a full disk leaves the old file as it was. Raises `Refused`."""
    with aside(path, synced) as fresh:
        if isinstance(content, bytes):
            fresh.write_bytes(content)
        else:
            fresh.write_text(content.encode("utf-8", "replace").decode("utf-8"))  # half of a pair cannot be written


def append(path, text):
    """Add text to a file, which is neither a link nor shared with another name. Raises `Refused`."""
    try:
        with growing(path) as file:
            file.write(text.encode())
    except OSError as error:
        raise Refused(f"cannot write {path}: {reason(error)}") from None


def growing(path, fresh=False):
    """A binary file opened to grow, or with `fresh` emptied. Raises OSError, also for a link or what is no plain file."""
    path = Path(path)
    with contextlib.suppress(FileNotFoundError):
        there = os.lstat(path)
        if not stat.S_ISREG(there.st_mode):
            raise OSError(errno.EINVAL, f"{path.name} is {kind(there.st_mode)}, not a plain file")
        if there.st_nlink > 1:  # a second name somewhere, such as a backup's, keeps what it has
            with aside(path) as copy:
                shutil.copyfile(path, copy)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | NOFOLLOW | NONBLOCK | (os.O_TRUNC if fresh else 0)
    return os.fdopen(os.open(path, flags, 0o666), "ab")


@contextlib.contextmanager
def locked(path, wait=False):
    """Yields whether this process alone holds the lock file `path`; the lock goes with the process, however it ends.

    With `wait` it is waited for. The file is never written to. On Windows, without such locks, always True.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | NOFOLLOW | NONBLOCK, 0o666)
    try:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        except BlockingIOError:
            held = False
        except ImportError:
            held = True
        yield held
    finally:
        os.close(handle)


def sync(path):
    """A file's or folder's content is on the disk when this returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that syncs no folders
            raise
    finally:
        os.close(handle)


def sweep(folder):
    """Remove what processes that died left aside in a folder, which only the caller writes to."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.endswith(PART):
                remove(entry.path)


def remove(path):
    """Remove a file, a link or a folder with all that is in it, whatever it is; nothing where there is none."""
    path = Path(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink()


# links


def kind(mode):
    names = ((stat.S_ISLNK, "a link"), (stat.S_ISDIR, "a folder"), (stat.S_ISREG, "a plain file"))
    return next((said for test, said in names if test(mode)), "a pipe or device")


def plain(*paths):
    """Refuse paths that are there but no plain files: writing to a link would write elsewhere."""
    for path in paths:
        try:
            mode = os.lstat(path).st_mode
        except OSError:
            continue
        if not stat.S_ISREG(mode):
            raise Refused(
                f"{path} is {kind(mode)}, and nothing is written through it; remove it, or choose another place"
            )


def unlinked(folder):
    """Refuse a folder in which anything is a link, a pipe or a device; the folder itself may be a link of the user's.

    A folder that somebody sent may hold links to files of the one who opens it, which work in it would overwrite.
    """
    todo = [Path(folder)]
    while todo:
        try:
            entries = list(os.scandir(todo.pop()))
        except OSError:
            continue  # none there yet, or not readable: what is written there says so itself
        for entry in entries:
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                todo.append(Path(entry.path))
            elif not stat.S_ISREG(mode):
                told = f" to {os.readlink(entry.path)}" if stat.S_ISLNK(mode) else ""
                raise Refused(
                    f"{entry.path} is {kind(mode)}{told}, and nothing is written in a folder with such inside; "
                    "put what it stands for in its place, or remove it"
                )


def member(name, inside="it"):
    """The parts of a name that came from elsewhere (an archive, an address), for use below a folder of ours.

    Raises `Refused` for a name that could lie outside: absolute, with `..`, a drive, a backslash, control characters,
    or empty.
    """
    parts = str(name).split("/")
    bad = (
        any(part in ("", ".", "..") for part in parts)
        or any(char in str(name) for char in "\\\0")
        or any(ord(char) < 32 or ord(char) == 127 for char in str(name))
        or re.match(r"[A-Za-z]:", str(name))
        or any(len(os.fsencode(part)) > 255 for part in parts)
    )
    if bad:
        raise Refused(
            f"{inside} holds the name {shown(str(name))}, which could lie outside its folder; nothing is taken of it"
        )
    return parts


def below(folder, parts):
    """The path of `parts` in a folder, which must lie there once links are followed. Raises `Refused`."""
    folder = Path(folder).resolve()
    path = folder.joinpath(*parts)
    if not path.resolve().is_relative_to(folder):
        raise Refused(f"{path} lies outside {folder}; nothing is written there")
    return path


def one_name(field, name):
    """Refuse a name that is no single name of a file or folder: `..`, a path, too long, with control characters."""
    try:
        raw = os.fsencode(name) if isinstance(name, str) else b""
        raw.decode("utf-8")
        printable = name.isprintable()
    except (UnicodeError, AttributeError):
        raw, printable = b"", False
    good = raw and printable and len(raw) <= 200 and name.strip() == name and name not in (".", "..")
    if not good or set(name) & set("/\\") or name.startswith(".") or re.match(r"[A-Za-z]:", name):
        raise Refused(
            f"{field} = {shown(name)} is no name of a folder: letters, digits, spaces and signs but / and \\, "
            "at most 200 bytes, not beginning with a dot"
        )


# what is somebody else's


def replaceable(path, field, ours, force=False):
    """Refuse to replace a file that mimlab did not write itself, unless with `force`.

    `ours(raw)`: whether the bytes of a file are mimlab's own. What is no plain file is refused always.
    """
    path = Path(path)
    if not os.path.lexists(path):
        return
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode) and (force or ours(path.read_bytes())):
            return
    except (OSError, ValueError, RecursionError):
        mode = stat.S_IFREG
    what = "is there and was not written by mimlab" if stat.S_ISREG(mode) else f"is {kind(mode)}"
    raise Refused(f"{field} = '{path}' {what}; choose another name{', or use --force' if stat.S_ISREG(mode) else ''}")


# reading


class Damaged(Refused):
    """A file that is not what it should be: its path, and why."""


def read(path, most=LARGEST):
    """The bytes of a plain file. Raises OSError, and `Damaged` for what is no file, or larger than `most`."""
    handle = os.open(path, os.O_RDONLY | NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise Damaged(f"{path} is {kind(about.st_mode)}, not a plain file")
        if about.st_size > most:
            raise Damaged(f"{path} has {about.st_size:,} bytes, and at most {most:,} are read")
        return file.read(min(most, about.st_size + 2**20))


def loads(text):
    """JSON that came from elsewhere. Raises ValueError alone."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def load(path, wanted=dict, most=LARGEST):
    """The JSON of a file, of the type `wanted`. Raises `Damaged` with the reason, FileNotFoundError where there is none."""
    try:
        found = loads(read(path, most).decode("utf-8"))
    except FileNotFoundError:
        raise
    except NotADirectoryError as error:
        raise FileNotFoundError(*error.args) from None
    except OSError as error:
        raise Damaged(f"{path} cannot be read ({reason(error)})") from None
    except ValueError as error:
        raise error if isinstance(error, Damaged) else Damaged(f"{path} is damaged ({reason(error)})") from None
    if not isinstance(found, wanted):
        raise Damaged(f"{path} is damaged (it holds {type(found).__name__}, not {wanted.__name__})")
    return found


def lines(path, at=0, most=LARGEST):
    """(whole lines of a file that grows, joined, from byte `at` on; the byte after them). Raises OSError.

    At most `most` bytes are read at once; so many without an end of a line are passed over.
    """
    handle = os.open(path, os.O_RDONLY | NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, f"{path} is {kind(about.st_mode)}, not a plain file")
        file.seek(at)
        raw = file.read(max(0, min(most, about.st_size - at)))
    found, end, _ = raw.rpartition(b"\n")
    return found, at + (len(found) + 1 if end else len(raw) if len(raw) == most else 0)


def number(value):
    """Whether a value of a JSON file is a number that a float can hold, or not finite; a whole one has 63 bits at most."""
    return type(value) is float or (type(value) is int and value.bit_length() < 64)


def whole(path):
    """Whether a safetensors file is there and as long as its header says; its numbers are not read."""
    try:
        handle = os.open(path, os.O_RDONLY | NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode):
                return False
            size = int.from_bytes(file.read(8), "little")
            if about.st_size < 10 or size > min(HEADER, about.st_size - 8):
                return False
            header = loads(file.read(size))
        ends = [one["data_offsets"][1] for name, one in header.items() if name != "__metadata__"]
        return 8 + size + max(ends, default=0) == about.st_size
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        return False
