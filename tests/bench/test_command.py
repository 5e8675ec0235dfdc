"""`mimlab bench` from end to end at tiny sizes: every method, every other that is installed, and clear refusals."""

import importlib.util
import json
import subprocess

import pytest

from mimlab.__main__ import main, parser
from mimlab.bench import measure, memory, others, sizes
from mimlab.bench.command import bench
from mimlab.bench.table import text
from mimlab.errors import Failed, Refused
from mimlab.find import names

TINY = {
    "encoder_args": '{"dim": 24, "depth": 2, "heads": 3}',
    "batch_size": "4",
    "vocab": "32",
    "image_size": "16",
    "device": "cpu",
}
PARTS = {
    "mae": {"method_args": '{"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}'},
    "cim": {"method_args": '{"generator_dim": 24, "generator_depth": 3, "generator_heads": 3}'},
    "dino": {
        "method_args": '{"out_dim": 64, "head_dim": 32, "bottleneck_dim": 16}',
        "augment": '{"local_crops": 2, "local_size": 8}',
    },
}


def tiny(method, **changes):
    return list((TINY | PARTS.get(method, {}) | changes).items())


QUICK = {"skip": ("memory", "loop"), "threads": 1, "starts": 1}


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=() if n in ("mae", "dino") else pytest.mark.slow) for n in names("methods")],
)
def result(request):
    return bench([request.param], parameter=tiny(request.param), rounds=1, **QUICK)


def test_every_method_is_measured_beside_its_plain_version(result):
    ours, plain = result["rows"][:2]
    assert ours["who"] == "mimlab" and plain["who"] == "plain timm" and ours["ratio"] == 1
    assert plain["differs"] is None, "not the same model"
    for row in result["rows"]:
        assert row["images_per_s"] > 0 and row["rounds"] == 1 and row["ratio"] > 0
        assert row["gflop_per_image"] > 0 and row["parameters"] > 0 and row["products"] > 10
        assert {"forward", "backward", "optimiser"} <= row["parts_ms"].keys()
    # one round of tiny products: their quotients are those of the times, which are anyone's guess on a busy machine
    assert ours["of_replay"] == pytest.approx(ours["replay_ms"] / ours["step_ms"])
    assert ours["of_peak"] == pytest.approx(ours["gflop_per_s"] / ours["peak_gflop_per_s"])
    assert "data" in ours["parts_ms"]
    (cfg,) = result["settings"].values()
    assert ("mask" in ours["parts_ms"]) == (cfg["mask"] != "none")
    assert ("tokenizer" in ours["parts_ms"]) == (cfg["tokenizer"] != "none")


def test_each_peer_has_a_row_or_a_reason(result):
    (method,) = result["settings"]
    said = {gone["who"] for gone in result["missing"]} | {row["asked"] for row in result["rows"]}
    assert said == {"mimlab", *others.known()}
    for row in result["rows"]:
        assert row.get("differs") is None or row["asked"] in ("transformers", "lightly")
    for gone in result["missing"]:
        assert gone["why"].startswith(("not installed", f"{gone['who']} has no {method}"))


def test_the_result_is_json_and_its_table_names_everyone(result):
    assert json.loads(json.dumps(result)) == result
    assert {"machine", "versions", "threads", "commit", "clock", "rounds", "peak_gflop_per_s"} <= result.keys()
    shown = text(result)
    assert all(row["who"] in shown for row in result["rows"])
    assert all(gone["why"] in shown for gone in result["missing"])


def test_the_whole_loop_and_memory_stand_in_the_table(monkeypatch):
    asked = []

    def ask(cfg, who, threads, fused):
        asked.append((cfg.method, who, threads, fused))
        return {"peak_mb": 123.4, "imports_mb": 500.0}

    monkeypatch.setattr(memory, "ask", ask)
    given = {
        "parameter": tiny("simmim", batch_size="32"),
        "rounds": 1,
        "starts": 2,
        "against": ["plain"],
        "threads": 1,
        "clock": "cpu",
    }
    found = bench(["simmim"], **given)
    assert sorted(asked) == [("simmim", "mimlab", 1, False), ("simmim", "plain", 1, False)]
    (loop,) = found["loop"]
    assert loop["rounds"] == 2 * 4 and 0.1 < loop["of_ready"] < 3  # in turns, so that a busy machine slows both
    assert "the whole loop" in text(found) and "MiB" in text(found) and " 123 " in text(found)


