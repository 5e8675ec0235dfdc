"""Evaluations side by side: protocols apart, and no difference that is noise."""

import pytest
from scipy.stats import ttest_ind

from mimlab import verdicts
from mimlab.groups import groups


def result(top1, chance=20.0, **config):
    values = {"after mae": {"values": top1, "chance": chance}, "from scratch": {"values": [30.0], "chance": chance}}
    return {"results": values, "config": {"fraction": 1.0, "evaluation_args": {}} | config}


def test_evaluations_never_share_a_column_with_another_protocol(folder):
    runs = [
        folder("a0", evals={"knn": result([40.0])}),
        folder("a1", evals={"knn": result([44.0]), "finetune": result([80.0, 82.0])}, seed=1),
        folder("b", evals={"knn": result([50.0], evaluation_args={"k": 5})}, mask_ratio=0.5),
    ]
    values, chance = verdicts.results(runs)
    assert values["knn: top-1, k default"]["mae, mask_ratio 0.75"] == [40.0, 44.0]  # both seeds
    assert values["knn: top-1, k 5"] == {"mae, mask_ratio 0.5": [50.0], "mae, mask_ratio 0.5, from scratch": [30.0]}
    assert values["finetune: top-1"]["mae, mask_ratio 0.75"] == [80.0, 82.0] and all(
        told == {"chance": 20.0} for told in chance.values()
    )
    first, *_ = verdicts.evaluations(runs)
    assert first["finetune: top-1 (%)"] == "81.0 ± 1.4 (2)" and first["knn: top-1, k 5 (%)"] == "–"
    other = folder("c", evals={"finetune": result([9.0], chance=10.0)}, data="fashion_mnist")
    assert set(verdicts.results([runs[1], other])[0]) == {
        "knn: top-1",
        "finetune: top-1, data emoji",
        "finetune: top-1, data fashion_mnist",
    }
    assert "06" in verdicts.evaluations([folder("d", seed=7)])[0]["evaluations"]


def test_a_protocol_is_what_a_result_says_of_itself(folder):
    def told(protocol, **more):
        found = {"metric": "map", "map": 7.0, "values": [7.0], "protocol": protocol} | more
        return {"results": {"after mae": found, "random features": found}, "config": {"evaluation_args": {"k": 1}}}

    runs = [
        folder("a", evals={"x": told("retrieval pool=cls")}),
        folder("b", mask_ratio=0.5, evals={"x": told("retrieval pool=mean")}),
    ]
    values, chance = verdicts.results(runs)
    assert set(values) == {"retrieval pool=cls: map", "retrieval pool=mean: map"} and chance == {}
    assert set(values["retrieval pool=cls: map"]) == {"mae, mask_ratio 0.75", "mae, mask_ratio 0.75, random features"}


def evaluated(values, interval=None):
    found = {"metric": "top1", "values": values, "protocol": "knn", "interval": interval, "chance": 5.0}
    return {"knn": {"results": {"after mae": found}, "config": {}}}


def test_over_seeds_a_verdict_is_welchs_t(folder):
    many = {"a": [50.0, 51.0, 52.5], "b": [50.5, 52.0, 51.0], "c": [60.0, 61.0]}
    runs = [
        folder(n, evals=evaluated(v), mask_ratio=r) for (n, v), r in zip(many.items(), (0.5, 0.6, 0.7), strict=True)
    ]
    rows = verdicts.verdicts(runs)
    assert [row["verdict"].split(", mask_ratio ")[-1] for row in rows] == [
        "within noise",
        "0.7 is ahead",
        "0.7 is ahead",
    ]
    for row, (one, other) in zip(rows, (("a", "b"), ("a", "c"), ("b", "c")), strict=True):
        interval = ttest_ind(many[one], many[other], equal_var=False).confidence_interval(0.95)
        assert float(row["difference"]) == pytest.approx((interval.low + interval.high) / 2, abs=0.05)
        assert float(row["± (95 %)"]) == pytest.approx((interval.high - interval.low) / 2, abs=0.05)
        assert row["over"] == "seeds of the evaluation"
    twice = [
        folder(f"t{r}{n}", evals=evaluated([v]), mask_ratio=r, seed=n)
        for r in (0.3, 0.4)
        for n, v in ((0, 50.0), (1, 51.0))
    ]
    (row,) = verdicts.verdicts(twice)
    assert (row["over"], row["verdict"]) == ("seeds", "within noise")


def test_with_one_seed_the_test_images_tell(folder):
    runs = [
        folder("a", evals=evaluated([50.0], [46.0, 54.0]), mask_ratio=0.5),
        folder("b", evals=evaluated([54.0], [51.0, 57.0]), mask_ratio=0.6),
        folder("c", evals=evaluated([60.0], [57.0, 63.0]), mask_ratio=0.7),
        folder("d", evals=evaluated([70.0]), mask_ratio=0.8),
    ]
    rows = verdicts.verdicts(runs)
    assert [row["± (95 %)"] for row in rows[:2]] == ["5.0", "5.0"]  # of 4 and 3
    assert [row["verdict"].split(" ")[0] for row in rows[:2]] == ["within", "mae,"]
    assert "cannot be said" in rows[-1]["verdict"]
    assert "no two" in verdicts.verdicts(runs[:1])[0]["verdict"]


def test_detection_stands_beside_pretraining_in_columns_of_its_own(folder, tmp_path):
    """Transfers lie in `out` too; those of another schedule are not compared."""
    import json

    import mimlab
    from mimlab import compare

    for name, changes, value in (("one", {}, 40.0), ("two", {"init": "a"}, 60.0), ("three", {"epochs": 3}, 9.0)):
        cfg = mimlab.Detect(out=str(tmp_path), run=name, **changes).resolved()
        told = {"metric": "box_ap", "values": [value], "interval": [value - 2, value + 2]}
        told["protocol"] = f"detect {cfg.schedule}"
        start = "after pre-training" if changes.get("init") else "from scratch"
        (tmp_path / name / "evals").mkdir(parents=True)
        (tmp_path / name / "evals" / "detect.json").write_text(json.dumps({"results": {start: told}}))
        about = {"settings": cfg.dict(), "data_fingerprint": "f", "images": 4, "commit": "c"}
        (tmp_path / name / "config.json").write_text(json.dumps(about))
    folder("before", evals=evaluated([50.0], [45.0, 55.0]))
    runs = compare.select("*", str(tmp_path))
    (row,) = verdicts.verdicts(runs)
    assert row["difference"] == "-20.0" and row["verdict"] == "two is ahead" and "box_ap" in row["protocol"]
    assert len(groups(runs)) == 4 and len(compare.settings(runs)) > 3 and len(compare.views(runs, 1)) == 4
