"""Your own images: a folder, with or without class sub-folders, or a zip; here or at an address.

Folder: sub-folders train/ and test/ in any spelling (`_splits`) are splits; a folder val/ is the test split where there is
no test/; what else lies beside them is left out, and said. Where train/ alone lies beside others that are no splits, it is
a class if its images lie in it as those of the others do. `split_column` = None: the first level are classes, whatever
they are called. The first level of sub-folders below is the class. What systems leave in folders (@eaDir, __MACOSX, names
with a dot) holds no images, and suffixes are those that Pillow reads.

Zip: the same, or an `index.json` inside, {"columns": ["file", "label", "split"], "rows": [[...], ...]}; all columns but
`file` may be missing. A set without a test split holds out `holdout` of every class, by hash of the file's name, and
"train" is the rest.
"""

import json
import os
import stat
import zipfile
import zlib
from collections import Counter, namedtuple
from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np

from mimlab import data, remote
from mimlab.data import _splits, cache
from mimlab.data._contents import contents
from mimlab.data._decode import Unreadable, suffixes
from mimlab.data._listed import Listed, some, text
from mimlab.errors import Refused, shown

SYSTEM = {"@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information", "lost+found", "__macosx"}
WAYS = 1000  # by which links may lead to one folder
MEMBER, INDEX = 2**29, 2**28  # bytes of an image in a zip, and of its index.json, unpacked

# files: paths below the set, as texts of the disk. states: `os.stat_result` or zip's record, or None. out: what was left out
Found = namedtuple("Found", "files states out")
# lists, one a file; labels and splits may be None, as may a label. about: for the summary
Table = namedtuple("Table", "files labels splits about")
# fingerprint: a text. seen: what was left out. load: a function that gives the `Listed`
Opened = namedtuple("Opened", "fingerprint seen load")


def location(given):
    """Options that say where the images are and not what they are: runs may go on with others."""
    return ("path",)


def fingerprint(split, **options):
    """Of a folder names and bytes of the images; of a zip the sizes and checksums that it lists. Neither times nor place."""
    return opened(split, **options).fingerprint


def load(
    split,
    *,
    path: str,
    label: str | None = "label",
    split_column: str | None = "split",
    holdout: Annotated[float, (0.0, 1.0)] = 0.2,
    train_split: str | None = None,
    test_split: str | None = None,
):
    """A `Listed` of the images, with labels where there are classes and `label` is not None.

    label, split_column: columns of a zip's index; None for none. holdout: share of a set without test split.
    train_split, test_split: names of the splits that play "train" and "test" (a domain of PACS, say).
    """
    return opened(
        split,
        path=path,
        label=label,
        split_column=split_column,
        holdout=holdout,
        train_split=train_split,
        test_split=test_split,
    ).load()


def opened(split, *, path, label="label", split_column="split", holdout=0.2, train_split=None, test_split=None):
    """`Opened`, options as of `load`: the folder is looked through once for all that is asked of it."""
    if isinstance(holdout, bool) or not isinstance(holdout, (int, float)) or not 0 <= holdout < 1:
        raise Refused(f"holdout = {shown(holdout)} should be at least 0 and below 1 (0.2 keeps 20 % for testing)")
    names(label=label, split_column=split_column, train_split=train_split, test_split=test_split)
    asked, path = path, existing(path)
    if path.is_dir():
        found = _scan(path)
        name, seen = contents(path, list(zip(found.files, found.states))), left_out(found.out)
    else:
        with opened_zip(path) as pack:
            name, seen = cache.digest([(text(i.filename), i.file_size, i.CRC) for i in pack.infolist()]), {}

    def table():
        if path.is_dir():
            return _tree(path, found, label, split_column, train_split, test_split)
        return _zip_table(path, label, split_column, train_split, test_split)

    def listing():
        return _listing(asked, path, table(), split, holdout, train_split, test_split, seen)

    return Opened(name, seen, listing)


def names(**given):
    """Refuse an option that should be a name, or None, and is neither."""
    for option, value in given.items():
        if value is not None and (not isinstance(value, str) or not value):
            raise Refused(f"{option} = {shown(value)} should be a name, or None")