@pytest.mark.slow
def test_settings_are_tried_in_the_same_turns(monkeypatch):
    asked = []

    def ask(cfg, who, threads, fused):
        asked.append((cfg.batch_size, cfg.precision, cfg.recompute, who))
        return {"peak_mb": 1.0, "imports_mb": 500.0}

    monkeypatch.setattr(memory, "ask", ask)
    tried = [("recompute", "true"), ("batch_size", "8"), ("precision", "bf16")]
    given = {"parameter": tiny("mae"), "rounds": 1, "starts": 1, "against": ["plain"], "skip": ("loop",), "threads": 1}
    found = bench(["mae"], tried=tried, **given)
    rows = {row["who"]: row for row in found["rows"]}
    assert list(rows) == ["mimlab", "recompute = true", "batch_size = 8", "precision = bf16", "plain timm"]
    own = rows["mimlab"]
    assert [row["batch"] for row in rows.values()] == [4, 4, 8, 4, 4] and own["ratio"] == 1
    for row in rows.values():  # of images, and not of steps
        assert row["ratio"] == pytest.approx(own["images_per_s"] / row["images_per_s"])
        assert ("first_s" in row) == (row["who"] != "plain timm")
    again = rows["recompute = true"]["gflop_per_image"] / own["gflop_per_image"]
    assert 1.1 < again < 1.4  # a forward pass of the blocks more, a third of the whole
    assert rows["batch_size = 8"]["gflop_per_image"] == pytest.approx(own["gflop_per_image"])
    assert sorted(asked) == sorted([
        (4, "no", False, "mimlab"), (4, "no", True, "mimlab"), (8, "no", False, "mimlab"), (4, "bf16", False, "mimlab"),
        (4, "no", False, "plain"),
    ])  # fmt: skip
    assert "recompute = true" in text(found) and "first s" in text(found)


@pytest.mark.slow
def test_methods_are_tried_beside_each_other():
    given = tiny("beit")
    found = bench(["beit"], parameter=given, tried=[("method", "simmim")], rounds=1, against=(), **QUICK)
    own, other = found["rows"]
    assert (own["who"], other["who"]) == ("mimlab", "method = simmim")
    alone = bench(["simmim"], parameter=given, rounds=1, against=(), **QUICK)["rows"][0]
    assert other["gflop_per_image"] == pytest.approx(alone["gflop_per_image"]) != own["gflop_per_image"]
    with pytest.raises(Refused, match="no methods called 'beitt' .did you mean 'beit'"):
        bench(["beit"], tried=[("method", "beitt")], **QUICK)


@pytest.mark.slow
def test_memory_is_that_of_a_fresh_process():
    """A batch four times as large needs more, and what is imported is not counted."""
    small, large = (sizes.settings("supervised", "32px", dict(tiny("supervised", batch_size=b))) for b in ("64", "256"))
    assert small.image_size == 16
    found = [memory.ask(small, "mimlab", 1), memory.ask(large, "plain", 1)]
    assert all(row["imports_mb"] > 100 for row in found)
    assert 1 < found[0]["peak_mb"] < found[1]["peak_mb"] < 200


def test_a_peer_that_is_not_installed_is_named(monkeypatch):
    find = importlib.util.find_spec
    gone = ("transformers", "lightly")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in gone else find(name, *rest))
    found = bench(["simmim"], parameter=tiny("simmim"), rounds=1, **QUICK)
    assert {row["who"]: row["why"].split(" (")[0] for row in found["missing"]} == dict.fromkeys(gone, "not installed")
    assert "transformers: not installed" in text(found)


def test_one_that_fails_is_named_and_the_others_go_on(monkeypatch):
    class Child(measure.Child):
        def __init__(self, work, **given):
            super().__init__(broken if given.get("who") == "plain" else work, **given)

    monkeypatch.setattr(measure, "Child", Child)
    found = bench(["simmim"], parameter=tiny("simmim"), rounds=1, against=["plain"], **QUICK)
    assert [row["who"] for row in found["rows"]] == ["mimlab"]
    assert found["missing"][0]["why"] == "does not run here: ZeroDivisionError: division by zero"


def broken(say, **given):
    1 / 0  # noqa: B018


def test_another_model_is_told():
    sizes = others.Shape(16, 4, 24, 2, 3, 12, 32, 10, 4)
    ours = {"sizes": sizes, "blocks": 2, "parameters": 1000, "flops": 1.0}
    assert others.differs(ours, ours | {"parameters": 1040, "flops": 1.7}) is None
    other = ours | {"blocks": 3, "parameters": 2000, "flops": 3.0}
    assert others.differs(ours, other) == "3 blocks of width 24, not 2; 2.00 times the parameters; 3.00 times the FLOPs"


def test_memory_that_cannot_be_asked_says_why(monkeypatch):
    said = subprocess.CompletedProcess([], -9, "", "Traceback\nMemoryError: no room")
    monkeypatch.setattr(subprocess, "run", lambda *rest, **more: said)
    cfg = sizes.settings("mae", "32px", dict(tiny("mae")))
    with pytest.raises(Failed, match="memory of mae, plain: the process ended with -9: MemoryError: no room"):
        memory.ask(cfg, "plain", 1)


