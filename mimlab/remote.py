"""Addresses that fsspec opens: s3://, gs://, https://, memory:// and so on. Read, brought here, sent away.

Work is done on a disk of this machine, where files can be locked and renamed: what comes from an address is copied into the
cache first, and what goes to one is complete when it goes. Credentials are the file system's own business.
"""

import contextlib
import shutil
from pathlib import Path, PurePosixPath

from mimlab.errors import Refused

LEFT = ("checkpoint", "weights", "study.lock", "lock")  # of a run folder, what is not sent


def away(path):
    """Whether a path is such an address."""
    return "://" in str(path)


def read(address):
    """The text of a file at an address. Raises `Refused`."""
    with _told(address, "read"):
        files, path = _open(address)
        return files.cat_file(path).decode("utf-8")


def here(address):
    """The path of a local copy of a file or folder: fetched once, and again when it has changed. Raises `Refused`."""
    from mimlab.data import cache, home

    with _told(address, "read"):
        files, path = _open(address)
        names = [path] if files.isfile(path) else sorted(files.find(path))
        if not names:
            raise FileNotFoundError("nothing is there")
        key = cache.digest(str(address), [(name, files.ukey(name)) for name in names])
        target = home() / "remote" / key / PurePosixPath(path).name
        if target.exists():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f"{target.name}.part")
        shutil.rmtree(aside, ignore_errors=True)
        for name in names:
            to = aside / PurePosixPath(name).relative_to(path)  # of a file: itself
            to.parent.mkdir(parents=True, exist_ok=True)
            files.get_file(name, str(to))
        aside.rename(target)
    return target


def send(path, address):
    """Copy a file, or a folder without its checkpoints, to an address, over what is there. Raises `Refused`."""
    path = Path(path)
    with _told(address, "written"):
        files, to = _open(address)
        for one in [path] if path.is_file() else sorted(path.rglob("*")):
            inside = one.relative_to(path).parts
            if one.is_file() and not (inside and inside[0] in LEFT):
                target = "/".join([to.rstrip("/"), *inside])
                files.makedirs(target.rpartition("/")[0], exist_ok=True)
                files.put_file(str(one), target)


def check(address):
    """Refuse an address that cannot be written, before hours of work end there: an empty file goes there and away again."""
    with _told(address, "written"):
        files, to = _open(address)
        files.makedirs(to, exist_ok=True)
        files.pipe_file(f"{to.rstrip('/')}/.mimlab", b"")
        files.rm_file(f"{to.rstrip('/')}/.mimlab")


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
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Refused(f"'{address}' cannot be {what} ({said})") from None