def _listing(asked, path, table, split, holdout, train_split, test_split, seen):
    classes, codes = _classes(table.labels)  # of all splits
    parts = _parts(asked, table, codes, holdout, train_split, test_split)
    rows = parts(split)
    about = table.about | {"seen": seen, "images": {}, "classes": len(classes or ())}
    held = {}
    for part in dict.fromkeys((split, "train", "test")):
        try:
            held[part] = rows if part == split else parts(part)
        except Refused:  # a set without it
            continue
        about["images"][part] = len(held[part])
    about["notes"] = [*about["notes"], *_notes(classes, codes, held)]
    files = [table.files[k] for k in rows]
    opener = (lambda k: os.path.join(path, files[k])) if path.is_dir() else Members(path, files)
    called = files if path.is_dir() else [f"{path.name}/{name}" for name in files]
    return Listed(called, opener, None if codes is None else codes[rows], classes, about)


class Members:
    """Opens files of a zip by place; each is read when it is asked for, and never more of it than `MEMBER` bytes."""

    def __init__(self, path, files):
        self.pack, self.files = opened_zip(path), files

    def __call__(self, k):
        return unpacked(self.pack, self.files[k])


def unpacked(pack, name, most=MEMBER):
    """A member of a zip as a file in memory. Raises `Unreadable` where it is too large, or damaged."""
    import io

    about = pack.getinfo(name)
    if about.file_size > most:
        raise Unreadable(f"unpacked it has {about.file_size:,} bytes, and {most:,} are the limit")
    try:
        return io.BytesIO(pack.read(about))
    except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError, OSError) as error:
        raise Unreadable(f"it cannot be unpacked ({error})") from None


def existing(path):
    """The folder or zip on this machine; `Refused` for anything else."""
    if not isinstance(path, (str, os.PathLike)) or not str(path) or "\0" in str(path):
        raise Refused(f"path = {shown(path)} should be a folder, a .zip file, or the address of one")
    found = remote.here(path) if remote.away(path) else Path(os.fspath(path)).expanduser()
    if not os.path.exists(found):
        raise Refused(f"path = {shown(str(path))} does not exist")
    if not found.is_dir() and not (found.is_file() and found.suffix.lower() == ".zip"):
        raise Refused(f"path = {shown(str(path))} is neither a folder nor a .zip file")
    return found


def _classes(labels):
    """(sorted names or None, int codes (N,) with -1 for none or None) of labels, texts or None each."""
    if labels is None or all(label is None for label in labels):
        return None, None
    names = sorted({label for label in labels if label is not None})
    number = {name: k for k, name in enumerate(names)} | {None: -1}
    return names, np.array([number[label] for label in labels], np.int64)


def _notes(classes, codes, held):
    """What about the classes is likely not meant."""
    if classes is None:
        return []
    notes, folded = [], Counter(name.casefold() for name in classes)
    alike = [name for name in classes if folded[name.casefold()] > 1]
    if alike:
        notes.append(f"classes that differ in upper and lower case only: {', '.join(some(alike))}")
    there = {part: set(codes[rows].tolist()) - {-1} for part, rows in held.items() if part in ("train", "test")}
    for part, other in (("train", "test"), ("test", "train")):
        lacking = sorted(there.get(other, set()) - there.get(part, set()))
        if lacking and there.get(part):
            notes.append(f"classes without an image in {part}: {', '.join(some(classes[k] for k in lacking))}")
    return notes