@pytest.mark.parametrize("method", ("simmim", pytest.param("mae", marks=pytest.mark.slow)))
def test_a_head_as_wide_as_a_block_is_no_block(method):
    """At patch 16 a head to pixels has 768 rows, as many as the hidden layer of a block of width 192."""
    given = {"encoder_args": '{"dim": 192, "depth": 1}', "image_size": "32", "batch_size": "1", "device": "cpu"}
    if method == "mae":
        given["method_args"] = '{"decoder_depth": 1}'
    found = bench([method], at="ti224", parameter=list(given.items()), rounds=1, **QUICK)
    assert [row.get("differs") for row in found["rows"]] == [None] * len(found["rows"])


@pytest.mark.parametrize("at", sizes.SIZES)
@pytest.mark.parametrize("method", names("methods"))
def test_the_named_configurations_are_those_compared_with(method, at):
    cfg = sizes.settings(method, at, {})
    side, patch = {"32px": (32, 4)}.get(at, (224, 16))
    assert (cfg.image_size, cfg.patch_size, cfg.vocab) == (side, patch, 8192)
    assert cfg.encoder_args["depth"] == (6 if at == "32px" else 12) and cfg.encoder_args["dim"] == (
        768 if at == "b224" else 192
    )
    assert cfg.clip == 0 and cfg.drop_path == 0
    if method == "mae":
        assert cfg.method_args["decoder_dim"] == {"32px": 128, "ti224": 192, "b224": 512}[at]
    if method == "dino":
        assert cfg.augment["local_crops"] == 6 and cfg.augment["local_size"] == (16 if at == "32px" else 96)
        assert (cfg.method_args["head_dim"], cfg.method_args["bottleneck_dim"], cfg.method_args["out_dim"]) == (
            2048,
            256,
            4096,
        )
    batches = {
        "32px": {"splitmask": 64, "dino": 32, "mae": 128},
        "ti224": {"dino": 8, "cae": 16, "splitmask": 16, "mae": 32},
    }
    assert cfg.batch_size == batches.get(at, {}).get(method, cfg.batch_size)


def test_what_is_given_counts_and_dicts_are_merged():
    cfg = sizes.settings(
        "mae", "32px", {"batch_size": "16", "method_args": '{"decoder_depth": 1}', "encoder_args": '{"depth": 2}'}
    )
    assert cfg.batch_size == 16 and cfg.method_args["decoder_depth"] == 1 and cfg.method_args["decoder_dim"] == 128
    assert cfg.encoder_args["depth"] == 2 and cfg.encoder_args["dim"] == 192


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["maee"], "did you mean 'mae'"),
        (["mae", "--at", "64px"], "there are: 32px, ti224, b224"),
        (["mae", "--against", "transfomers"], "did you mean 'transformers'"),
        (["mae", "--skip", "memry"], "did you mean 'memory'"),
        (["mae", "--clock", "sun"], "there are: wall, cpu"),
        (["mae", "--clock", "cpu", "--threads", "2"], "use threads = 1"),
        (["mae", "--rounds", "0"], "rounds = 0 must lie between 1"),
        (["mae", "--starts", "0"], "starts = 0 must lie between 1"),
        (["mae", "-p", "batch_sise", "4"], "did you mean 'batch_size'"),
        (["mae", "-p", "accumulate", "2"], "one process makes whole steps"),
        (["mae", "--try", "batch_sise", "4"], "did you mean 'batch_size'"),
        (["mae", "--try", "accumulate", "2"], "one process makes whole steps"),
        (["mae", "-p", "device", "cpu", "--try", "device", "auto"], "all cases of a method are on one device"),
        (["mae", "--out", "."], "is a folder"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(arguments, said, capsys):
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("mimlab: ") and said in error and "\n" not in error


def test_the_command_prints_a_table_and_writes_json_aside(tmp_path, capsys):
    out = tmp_path / "deep" / "bench.json"
    given = [part for pair in tiny("simmim") for part in ("-p", *pair)]
    flags = [
        "--against",
        "none",
        "--skip",
        "memory",
        "loop",
        "--rounds",
        "2",
        "--starts",
        "2",
        "--threads",
        "1",
        "--clock",
        "cpu",
    ]
    assert main(["bench", "simmim", *given, *flags, "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "simmim, batch 4" in shown and "mimlab" in shown and "of replay" in shown
    assert [path.name for path in out.parent.iterdir()] == ["bench.json"]
    found = json.loads(out.read_text())
    assert found["clock"] == "cpu" and found["rows"][0]["method"] == "simmim" and found["missing"] == []
    (row,) = found["rows"]
    assert row["rounds"] == len(row["step_ms_all"]) == 4 and "2 starts of 2 rounds" in shown


def test_every_option_is_described():
    bench = next(a for a in parser()._actions if a.dest == "command").choices["bench"]
    assert all(action.help for action in bench._actions)
