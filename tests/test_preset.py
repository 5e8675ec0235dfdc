"""Presets: what the explorer saves, notebooks and runs read."""

import pytest
import yaml

import mimlab
from mimlab import preset
from mimlab.errors import Refused

GRID = {"mask": "split", "mask_ratio": 0.6, "mask_args": {"by": "rows"}}


def test_a_preset_goes_around(tmp_path):
    path = preset.save(tmp_path / "mine.yaml", **GRID)
    assert yaml.safe_load(path.read_text()) == GRID == preset.read(path)
    cfg = mimlab.Pretrain(preset=str(path)).resolved()
    assert (cfg.mask, cfg.mask_ratio, cfg.mask_args, cfg.preset) == ("split", 0.6, {"by": "rows"}, None)
    assert cfg.fingerprint == mimlab.Pretrain(**GRID).resolved().fingerprint  # the content counts, not the file
    shown = mimlab.Explore(preset=str(path)).resolved()
    assert (shown.mask, shown.mask_ratio, shown.mask_args) == ("split", 0.6, {"by": "rows"})


def test_nothing_is_overwritten_or_ignored(tmp_path):
    path = preset.save(tmp_path / "mine.yaml", **GRID)
    assert preset.save(path, **GRID) == path  # the same again is fine
    with pytest.raises(Refused, match="exists with another setting"):
        preset.save(path, **GRID | {"mask_ratio": 0.7})
    assert preset.read(path) == GRID
    with pytest.raises(Refused, match="mask_ratio was given too"):
        mimlab.Pretrain(preset=str(path), mask_ratio=0.3).resolved()
    with pytest.raises(Refused, match="end in .yaml"):
        preset.save(tmp_path / "mine.txt", **GRID)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("mask: random\nmask_ration: 0.5\n", "has mask, mask_ration; expected mask, mask_ratio, mask_args"),
        ("- 1\n", "has list"),
        ("mask: [", "is no YAML file.*line 1, column"),
        ("mask: !!python/object/apply:os.system [ls]", "is no YAML file.*line 1, column"),
        ("mask: random\nmask_ratio: much\n", "mask_ratio = 'much' is not a number"),
        ("mask: randam\n", "did you mean 'random'"),
    ],
)
def test_a_broken_preset_is_refused(content, said, tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(Refused, match=said):
        mimlab.Pretrain(preset=str(path)).resolved()


def test_a_missing_preset_is_refused(tmp_path):
    with pytest.raises(Refused, match="none.yaml' cannot be read"):
        mimlab.Pretrain(preset=str(tmp_path / "none.yaml")).resolved()