def _parts(path, table, codes, holdout, train_split, test_split):
    """A function from the name of a split to the rows of the table that make it up, in order."""
    splits = None if table.splits is None else np.array(table.splits, object)
    there = [] if splits is None else sorted({name for name in table.splits if name is not None})
    if len(there) == 1 and train_split is None and _splits.role(there[0]) is None:
        splits, there = None, []  # one value for all, such as "all", splits nothing
    named = {"train_split": train_split, "test_split": test_split}
    for option, name in named.items():
        if name is not None and name not in there:
            raise Refused(f"{shown(str(path))} has no split {shown(name)}{_has(there)} ({option})")

    def chosen(part):
        """Names of the splits in the data that play a part."""
        given = named.get(f"{part}_split")
        if given is not None:
            return [given]
        roles = [_splits.role(part)] + ["val"] * (part == "test")
        names = next(filter(None, ([n for n in there if _splits.role(n) == role] for role in roles if role)), [])
        if len(names) > 1:
            raise Refused(
                f"{shown(str(path))}: {' and '.join(names)} could each be the split {part}; say which by "
                f"{part if part in ('train', 'test') else 'test'}_split"
            )
        return names

    def rows(part):
        test = chosen("test")
        if there and not (part == "train" and not test):
            wanted = chosen(part) if part in ("train", "test") or part not in there else [part]
            if wanted:
                return np.flatnonzero(splits == wanted[0])
            if part != "test":
                raise Refused(
                    f"{shown(str(path))} has no split {shown(part)}{_has(there)} (options train_split, test_split)"
                )
        elif part not in ("train", "test"):
            raise Refused(f"{shown(str(path))} has no split {shown(part)}, only train and test")
        # no test split: a share of what plays "train" is held out
        train = chosen("train")
        if there and not train:
            raise Refused(f"{shown(str(path))} has no split 'train'{_has(there)} (option train_split)")
        pool = np.flatnonzero(splits == train[0]) if there else np.arange(len(table.files))
        held = data.holdout([table.files[i] for i in pool], None if codes is None else codes[pool], holdout)
        found = pool[held if part == "test" else ~held]
        if not len(found):
            raise Refused(
                f"split = {shown(part)}: holdout = {holdout} of {shown(str(path))} leaves it no image ({len(pool):,} in all)"
            )
        return found

    return rows


def _has(there):
    return f"; there are: {', '.join(some(map(text, there)))}" if there else ", only train and test"


def _scan(path):
    """`Found` below a folder, sorted by name. Links are followed, but those to a folder above."""
    path = os.fspath(path)
    files, ways = [], Counter()
    out = {"suffix": Counter(), "hidden": 0, "system": [], "closed": [], "circle": [], "special": [], "empty": []}
    waiting = [(path, "", ())]
    while waiting:
        place, prefix, above = waiting.pop()
        try:
            state = os.stat(place)
            mine = (state.st_dev, state.st_ino)
            if mine in above:
                out["circle"].append(text(prefix.rstrip("/")))
                continue
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError:  # a folder that may not be read
            out["closed"].append(text(prefix.rstrip("/") or "."))
            continue
        ways[mine] += 1
        if ways[mine] > WAYS:
            raise Refused(
                f"path = {shown(path)}: links lead to {shown(text(prefix))} in more than {WAYS:,} ways; undo some"
            )
        folders = []
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                out["hidden"] += 1
                continue
            try:
                if entry.is_dir():
                    if name.casefold() in SYSTEM:
                        out["system"].append(text(prefix + name))
                    else:
                        folders.append(name)
                    continue
                suffix = os.path.splitext(name)[1].lower()
                if suffix not in suffixes():
                    out["suffix"][text(suffix) or "no suffix"] += 1
                    continue
                state = entry.stat()
            except OSError:  # a dangling link: kept, so that decoding reports it by name
                files.append((prefix + name, None))
                continue
            if stat.S_ISREG(state.st_mode):
                files.append((prefix + name, state))
            else:
                out["special"].append(text(prefix + name))
        waiting += [(os.path.join(place, name), f"{prefix}{name}/", (*above, mine)) for name in reversed(folders)]
        if not prefix:
            out["tops"] = folders
    if not files:
        raise Refused(f"path = {shown(path)} holds no image that Pillow reads{_left(out)}")
    files.sort(key=lambda one: one[0])
    full = {name.partition("/")[0] for name, _ in files}
    out["empty"] = [text(name) for name in out.pop("tops", []) if name not in full]
    return Found([name for name, _ in files], [state for _, state in files], out)


def _left(out):
    """Of a scan with nothing found: what was there."""
    from mimlab.data._listed import line

    said = line({"left_out": left_out(out)})
    return f"; left out: {said}" if said else ""


def left_out(out):
    """The summary of what a scan left out, a dict of counts and names."""
    kinds = dict(out["suffix"].most_common(20))
    rest = sum(out["suffix"].values()) - sum(kinds.values())
    found = {"files of other kinds": kinds | ({"others": rest} if rest else {})}
    found |= {"names with a dot": out["hidden"], "system folders": some(out["system"])}
    found |= {"folders that may not be read": some(out["closed"]), "links to a folder above": some(out["circle"])}
    found |= {"not regular files": some(out["special"]), "folders without an image": some(out["empty"])}
    return {what: one for what, one in found.items() if one}


