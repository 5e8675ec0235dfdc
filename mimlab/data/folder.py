"""Your own images: a folder, with or without class sub-folders, or a zip with an `index.json`; here or at an address.

Folder: sub-folders train/ and test/ (or val/, validation/) are splits where nothing else lies beside them;
the first level of sub-folders below is the class. Zip: `index.json` inside is {"columns": ["file", "label",
"split"], "rows": [[...], ...]}, all columns but `file` may be missing. A set without a test split holds out
`holdout` of every class, by hash of the file's name, and "train" is the rest.
"""

import json
import os
import zipfile
import zlib
from collections import namedtuple
from pathlib import Path, PurePosixPath

import numpy as np

from mimlab import data, remote
from mimlab.data import cache
from mimlab.errors import Refused

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2"}
TESTS = ("test", "val", "validation")  # in this order of preference

Table = namedtuple("Table", "files labels splits")  # lists of texts, one a file; labels and splits may be None


def fingerprint(split, *, path, label="label", split_column="split", holdout=0.2, train_split=None, test_split=None):
    """Of a folder the name, size and time of every file; of a zip the sizes and checksums that it lists."""
    path = _existing(path)
    if path.is_dir():
        return cache.digest(_scan(path))
    with _zip(path) as pack:
        return cache.digest([(i.filename, i.file_size, i.CRC) for i in pack.infolist()])


def load(split, *, path, label="label", split_column="split", holdout=0.2, train_split=None, test_split=None):
    """A `datasets.Dataset` with image and, where there are classes and `label` is not None, label.

    label, split_column: columns of a zip's index; None for none. holdout: share of a set without test split.
    train_split, test_split: names of the splits that play "train" and "test" (a domain of PACS, say).
    """
    import datasets

    if isinstance(holdout, bool) or not isinstance(holdout, (int, float)) or not 0 <= holdout < 1:
        raise Refused(f"holdout = {holdout!r} should be at least 0 and below 1 (0.2 keeps 20 % for testing)")
    path = _existing(path)
    table = _folder_table(path, label) if path.is_dir() else _zip_table(path, label, split_column)
    classes, codes = np.unique(table.labels, return_inverse=True) if table.labels else (None, None)  # of all splits
    rows = _rows(path, table, codes, split, holdout, train_split, test_split)
    columns = {"image": _images(path, [table.files[i] for i in rows])}
    features = {"image": datasets.Image()}
    if codes is not None:
        columns["label"] = codes[rows]
        features["label"] = datasets.ClassLabel(names=classes.tolist())
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def _existing(path):
    found = remote.here(path) if remote.away(path) else Path(str(path)).expanduser()
    if not found.exists():
        raise Refused(f"path = '{path}' does not exist")
    if not found.is_dir() and found.suffix != ".zip":
        raise Refused(f"path = '{path}' is neither a folder nor a .zip file")
    return found


def _rows(path, table, codes, split, holdout, train_split, test_split):
    """Rows of the table that make up a split, in order."""
    splits = None if table.splits is None else np.array(table.splits)
    there = [] if splits is None else sorted(set(table.splits))
    if len(there) == 1 and train_split is None and there[0] not in ("train", *TESTS):
        splits, there = None, []  # one value for all, such as "all", splits nothing
    test = test_split or next((name for name in TESTS if name in there), None)
    wanted = {"train": train_split or (there and "train") or None, "test": test}.get(split, split)
    if wanted is not None and wanted not in there:
        hint = (
            f"; there are: {', '.join(there)} (options train_split, test_split)" if there else ", only train and test"
        )
        raise Refused(f"'{path}' has no split {wanted!r}{hint}")
    if wanted is not None and not (split == "train" and test is None):
        return np.flatnonzero(splits == wanted)
    # no test split: a share of what plays "train" is held out
    train = train_split or "train"
    if there and train not in there:
        raise Refused(f"'{path}' has no split {train!r}; there are: {', '.join(there)} (option train_split)")
    pool = np.flatnonzero(splits == train) if there else np.arange(len(table.files))
    held = data.holdout([table.files[i] for i in pool], None if codes is None else codes[pool], holdout)
    rows = pool[held if split == "test" else ~held]
    if not len(rows):
        raise Refused(f"split = {split!r}: holdout = {holdout} of '{path}' leaves it no image ({len(pool):,} in all)")
    return rows


