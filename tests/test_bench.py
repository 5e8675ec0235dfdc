"""Speeds are of the real loop, in turns, relative to the first."""

from test_train import settings

from mimlab import bench


def test_speeds_are_measured_in_turns_and_relative_to_the_first(tmp_path):
    turns = []
    given = {"mae": settings(tmp_path, method="mae"), "double": settings(tmp_path, method="mae", batch_size=64)}
    rows = bench.compare(given, rounds=2, steps=8, report=turns.append)
    assert [row["name"] for row in rows] == ["mae", "double"]
    assert [turn["name"] for turn in turns] == ["mae", "double", "double", "mae"]
    assert rows[0]["relative"] == 1 and rows[1]["relative"] > 0
    assert rows[0]["images_per_s"] == round(sum(t["images_per_s"] for t in turns if t["name"] == "mae") / 2, 1)
    assert not list(tmp_path.iterdir())


def test_settings_are_shared_and_small_where_a_paper_has_large_parts():
    found = bench.methods(["beit", "mae"], {"image_size": "16", "method_args": "{decoder_depth: 1}"})
    assert found["beit"].method == "beit" and found["mae"].image_size == 16
    assert found["mae"].method_args == {"decoder_depth": 1}  # what is given counts
    assert bench.methods(["mae"], {})["mae"].method_args["decoder_dim"] == 64
