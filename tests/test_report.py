"""One page about runs: what is in it, and what it says where there is nothing."""

import json
import re

import pytest

import mimlab
from mimlab import page
from mimlab.__main__ import main
from mimlab.errors import Refused
from mimlab.report import SECTIONS, report

SMALL = {
    "data": "emoji",
    "image_size": 16,
    "patch_size": 4,
    "epochs": 2,
    "batch_size": 64,
    "knn_every": 1,
    "log_every": 3,
    "device": "cpu",
    "encoder_args": {"dim": 12, "depth": 2, "heads": 2},
}
DECODER = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """mae twice with other seeds, one of them evaluated, and dino, which fills in nothing."""
    out = tmp_path_factory.mktemp("runs")
    found = [
        mimlab.pretrain(mimlab.Pretrain(method="mae", method_args=DECODER, seed=seed, out=str(out), **SMALL))
        for seed in (0, 1)
    ]
    results = {
        "after mae": {"top1": 40.0, "values": [39.0, 41.0], "chance": 20.0},
        "from scratch": {"top1": 30.0, "values": [30.0]},
    }
    (found[0].path / "evals").mkdir()
    (found[0].path / "evals" / "knn.json").write_text(json.dumps({"results": results, "config": {"fraction": 1.0}}))
    dino = SMALL | {"epochs": 1, "augment": {"local_crops": 0}}
    return [*found, mimlab.pretrain(mimlab.Pretrain(method="dino", method_args={"out_dim": 32}, out=str(out), **dino))]


def sections(text, level):
    """heading -> HTML up to the next one."""
    parts = re.split(rf"<{level}[^>]*>(.*?)</{level}>", text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_one_run_has_every_section(runs):
    path = report([str(runs[0].path)])
    assert path == runs[0].path / "report.html" and path.stat().st_size < 5_000_000
    found = sections(path.read_text(), "h2")
    assert list(found) == list(SECTIONS)
    assert "film" in found["How it formed"]
    for name in [name for name in SECTIONS if name not in ("Settings", "How it formed")]:
        assert "data-plotly" in found[name] and "<figcaption>" in found[name], name
    settings = found["Settings"]
    assert re.search(r"<tr class=marked><td>epochs</td><td>2</td><td>800</td><td>differs", settings)
    assert "<tr><td>mask_ratio</td><td>0.75</td><td>0.75</td><td></td>" in settings
    assert str(runs[0].path.parent) not in settings  # where it lay is nobody's business
    assert "from scratch" in found["Evaluations"] and "psnr" in found["What it fills in"]
    for label in re.findall(r'data-plotly role="img" aria-label="([^"]*)"', path.read_text()):
        assert len(label) > 20


def test_several_runs_stand_side_by_side_first(runs, tmp_path):
    path = report([str(run.path) for run in runs], tmp_path / "all.html")
    text = path.read_text()
    assert path.stat().st_size < 5_000_000 * len(runs)
    found = sections(text, "h2")
    assert list(found) == ["What differs", "Side by side", *(run.path.name for run in runs)]
    assert "<td>method</td><td>mae</td><td>dino</td>" in found["What differs"] and "mae (2 seeds)" in text
    dino = sections(found[runs[2].path.name], "h3")
    assert "fills in" not in dino["What it fills in"] and "data-plotly" not in dino["What it fills in"]
    assert "reconstructs nothing" in dino["What it fills in"] and "Not evaluated yet" in dino["Evaluations"]
    assert "Whole images" in dino["What it sees and hides"]
    assert text.count('id="mimlab-plotly"') == 1


def test_a_run_that_has_just_begun_says_what_there_is_not(runs, tmp_path):
    begun = tmp_path / "begun<b>"
    begun.mkdir()
    config = json.loads((runs[0].path / "config.json").read_text())
    (begun / "config.json").write_text(json.dumps(config))
    found = sections(report([str(begun)]).read_text(), "h2")
    assert "no step yet" in found["Training"] and "no checkpoint" in found["What it fills in"]
    assert (
        "data-plotly" not in found["How it formed"]
        and "no checkpoint" in found["Where it looks"]
        and "data-plotly" in found["What it sees and hides"]
    )
    assert "begun<b>" not in (begun / "report.html").read_text()


def test_only_a_report_is_overwritten(runs, tmp_path, capsys):
    mine = tmp_path / "mine.html"
    mine.write_text("<p>mine</p>")
    with pytest.raises(Refused, match="is there and was not written by mimlab"):
        report([str(runs[2].path)], mine)
    assert mine.read_text() == "<p>mine</p>"
    for out in (tmp_path / "a.txt", tmp_path / "nowhere" / "a.html"):
        with pytest.raises(Refused, match="ends in .html, in a folder that exists"):
            report([str(runs[2].path)], out)
    mine.write_text(page.page("older", ""))
    assert main(["report", str(runs[2].path), "--out", str(mine)]) == 0
    assert capsys.readouterr().out.strip() == str(mine) and "older" not in mine.read_text()
    assert not list(tmp_path.glob("*.part"))
    assert main(["report", "nowhere"]) == 2
