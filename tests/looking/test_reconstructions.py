"""What a model fills in, on runs of every kind and on official files, by themselves and through the notebook."""

import ast
import math
from pathlib import Path

import nbformat
import pytest
import torch
from checkpoints.test_checkpoints import official, small_mae

import mimlab
from mimlab import Pretrain, encoders, pretrain
from mimlab.checkpoints import mae
from mimlab.errors import Refused
from mimlab.figures import reconstructions as figures
from mimlab.looking import reconstructions
from mimlab.looking.reconstructions import Seen, look, psnr, sweep
from mimlab.masks import pixels
from mimlab.methods.beit import BEiT
from mimlab.tokenizers.random_patches import Tokenizer

NOTEBOOK = Path(mimlab.__file__).parent.parent / "notebooks" / "04_reconstructions.ipynb"
SMALL = {
    "data": "emoji",
    "image_size": 16,
    "patch_size": 4,
    "epochs": 1,
    "batch_size": 256,
    "knn_every": 0,
    "device": "cpu",
}
SMALL |= {"encoder_args": {"dim": 24, "depth": 1, "heads": 2}, "vocab": 16}
DECODER = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}
GENERATOR = {"generator_dim": 16, "generator_depth": 1, "generator_heads": 2, "window": 4}
KINDS = {
    "mae": {"method": "mae", "method_args": DECODER},
    "mae_pixels": {"method": "mae", "method_args": DECODER | {"norm_pix": False}},
    "mae_tokens": {"method": "mae", "tokenizer": "kmeans", "method_args": DECODER | {"target": "tokens"}},
    "mae_pca": {"method": "mae", "method_args": DECODER | {"target": "pca"}},
    "beit": {"method": "beit", "tokenizer": "kmeans", "patch_size": 2},
    "no_picture": {"method": "beit", "tokenizer": "random_projection"},
    "splitmask": {"method": "splitmask", "tokenizer": "kmeans", "mask": "random", "mask_ratio": 0.75},
    "match": {"method": "splitmask", "tokenizer": "kmeans", "method_args": {"inpaint": False}},
    "simmim": {"method": "simmim"},
    "simmim_coarser": {"method": "simmim", "method_args": {"head": "blocks", "coarser": 2}},
    "cae": {"method": "cae", "tokenizer": "kmeans"},
    "respix": {"method": "cim", "tokenizer": "kmeans", "method_args": GENERATOR},
    "revdet": {"method": "cim", "tokenizer": "kmeans", "method_args": GENERATOR | {"objective": "revdet"}},
    "dino": {"method": "dino", "method_args": {"out_dim": 16, "head_dim": 16, "bottleneck_dim": 8}},
    "supervised": {"method": "supervised"},
}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A folder with a run of every kind, none of which keeps weights of its checkpoints."""
    folder = tmp_path_factory.mktemp("runs")
    for name, settings in KINDS.items():
        pretrain(Pretrain(**SMALL | settings | {"run": name, "out": str(folder)}))
    return str(folder)


def test_psnr_by_hand():
    images, mask = torch.zeros(1, 3, 4, 4), torch.tensor([[True, False, False, False]])
    filled = torch.full_like(images, 0.1)
    assert psnr(images, filled, mask, (2, 2)) == pytest.approx(20.0)
    filled[:, :, :2, :2] = 0  # only hidden pixels count
    assert psnr(images, filled, mask, (2, 2)) > 100


def executed(given):
    """What each cell of the notebook shows, and its names afterwards, without the seconds that a kernel takes to start."""
    cells = [cell for cell in nbformat.read(NOTEBOOK, as_version=4).cells if cell.cell_type == "code"]
    names, shown = {"__name__": "__main__"}, []
    for cell in cells:
        *body, last = ast.parse(cell.source).body
        if "parameters" in cell.metadata.get("tags", []):
            exec(cell.source, names)
            names |= given
        elif isinstance(last, ast.Expr) and not cell.source.startswith("import"):
            exec(compile(ast.Module(body, []), "cell", "exec"), names)
            shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
        else:
            exec(cell.source, names)
        if cell.source.startswith("tables.table(found.tables[1]"):  # what follows is another's
            break
    return shown, names["found"]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_run_gives_its_pictures_or_says_why_not(name, out, capsys):
    (*drawn, _, _), found = executed({"run": name, "out": out, "images": 2, "samples": 20})
    assert capsys.readouterr().out.strip() == found.about
    assert sum(len(figure.to_json()) for figure in drawn) < 1_000_000
    has = ["pictures" if figure.layout.images else "traces" if figure.data else "a line" for figure in drawn]
    none = ["a line"]
    want = {
        "mae": ["pictures"] * 3 + none * 2 + ["pictures", "traces"],
        "mae_pixels": ["pictures", "a line", "pictures"] + none * 2 + ["pictures", "traces"],
        "no_picture": ["pictures"] + none * 2 + ["traces"] + none * 2 + ["traces"],
        "match": ["pictures"] + none * 6,
        "dino": none * 7,
        "supervised": none * 7,
    }
    tokenised = ["pictures", "a line", "pictures", "traces"]
    want |= {
        "beit": [*tokenised, "a line", "pictures", "traces"],
        "splitmask": [*tokenised, "a line", "pictures", "traces"],
    }
    want |= {"mae_tokens": want["beit"], "mae_pca": want["mae_pixels"], "simmim_coarser": want["mae_pixels"]}
    want |= {
        "cae": [*tokenised, "pictures", "pictures", "traces"],
        "revdet": [*tokenised, "pictures", "pictures", "traces"],
    }
    want |= {"simmim": want["mae_pixels"], "respix": ["pictures"] * 3 + ["traces", "pictures", "pictures", "traces"]}
    assert has == want[name]
    if "tokens" in name:
        assert found.tokens.true.shape == (2, 16) and found.numbers["token_accuracy"] >= 0
    assert found.note and found.about and found.numbers["images"] == 20 and all(found.tables)
    if name in ("dino", "supervised"):
        assert "hides no patches" in found.note
    elif has[0] == "pictures" and found.filled is None:
        assert "predicts no picture" in found.note
    else:
        assert math.isfinite(found.numbers["psnr_hidden"]) and len(found.each) == 2


def test_numbers_are_over_samples_and_pictures_over_images(out):
    two, three = (look(mimlab.Look(run="splitmask", out=out, images=k, samples=40)) for k in (2, 3))
    method = mimlab.Run.open(Path(out) / "splitmask").method()
    assert two.images.shape == two.filled.shape == two.filled_rest.shape == (2, 3, 16, 16)
    assert torch.equal(two.mask, three.mask[:2]) and two.numbers == three.numbers and two.numbers["images"] == 40
    with torch.no_grad():
        assert torch.allclose(two.filled, method.reconstruct(two.images, two.mask).images, atol=1e-5)
        judged = method.judge(two.images, two.mask)
    assert torch.allclose(two.loss[two.mask], judged.loss[two.mask], atol=1e-5) and two.loss[~two.mask].isnan().all()
    assert (two.other.sum(dim=1) == 12).all() and not (~two.other & ~two.mask).any()  # B sees as few, none that A sees
    assert two.each[1]["psnr_hidden"] == psnr(two.images[1:], two.filled[1:], two.mask[1:], two.grid)
    counts = [row["patches"] for row in two.distances["PSNR in dB"]["filled in"]]
    assert sum(counts) == 40 * 12
    assert sum(row["patches"] for row in two.distances["loss"]["of the method"]) == 40 * 12


def test_asking_in_parts_changes_nothing_and_bounds_the_memory(out, monkeypatch):
    """With a vocabulary of 8,192 logits are the largest thing there is."""
    whole = look(mimlab.Look(run="cae", out=out, images=2, samples=12, mask="loss"))
    most, method = [], type(whole.method)
    plain = method.judge
    monkeypatch.setattr(
        method, "judge", lambda self, images, mask: most.append(len(images)) or plain(self, images, mask)
    )
    monkeypatch.setattr(reconstructions, "ROOM", 5 * 16 * 4 * 24)
    parts = look(mimlab.Look(run="cae", out=out, images=2, samples=12, mask="loss"))
    assert max(most) <= 5 and sum(most) >= 12
    assert torch.equal(parts.mask, whole.mask) and torch.allclose(parts.filled, whole.filled, atol=1e-5)
    assert parts.numbers.keys() == whole.numbers.keys()
    assert all(parts.numbers[n] == pytest.approx(whole.numbers[n], abs=0.02) for n in whole.numbers)


def test_a_sweep_goes_from_few_hidden_to_nearly_all(out):
    cfg = mimlab.Look(run="mae_pixels", out=out, images=3, samples=4)
    found = look(cfg)
    swept = sweep(found, cfg, images=2)
    assert [int(mask[0].sum()) for mask in swept.masks] == [2, 4, 6, 8, 10, 12, 14, 15]
    assert swept.ratios[0] == 2 / 16 and swept.images.shape == (2, 3, 16, 16)
    for less, more in zip(swept.masks, swept.masks[1:], strict=False):
        assert (more | ~less).all()  # random masks of one seed grow
    mask, filled = swept.masks[3], swept.fills[3]
    assert swept.psnr[3][1] == psnr(swept.images[1:], filled[1:], mask[1:], found.grid)


def test_the_mask_is_the_runs_own_until_told_otherwise(out):
    own = mimlab.Look(run="splitmask", out=out).resolved()
    assert (own.mask, own.mask_ratio, own.run) == ("random", 0.75, str(Path(out) / "splitmask"))
    other = mimlab.Look(run="splitmask", out=out, mask="blockwise", mask_ratio=0.4).resolved()
    assert (other.mask, other.mask_ratio, other.mask_args) == ("blockwise", 0.4, {})
    assert other.resolved() == other and mimlab.Look(run="dino", out=out).resolved().resolved().mask == "none"
    assert mimlab.Look(run="cae", out=out).folder() == Path(out) / "cae"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"images": 0}, "images = 0"),
        ({"samples": 0}, "samples = 0"),
        ({"split": "tests"}, "split = 'tests' .did you mean 'test'"),
        ({"data_args": {"path": "x"}}, "name the data too"),
        ({"data": "emojis"}, "did you mean 'emoji'"),
        ({"step": 7}, "no checkpoint of step 7"),
        ({"mask": "blokwise"}, "did you mean 'blockwise'"),
        ({"mask_ratio": 1.0}, "mask_ratio = 1.0"),
        ({"run": "dino", "mask": "random"}, "dino hides no patches"),
    ],
)
def test_bad_input_is_refused_before_anything_is_done(given, said, out):
    with pytest.raises(Refused, match=said):
        mimlab.Look(**{"run": "mae", "out": out} | given).resolved()


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(0)
    torch.save({"model": official(small_mae(), mae.ours)}, tmp_path / "mae_visualize_vit_small.pth")
    return tmp_path / "mae_visualize_vit_small.pth"


@pytest.mark.slow
def test_an_official_file_in_the_notebook_is_its_own_demo(file, tmp_path):
    given = {
        "run": str(file),
        "load": {"norm_pix": False, "heads": 2, "decoder_heads": 2},
        "out": str(tmp_path),
        "images": 2,
    }
    path = mimlab.execute(NOTEBOOK, given)
    assert path == tmp_path / "looked" / "mae_visualize_vit_small" / "reconstructions.ipynb"
    text = path.read_text()
    assert "mae predicts pixels, by a decoder of depth 1" in text and "random masks hide 12 of 16 patches" in text
    found = look(mimlab.Look(**given))
    torch.manual_seed(0)
    method = small_mae().eval()
    method.norm_pix = False
    with torch.no_grad():
        y = method.predict(found.images, found.mask).view(2, 4, 4, 4, 4, 3)
    y = torch.einsum("nhwpqc->nchpwq", y).reshape(2, 3, 16, 16)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    hidden = pixels(found.mask, (4, 4), (16, 16)).float()
    demo = (((found.images - mean) / std * (1 - hidden) + y * hidden) * std + mean).clamp(0, 1)
    pasted = torch.where(hidden.bool(), found.filled, found.images)
    assert torch.allclose(pasted, demo, atol=1e-5) and found.numbers["images"] == 5  # all photographs


def test_an_encoder_alone_is_refused_with_the_files_that_have_a_decoder(tmp_path, out):
    encoder = encoders.create("vit", 16, 4, dim=24, depth=1, heads=2)
    torch.save(encoder.trunk.state_dict(), tmp_path / "dino.pth")
    with pytest.raises(
        Refused, match="encoder alone and fills in nothing; what does: MAE's file with its decoder"
    ) as error:
        mimlab.Look(run=str(tmp_path / "dino.pth"), load={"heads": 2}).resolved()
    assert "\n" not in str(error.value)
    with pytest.raises(Refused, match="encoder alone"):
        mimlab.Look(run=str(Path(out) / "mae" / "encoder.safetensors"), out=out).resolved()


def test_one_image_and_a_grey_one(out, tmp_path):
    from PIL import Image

    Image.new("L", (20, 14), 90).save(tmp_path / "grey.png")
    cfg = mimlab.Look(run="mae", out=out, data="folder", data_args={"path": str(tmp_path)}, split="train", images=4)
    found = look(cfg)
    assert found.images.shape == (1, 3, 16, 16) and found.numbers["images"] == 1 and len(found.each) == 1
    assert all(row["error"] is None for row in found.distances["SSIM"]["filled in"])
    assert len(figures.sweep(*sweep(found, cfg)).layout.images) == 16


def test_a_large_vocabulary_is_asked_a_few_images_at_a_time():
    tokenizer = Tokenizer(8192, 2)
    method = BEiT(encoders.create("vit", 32, 2, dim=24, depth=1, heads=2), tokenizer)
    images, mask = torch.rand(20, 3, 32, 32), torch.zeros(20, 256, dtype=torch.bool)
    parts = reconstructions.split(method, images, mask)
    assert [len(part[0]) for part in parts] == [7, 7, 6] and max(
        map(len, parts[0])
    ) * 256 * 8192 <= reconstructions.ROOM


def test_what_is_seen_without_a_mask_is_nothing():
    assert Seen("a", "b", None, torch.zeros(1, 3, 4, 4), (2, 2), {"images": 1}).labels is None
