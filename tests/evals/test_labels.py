"""Labels and splits: what is refused, what is counted, what is held out."""

import numpy as np
import pytest

from mimlab import data
from mimlab.errors import Refused
from mimlab.evals._labels import check, hashes, hold_out, overlap, take


def test_labels_that_cannot_be_are_refused(squares):
    assert check(squares(8), squares(4)) == 4
    with pytest.raises(Refused, match="2 labels are outside 0 to 1, such as 2"):
        check(squares(4, classes=["a", "b"]), squares(2, classes=["a", "b"]))
    with pytest.raises(Refused, match="outside 0 to 3, such as -1"):
        check(squares(8), squares(4, labels=[0, 1, 2, -1]))
    with pytest.raises(Refused, match="different classes .4 and 3"):
        check(squares(8), squares(3, classes=["a", "b", "c"]))
    with pytest.raises(Refused, match="no images"):
        check(squares(8), take(squares(8), []))
    bare = squares(4)
    bare.labels = None
    with pytest.raises(Refused, match="no labels"):
        check(squares(8), bare)


def test_exact_duplicates_are_counted(squares):
    train, test = squares(30), squares(12, seed=1)
    assert overlap(train, test) == 0
    test._pixels[[2, 5]] = train._pixels[[7, 7]]
    test.fingerprint = "changed"
    assert overlap(train, test) == 2
    test._pixels[3] = train._pixels[9]
    test._pixels[3, 0, 0, 0] ^= 1  # nearly the same is not the same
    test.fingerprint = "changed again"
    assert overlap(train, test) == 2
    with pytest.raises(Refused, match="all 5 images of train are also training images"):
        overlap(train, take(train, np.arange(5)))


def test_hashes_are_kept_for_a_fingerprint(squares):
    images = squares(5, seed=3)
    found = hashes(images)
    assert (data.home() / "hashes" / f"{images.fingerprint}.npy").is_file() and len(set(found.tolist())) == 5
    images._pixels[:] = 0
    assert (hashes(images) == found).all()


def test_a_share_of_every_class_is_held_out(squares):
    images = squares(40)
    rest, held = hold_out(images, 0.2, seed=0)
    assert (len(rest), len(held)) == (32, 8) and held.split == "validation" and rest.split == images.split == "train"
    assert np.bincount(held.labels).tolist() == [2] * 4 and not set(rest.rows) & set(held.rows)
    assert len({images.fingerprint, rest.fingerprint, held.fingerprint}) == 3
    assert (held.get([0])[0].numpy() == images._pixels[held.rows[0]]).all()
    assert set(hold_out(images, 0.2, seed=1)[1].rows) != set(held.rows)
    with pytest.raises(Refused, match="validation = 0.1: no class has images enough"):
        hold_out(squares(8), 0.1, seed=0)