def _tree(path, found, label, split_column, train_split=None, test_split=None):
    """The table of files in folders: the first level may be splits, the next the class."""
    files, about = found.files, {"left_out": left_out(found.out), "notes": []}
    parts = [PurePosixPath(name).parts for name in files]
    tops = sorted({p[0] for p in parts if len(p) > 1})
    splits, labels, keep = None, None, range(len(files))
    taken = _split_folders(path, parts, tops, train_split, test_split) if split_column is not None else []
    if taken:
        beside = Counter(p[0] if len(p) > 1 else "" for p in parts if p[0] not in taken or len(p) == 1)
        loose = beside.pop("", 0)
        if beside:
            about["left_out"]["folders beside the splits"] = {text(k): n for k, n in beside.most_common(20)}
        if loose:
            about["left_out"]["images beside the splits"] = loose
        keep = [k for k, p in enumerate(parts) if len(p) > 1 and p[0] in taken]
        splits = [parts[k][0] for k in keep]
        parts = {k: parts[k][1:] for k in keep}
    files = [files[k] for k in keep]
    parts = [parts[k] for k in keep]
    names = [text(p[0]) if len(p) > 1 else None for p in parts]
    if label is not None and any(name is not None for name in names):
        labels = names
        for part in dict.fromkeys(splits or [None]):
            mine = [k for k in range(len(files)) if splits is None or splits[k] == part]
            bare = [k for k in mine if names[k] is None]
            if bare and len(bare) < len(mine):  # a whole split may be without labels
                raise Refused(
                    f"path = {shown(str(path))}: {len(bare):,} images lie beside the class folders "
                    f"({text(files[bare[0]])}); move them, or set label=None"
                )
            if bare:
                about["notes"].append(f"{text(part)} has no class folders, so no labels")
    return Table(files, labels, splits, about)


def _split_folders(path, parts, tops, train_split, test_split):
    """Names of the top folders that are splits; see the module."""
    given = [name for name in (train_split, test_split) if name is not None]
    if given and not set(given) <= set(tops):
        raise Refused(
            f"path = {shown(str(path))} has no split {shown(next(n for n in given if n not in tops))}; its folders are: "
            f"{', '.join(some(map(text, tops))) or 'none'}"
        )
    roles = {name: _splits.role(name) for name in tops}
    known = [name for name in tops if roles[name]]
    if given:
        return list(dict.fromkeys([*given, *known]))
    train, other = ([n for n in known if (roles[n] == "train") == want] for want in (True, False))
    if not known:
        inner = {p[1] for p in parts if len(p) > 2}
        if len(tops) == 1 and all(len(p) > 1 for p in parts) and {"train"} <= {_splits.role(n) for n in inner}:
            there = ", ".join(sorted(text(n) for n in inner)[:6])
            raise Refused(
                f"path = {shown(str(path))} holds one folder, {shown(text(tops[0]))}, with {there}; give path = "
                f"{shown(os.path.join(str(path), tops[0]))}, or split_column=None to take {shown(text(tops[0]))} for a class"
            )
        return []
    if not train:
        if len(known) < len(tops):
            return []  # classes, two of which may be called test and val
        raise Refused(
            f"path = {shown(str(path))} has {' and '.join(map(text, known))} and no training images; train_split names the "
            "folder to train on, split_column=None makes them classes"
        )
    beside = [name for name in tops if name not in known]
    if other or not beside:
        return known
    # train/ and folders that are no splits
    deep = {name: all(len(p) > 2 for p in parts if p[0] == name) for name in (*train, *beside)}
    if not any(deep[name] for name in train):
        return []  # images right inside train/: a class
    if not any(deep[name] for name in beside):
        return train
    raise Refused(
        f"path = {shown(str(path))}: {shown(text(train[0]))} lies beside {', '.join(some(map(text, beside)))}, so it may be a split or a "
        f"class; train_split = {shown(text(train[0]))} takes it alone, split_column=None makes all of them classes"
    )


def opened_zip(path):
    """A `ZipFile`; `Refused` where it is none."""
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, ValueError, OverflowError, EOFError):
        raise Refused(f"path = {shown(str(path))} is not a zip file, or a damaged one") from None


