"""Any image data set of the Hugging Face hub, or of a folder that `datasets.load_dataset` can read.

Nothing from the hub is run: data sets that are scripts are refused by `datasets` itself. With a full commit
as `revision` a cached set opens without the network and without importing `datasets`.
"""

import re

from mimlab.errors import Refused


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
    """The commit where one is pinned, else what `datasets` knows the split by, which follows the hub."""
    if revision is not None and re.fullmatch("[0-9a-f]{40}", str(revision)):
        return revision
    return _chosen(_open(id, config, revision), split, id, train_split, test_split)._fingerprint


def load(
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
    """A `datasets.Dataset` with image and, unless `label` is None, label.

    id: "owner/name", or a folder. image, label: names of its columns. config, revision: as in `load_dataset`.
    train_split, test_split: what the set calls the splits "train" and "test".
    """
    import datasets

    every = _open(id, config, revision)
    chosen = _chosen(every, split, id, train_split, test_split)
    for field, column in (("image", image), ("label", label)):
        if column is not None and column not in chosen.column_names:
            there = ", ".join(chosen.column_names)
            raise Refused(f"{field} = {column!r} is no column of {id} ({split}); there are: {there}")
    if not isinstance(chosen.features[image], datasets.Image):
        raise Refused(f"image = {image!r} of {id} holds {chosen.features[image]}, not images")
    if label is None:
        return chosen.select_columns([image]).rename_columns({image: "image"} if image != "image" else {})
    names = {old: new for old, new in ((image, "image"), (label, "label")) if old != new}
    result = chosen.select_columns([image, label]).rename_columns(names)
    if isinstance(result.features["label"], datasets.ClassLabel):
        return result
    # classes of all splits together, or a class that one split lacks would shift the numbers of the others
    values = sorted(
        {v for part in every.values() if label in part.column_names for v in part.unique(label)}, key=_order
    )
    number = {value: i for i, value in enumerate(values)}
    coded = [number[value] for value in result["label"]]
    feature = datasets.ClassLabel(names=[str(v) for v in values])
    return result.remove_columns("label").add_column("label", coded).cast_column("label", feature)


def _order(value):
    return (isinstance(value, str), value)


def _open(id, config, revision):
    """Every split, a `datasets.DatasetDict`; one line for whatever `datasets` cannot do."""
    import datasets

    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(id, config, revision=revision)
    except Exception as error:  # network, missing set, missing config, script, gate: each its own kind
        reason = " ".join(str(error).split())[:300]
        raise Refused(
            f"hub: id = {id!r}, config = {config!r} cannot be loaded ({type(error).__name__}: {reason}); "
            f"offline, use a set that this machine has loaded before, or data = 'folder'"
        ) from error
    finally:
        if shown:
            datasets.enable_progress_bars()


def _chosen(every, split, id, train_split, test_split):
    wanted = {"train": train_split, "test": test_split}.get(split, split)
    if wanted not in every:
        raise Refused(f"{id} has no split {wanted!r}; there are: {', '.join(every)} (options train_split, test_split)")
    return every[wanted]
