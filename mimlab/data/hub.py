"""Any image data set of the Hugging Face hub, or of a folder that `datasets.load_dataset` can read.

Nothing from the hub is run: data sets that are scripts are refused by `datasets` itself. With a full commit
as `revision` a cached set opens without the network and without importing `datasets`.
"""

import re
from pathlib import Path

import numpy as np

from mimlab.data import _splits
from mimlab.data._contents import contents
from mimlab.data._listed import listed, some, text
from mimlab.data.folder import names
from mimlab.errors import Refused, shown


def location(given):
    """`id` where it is a folder: the files in it are what counts."""
    return ("id",) if _local(given.get("id")) else ()


def _local(id):
    try:
        return isinstance(id, str) and Path(id).is_dir()
    except (OSError, ValueError):
        return False


def fingerprint(
    split,
    *,
    id,
    image="image",
    label="label",
    config=None,
    revision=None,
    train_split="train",
    test_split="test",
):
    """The commit where one is pinned; of a folder its files; else what `datasets` knows the split by, which follows the hub."""
    names(
        id=id,
        image=image,
        label=label,
        config=config,
        revision=revision,
        train_split=train_split,
        test_split=test_split,
    )
    if _local(id):
        files = [file for file in sorted(Path(id).rglob("*")) if file.is_file()]
        return contents(id, [(str(file.relative_to(id)), file.stat()) for file in files])
    if revision is not None and re.fullmatch("[0-9a-f]{40}", str(revision)):
        return revision
    return _chosen(_open(id, config, revision), split, id, train_split, test_split)._fingerprint


def load(
    split,
    *,
    id: str,
    image: str = "image",
    label: str | None = "label",
    config: str | None = None,
    revision: str | None = None,
    train_split: str = "train",
    test_split: str = "test",
):
    """A `Listed` of the images, with labels unless `label` is None. Rows without an image or label are told by number.

    id: "owner/name", or a folder. image, label: names of its columns. config, revision: as in `load_dataset`.
    train_split, test_split: what the set calls the splits "train" and "test".
    """
    import datasets

    names(
        id=id,
        image=image,
        label=label,
        config=config,
        revision=revision,
        train_split=train_split,
        test_split=test_split,
    )
    every = _open(id, config, revision)
    chosen = _chosen(every, split, id, train_split, test_split)
    for field, column in (("image", image), ("label", label)):
        if column is not None and column not in chosen.column_names:
            there = ", ".join(chosen.column_names)
            raise Refused(f"{field} = {shown(column)} is no column of {id} ({split}); there are: {there}")
    if not isinstance(chosen.features[image], datasets.Image):
        raise Refused(f"image = {shown(image)} of {id} holds {_kind(chosen.features[image])}, not images, one a row")
    about = {"left_out": {}, "images": {part: len(rows) for part, rows in list(every.items())[:20]}}
    kept = chosen.select_columns([image]).rename_columns({image: "image"} if image != "image" else {})
    rows = listed(kept)
    rows.about = about
    if label is None:
        return rows
    feature = chosen.features[label]
    if isinstance(feature, datasets.ClassLabel):  # hubs mark withheld labels by -1
        classes, number = feature.names, {k: k for k in range(-1, len(feature.names))}
    else:
        classes, number = _coded(every, label, feature, id)
    column = chosen.select_columns([label])[label]
    strange = next((v for v in column if not _missing(v) and v not in number), None)
    if strange is not None:
        raise Refused(
            f"label = {shown(label)} of {id} holds {shown(strange)}, which is none of its {len(classes)} classes"
        )
    rows.labels = np.array([-1 if _missing(v) else number[v] for v in column], np.int64)
    rows.classes = [text(str(name)) for name in classes]
    rows.about["classes"] = len(classes)
    return rows


def _coded(every, label, feature, id):
    """(names, value -> number) of a column that is no ClassLabel, of all splits together.

    Or a class that one split lacks would shift the numbers of the others.
    """
    import datasets

    kind = getattr(feature, "dtype", None) if isinstance(feature, datasets.Value) else None
    if kind is None or not re.fullmatch("u?int[0-9]+|bool|(large_)?string(_view)?|float[0-9]+", kind):
        raise Refused(
            f"label = {shown(label)} of {id} holds {_kind(feature)}, not one class an image; choose another column, or label=None"
        )
    values = {v for part in every.values() if label in part.column_names for v in part.unique(label)}
    values = [v for v in values if not _missing(v)]
    if kind.startswith("float") and any(v != int(v) for v in values):
        raise Refused(
            f"label = {shown(label)} of {id} holds numbers such as {shown(next(v for v in values if v != int(v)))}, which are no "
            "classes; choose another column, or label=None"
        )
    values = sorted(values, key=lambda v: (isinstance(v, str), v))
    names = [int(v) if kind.startswith("float") else v for v in values]
    return names, {value: k for k, value in enumerate(values)}


def _missing(value):
    """null, NaN, or an empty text."""
    return value is None or value != value or value == ""


def _kind(feature):
    return shown(str(feature))


def _open(id, config, revision):
    """Every split, a `datasets.DatasetDict`; one line for whatever `datasets` cannot do."""
    import datasets

    bars = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(id, config, revision=revision)
    except Exception as error:  # network, missing set, missing config, script, gate: each its own kind
        reason = " ".join(str(error).split())[:300]
        raise Refused(
            f"hub: id = {shown(id)}, config = {shown(config)} cannot be loaded ({type(error).__name__}: {reason}); "
            f"offline, use a set that this machine has loaded before, or data = 'folder'"
        ) from error
    finally:
        if bars:
            datasets.enable_progress_bars()


def _chosen(every, split, id, train_split, test_split):
    wanted = {"train": train_split, "test": test_split}.get(split, split)
    found = _splits.named(wanted, list(every))
    if len(found) != 1:
        there = ", ".join(some(map(text, every)))
        many = f" or rather several: {', '.join(found)}" if found else ""
        raise Refused(f"{id} has no split {shown(wanted)}{many}; there are: {there} (options train_split, test_split)")
    return every[found[0]]
