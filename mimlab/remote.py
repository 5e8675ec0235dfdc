"""Addresses that fsspec opens: s3://, gs://, https://, memory:// and so on. Read, brought here, sent away.

Work is done on a disk of this machine, where files can be locked and renamed: what comes from an address is copied into the
cache first, and what goes to one is complete when it goes. Credentials are the file system's own business.
"""

import contextlib
import os
from pathlib import Path, PurePosixPath

from mimlab import files
from mimlab.errors import Refused, reason, shown

LEFT = ("checkpoint", "weights", "study.lock", "lock")  # of a run folder, what is not sent


def away(path):
    """Whether a path is such an address."""
    return "://" in str(path)


def read(address):
    """The text of a file at an address. Raises `Refused`."""
    with _told(address, "read"):
        fs, path = _open(address)
        return fs.cat_file(path).decode("utf-8")


def there(address):
    """The bytes of a file at an address, or None where there is none. Raises `Refused`."""
    with _told(address, "read"):
        fs, path = _open(address)
        return fs.cat_file(path) if fs.exists(path) else None


def here(address):
    """The path of a local copy of a file or folder: fetched once, and again when it has changed. Raises `Refused`.

    One process fetches, others that want the same wait for it. A name that could lie outside the copy is refused, and
    a copy counts once all its files are there, each of the size that the other side tells.
    """
    from mimlab.data import cache, home

    with _told(address, "read"):
        fs, path = _open(address)
        alone = fs.isfile(path)
        names = [path] if alone else sorted(fs.find(path))
        if not names:
            raise FileNotFoundError("nothing is there")
        inside = {name: [] if alone else _parts(name, path, address) for name in names}
        key = cache.digest(str(address), [(name, fs.ukey(name)) for name in names])
        last = files.member(PurePosixPath(path).name or "it", f"'{address}'")[-1]
        target = home() / "remote" / key / last
        if _complete(target, inside.values()):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.locked(target.parent / ".lock", wait=True):
            if not _complete(target, inside.values()):
                aside = (
                    target.parent / f".fetched{files.PART}"
                )  # holding the lock: a left-over is of a process that died
                files.remove(aside)
                files.remove(target)
                for name, parts in inside.items():
                    to = files.below(target.parent, [aside.name, *parts])
                    to.parent.mkdir(parents=True, exist_ok=True)
                    fs.get_file(name, str(to))
                    size = fs.size(name)
                    if size is not None and to.stat().st_size != size:
                        raise OSError(f"{name} came with {to.stat().st_size:,} of {size:,} bytes")
                os.rename(aside, target)
    return target


def _parts(name, folder, address):
    """The parts of a file's name below the folder that was asked for."""
    folder = folder.strip("/")
    below = name.lstrip("/")
    if folder:
        if not below.startswith(f"{folder}/"):
            raise Refused(f"'{address}' holds the name {shown(name)}, which lies outside it; nothing is taken of it")
        below = below[len(folder) + 1 :]
    return files.member(below, f"'{address}'")


def _complete(target, inside):
    """Whether a copy is there with all files that are inside."""
    if not target.exists():
        return False
    return all(target.joinpath(*parts).is_file() for parts in inside)


def send(path, address):
    """Copy a file, or a folder without its checkpoints, to an address, over what is there. Raises `Refused`.

    What is a link, a pipe or a device in the folder is left out: it stands for something outside.
    """
    path = Path(path)
    with _told(address, "written"):
        fs, to = _open(address)
        for one in [path] if path.is_file() else sorted(path.rglob("*")):
            inside = one.relative_to(path).parts
            if inside and (inside[0] in LEFT or one.name.endswith(files.PART) or _linked(path, inside)):
                continue
            if one.is_file():
                target = "/".join([to.rstrip("/"), *inside])
                fs.makedirs(target.rpartition("/")[0], exist_ok=True)
                fs.put_file(str(one), target)


def _linked(folder, parts):
    """Whether a path in a folder is, or lies behind, a link there."""
    return any(folder.joinpath(*parts[: k + 1]).is_symlink() for k in range(len(parts)))


def check(address):
    """Refuse an address that cannot be written, before hours of work end there: an empty file goes there and away again."""
    with _told(address, "written"):
        fs, to = _open(address)
        fs.makedirs(to, exist_ok=True)
        fs.pipe_file(f"{to.rstrip('/')}/.mimlab", b"")
        fs.rm_file(f"{to.rstrip('/')}/.mimlab")


def _open(address):
    import fsspec

    return fsspec.url_to_fs(str(address))


@contextlib.contextmanager
def _told(address, what):
    """Every file system has errors of its own; each becomes one line."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:
        raise Refused(f"'{address}' cannot be {what} ({reason(error)})") from None