def members(path):
    """`Found` of a zip: its images, without folders, links and names that point outside."""
    out = {"suffix": Counter(), "hidden": 0, "system": [], "closed": [], "circle": [], "special": [], "empty": []}
    files = []
    with opened_zip(path) as pack:
        for one in pack.infolist():
            parts, name = one.filename.split("/"), one.filename
            if one.is_dir():
                continue
            system = next((part for part in parts[:-1] if part.casefold() in SYSTEM), None)
            if any(part.startswith(".") and part not in ("..", ".") for part in parts):
                out["hidden"] += 1
            elif system is not None:
                out["system"].append(text(system))
            elif outside(name) or stat.S_ISLNK(one.external_attr >> 16):
                out["special"].append(text(name))
            elif os.path.splitext(name)[1].lower() not in suffixes():
                out["suffix"][text(os.path.splitext(name)[1].lower()) or "no suffix"] += 1
            else:
                files.append((name, one))
    out["system"] = sorted(set(out["system"]))
    if not files:
        raise Refused(f"path = {shown(str(path))} has no index.json inside, and no image that Pillow reads{_left(out)}")
    files = sorted(dict(files).items())  # of one name twice the last counts, as for zipfile
    return Found([name for name, _ in files], [one for _, one in files], out)


def outside(name):
    """Whether a name in an archive or a table points outside of it."""
    return name.startswith("/") or "\\" in name or ".." in name.split("/") or "\0" in name


def _index(path):
    """index.json of a zip: (columns, rows, names of all members), or None where there is none."""
    with opened_zip(path) as pack:
        there = set(pack.namelist())
        if "index.json" not in there:
            return None
        try:
            index = json.loads(unpacked(pack, "index.json", INDEX).read())
            columns, rows = index["columns"], index["rows"]
            if not all(isinstance(name, str) for name in columns) or not isinstance(rows, list):
                raise TypeError("columns should be texts, rows a list")
            if any(len(row) < len(columns) for row in rows):
                raise IndexError("a row is shorter than the columns")
        except Unreadable as reason:
            raise Refused(f"path = {shown(str(path))}: index.json: {reason}") from None
        except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
            raise Refused(
                f"path = {shown(str(path))}: index.json should be {{'columns': [...], 'rows': [[...]]}} ({shown(error)})"
            ) from None
    return columns, rows, there


def _zip_table(path, label, split_column, train_split, test_split):
    read = _index(path)
    if read is None:
        return _tree(path, members(path), label, split_column, train_split, test_split)
    columns, rows, there = read
    for field, column in (("label", label), ("split_column", split_column)):
        # the default may be missing, one asked for may not
        if column not in (None, {"label": "label", "split_column": "split"}[field], *columns):
            raise Refused(
                f"{field} = {shown(column)} is no column of {shown(str(path))}; there are: {', '.join(some(map(text, columns)))}"
            )
    if not rows or "file" not in columns:
        raise Refused(
            f"path = {shown(str(path))}: index.json lists no file (columns: {', '.join(some(map(text, columns)))})"
        )
    files = [str(row[columns.index("file")]) for row in rows]
    for name in files:
        if outside(name):
            raise Refused(f"path = {shown(str(path))}: the name {shown(name)} points outside the zip")
        if name not in there:
            raise Refused(f"path = {shown(str(path))}: index.json names {shown(name)}, which is not in the zip")
    about, other = {"left_out": {}, "notes": []}, len(there - set(files) - {"index.json"})
    other -= sum(name.endswith("/") for name in there)
    if other > 0:
        about["left_out"]["files that index.json does not name"] = other
    if len(set(files)) < len(files):
        about["notes"].append(f"index.json names {len(files) - len(set(files)):,} files more than once")
    labels = _column(columns, rows, label)
    splits = _column(columns, rows, split_column)
    if splits is not None and None in splits:
        about["left_out"]["rows without a split"] = splits.count(None)
    return Table(files, labels, splits, about)


def _column(columns, rows, name):
    """A column's values as texts, None for what is missing (null, NaN, an empty text), or None without the column."""
    if name is None or name not in columns:
        return None
    place = columns.index(name)
    values = [row[place] for row in rows]
    plain = next((v for v in values if isinstance(v, (list, dict))), None)
    if plain is not None:
        raise Refused(f"index.json: the column {name} holds {shown(plain)}, not one value an image; choose another")
    return [None if v is None or v != v or v == "" else text(str(v)) for v in values]
