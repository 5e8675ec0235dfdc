"""One function opens a run, its checkpoints, or a file of official weights."""

import pytest
import torch
from checkpoints.test_checkpoints import official, small_mae
from PIL import Image

from mimlab import Pretrain, pretrain
from mimlab.checkpoints import mae
from mimlab.errors import Refused
from mimlab.looking.opened import open_model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return pretrain(
        Pretrain(
            method="mae",
            data="emoji",
            image_size=16,
            patch_size=4,
            epochs=2,
            batch_size=256,
            knn_every=0,
            out=str(tmp_path_factory.mktemp("runs")),
            encoder_args={"dim": 16, "depth": 1, "heads": 2},
            keep_weights=True,
            checkpoint_every=1,
            method_args={"decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2},
        )
    )


def test_a_run_by_path_by_name_and_newest(run):
    ways = [
        open_model(str(run.path)),
        open_model(run.path.name, str(run.path.parent)),
        open_model("newest", str(run.path.parent)),
    ]
    assert {one.title for one in ways} == {run.path.name}
    images, labels, classes, split, about = ways[0].images(3)
    assert images.shape == (3, 3, 16, 16) and len(labels) == 3 and len(classes) == 5
    assert split == "test" and about == "test images of emoji, seed 0"
    assert torch.equal(images, ways[2].images(3)[0]) and not torch.equal(images, ways[0].images(3, seed=1)[0])


def test_a_source_without_a_test_split_gives_its_train_split_and_says_so(run, tmp_path):
    Image.new("L", (20, 24), 90).save(tmp_path / "grey.png")
    found = open_model(str(run.path)).images(3, name="folder", path=str(tmp_path))
    assert found.images.shape == (1, 3, 16, 16) and found.split == "train"
    assert found.about == "train images of folder, since there is no test split, seed 0"
    with pytest.raises(Refused, match="does not exist"):
        open_model(str(run.path)).images(3, name="folder", path=str(tmp_path / "gone"))


def test_a_checkpoint_of_a_run(run):
    first = min(run.weights())
    one = open_model(str(run.path), step=first)
    assert str(first) in one.title
    assert not torch.equal(one.method.head.weight, open_model(str(run.path)).method.head.weight)
    with pytest.raises(Refused, match="step"):
        open_model(str(run.path), step=999_999)


def test_an_official_file(tmp_path):
    torch.manual_seed(0)
    method, path = small_mae(), tmp_path / "mae_visualize.pth"
    torch.save({"model": official(method, mae.ours)}, path)
    with pytest.raises(Refused, match="norm_pix"):
        open_model(str(path), load={"heads": 2})
    found = open_model(str(path), load={"norm_pix": False, "heads": 2, "decoder_heads": 2})
    assert found.run is None and found.size == (16, 16) and "mae" in found.note
    assert torch.equal(found.method.head.weight, method.head.weight)
    assert found.images(2)[0].shape == (2, 3, 16, 16)  # photographs
    assert open_model(str(path), load={"encoder": True, "heads": 2}).method is None
    assert open_model(str(path), load={"encoder": True, "heads": 2, "image_size": 24}).size == (24, 24)


def test_what_cannot_be_opened_is_said(tmp_path, run):
    with pytest.raises(Refused, match="no such file"):
        open_model(str(tmp_path / "there.pth"))
    with pytest.raises(Refused, match="norm_pix"):
        open_model(str(run.path), load={"norm_pix": True})
    with pytest.raises(Refused, match="norm_pix"):
        open_model(str(run.path / "encoder.safetensors"), load={"norm_pix": True, "encoder": True})
    with pytest.raises(Refused, match="no run folder"):
        open_model("nothing", str(tmp_path))