def _images(path, files):
    """What `datasets.Image` stores: the path of a file in a folder, the bytes of one in a zip."""
    if path.is_dir():
        return [{"path": str(path / file), "bytes": None} for file in files]
    with _zip(path) as pack:
        try:
            return [{"path": f"{path.name}/{file}", "bytes": pack.read(file)} for file in files]
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
            raise Refused(f"path = '{path}' cannot be unpacked: {error}") from None


def _scan(path):
    """[relative path, size, mtime_ns] of every image below a folder, sorted, without hidden ones."""
    found, seen, waiting = [], set(), [(os.fspath(path), "")]
    while waiting:
        place, prefix = waiting.pop()
        folders = []
        try:
            state = os.stat(place)
            entries = [] if (state.st_dev, state.st_ino) in seen else list(os.scandir(place))  # seen: a link to above
        except OSError:  # a folder that may not be read
            continue
        seen.add((state.st_dev, state.st_ino))
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            if entry.is_dir():
                folders.append(name)
            elif os.path.splitext(name)[1].lower() in SUFFIXES:
                try:
                    state = entry.stat()
                    found.append([prefix + name, state.st_size, state.st_mtime_ns])
                except OSError:  # a dangling link: kept, so that decoding reports it by name
                    found.append([prefix + name, -1, 0])
        folders = [name for name in sorted(folders, reverse=True) if not name.startswith("__MACOSX")]
        waiting += [(os.path.join(place, name), f"{prefix}{name}/") for name in folders]
    if not found:
        raise Refused(f"path = '{path}' holds no image ({' '.join(sorted(SUFFIXES))})")
    return sorted(found)


def _folder_table(path, label):
    files = [name for name, _, _ in _scan(path)]
    parts = [PurePosixPath(name).parts for name in files]
    tops = {p[0] if len(p) > 1 else "" for p in parts}
    splits = None
    if "train" in tops and tops <= {"train", *TESTS}:
        splits = [p[0] for p in parts]
        parts = [p[1:] for p in parts]
    bare = [name for name, p in zip(files, parts, strict=True) if len(p) == 1]
    if label is None or len(bare) == len(files):
        return Table(files, None, splits)
    if bare:
        raise Refused(
            f"path = '{path}': {len(bare):,} images lie beside the class folders ({bare[0]}); move them, "
            f"or set label=None"
        )
    return Table(files, [p[0] for p in parts], splits)


def _zip(path):
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise Refused(f"path = '{path}' is not a zip file, or a damaged one") from None


def _zip_table(path, label, split_column):
    with _zip(path) as pack:
        members = set(pack.namelist())
        if "index.json" not in members:
            raise Refused(f"path = '{path}' has no index.json inside; unpack it and give the folder, or add one")
        try:
            index = json.loads(pack.read("index.json"))
            columns, rows = index["columns"], index["rows"]
            table = {name: [str(row[i]) for row in rows] for i, name in enumerate(columns)}
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise Refused(
                f"path = '{path}': index.json should be {{'columns': [...], 'rows': [[...]]}} ({error!r})"
            ) from None
    for field, column in (("label", label), ("split_column", split_column)):
        # the default may be missing, one asked for may not
        if column not in (None, {"label": "label", "split_column": "split"}[field], *columns):
            raise Refused(f"{field} = {column!r} is no column of '{path}'; there are: {', '.join(columns)}")
    if not table.get("file"):
        raise Refused(f"path = '{path}': index.json lists no file (columns: {', '.join(map(str, columns))})")
    for name in table["file"]:
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise Refused(f"path = '{path}': the name {name!r} points outside the zip")
        if name not in members:
            raise Refused(f"path = '{path}': index.json names {name!r}, which is not in the zip")
    return Table(table["file"], table.get(label), table.get(split_column))
