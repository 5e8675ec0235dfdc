"""The YAML file: what it may say, and the combinations that it means."""

import dataclasses
from pathlib import Path

import pytest
import yaml

import mimlab
from mimlab.errors import Refused
from mimlab.study import grid, plan, spec

ROOT = Path(mimlab.__file__).parent.parent
TINY = "base: {data: emoji, image_size: 16, patch_size: 4, encoder_args: {dim: 24, depth: 1, heads: 2}, vocab: 16}\n"


def read(here, text, **more):
    (here / "s.yaml").write_text(text)
    return spec.read(here / "s.yaml", **more)


def test_combinations_are_axes_times_zips_times_seeds_without_the_excluded(here):
    found = read(
        here,
        TINY
        + "axes: {method: [mae, beit], encoder_args.dim: [12, 24]}\nzip: [{epochs: [1, 2], batch_size: [8, 16]}]\n"
        + "exclude: [{method: beit, epochs: 2}]\nseeds: 2\n",
    )
    combined = grid.combinations(found)
    assert len(combined) == 2 * 2 * 2 * 2 - 1 * 2 * 1 * 2
    assert {(v["epochs"], v["batch_size"]) for _, v in combined} == {(1, 8), (2, 16)}
    settings, varied = combined[0]
    assert varied == {"method": "mae", "encoder_args.dim": 12, "epochs": 1, "batch_size": 8, "seed": 0}
    assert settings["encoder_args"] == {"dim": 12, "depth": 1, "heads": 2} and "encoder_args.dim" not in settings
    assert found.base["encoder_args"]["dim"] == 24  # the file's own dict is not changed
    assert found.folder == Path("studies/s")


def test_a_scale_merges_its_base_and_replaces_the_rest(here):
    text = TINY + "axes: {method: [mae]}\nseeds: 3\nscale: {cpu: {base: {epochs: 2}, seeds: 1}, paper: {seeds: [5]}}\n"
    first, paper = read(here, text), read(here, text, scale="paper")
    assert (first.scale, first.seeds, first.base["epochs"]) == ("cpu", [0], 2)
    assert (paper.seeds, paper.folder.name) == ([5], "s_paper") and "epochs" not in paper.base
    assert paper.base["data"] == "emoji"
    assert read(here, text, given={"epochs": 7}).base["epochs"] == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("axis: {}", r"no key 'axis' .did you mean 'axes'"),
        ("axes: [1]", r"axes = \[1\] should be names with values"),
        ("axes: {method: mae}", r"axes should be names, each with a list"),
        ("axes: {seed: [1]}\nseeds: 2", r"seed set twice"),
        ("zip: [{a: [1, 2], b: [1]}]", r"zip 1 moves a, b together"),
        ("axes: {method: [mae]}\nexclude: [{metod: mae}]", r"exclude has 'metod' .did you mean 'method'"),
        ("seeds: [1, 1]", r"whole numbers, each once"),
        ("name: a/b", r"names a folder"),
        ("base: {run: x}", r"a study names the folders of its runs itself"),
        ("notebook: 03_pretrian.ipynb", r"did you mean '03_pretrain.ipynb'"),
        ("notebook: 01_masks.ipynb\nevaluations: [{evaluation: knn}]", r"belong to pre-training"),
        ("scale: {cpu: {axs: {}}}", r"scale cpu: no key 'axs' .did you mean 'axes'"),
        ("a: [", r"is no YAML.*line \d, column \d"),
        ("axes: {1: [1]}", r"axes: 1 is no name"),
        ("axes: {method: [mae]}\nexclude: [method]", r"exclude has 'method'; expected names with values"),
        ("axes: {method: [mae]}\nexclude: [[method]]", r"exclude has \['method'\]; expected names"),
        ("scale: {cpu: 5}", r"scale 'cpu' = 5 should be"),
        ("scale: {1: {}}", r"scale: 1 is no name"),
        ("base: {1: 2}", r"base: 1 is no name"),
        ("base: {lr: .nan}", r"base: lr = nan: it must be finite"),
        ("base: {methd: mae}", r"no parameter 'methd' .did you mean 'method'"),
        ("axes: {methd.x: [1]}", r"no parameter 'methd.x'"),
        ("axes: {epoch: [1]}\nseeds: 10000", r"no parameter 'epoch'"),
        ("seeds: 1000000000", r"seeds = 1000000000 must lie between 1 and 10000"),
        ("seeds: -1", r"seeds = -1 must lie between"),
        ("seeds: [-1]", r"seeds = -1 must lie between 0 and 4294967295"),
        ("seeds: [100000000000000000000]", r"at most 64 bits"),
        ("seeds: yes", r"seeds = 'yes' should be a list, or how many"),
        (
            "axes:\n"
            + "".join(
                f"  {name}: [{', '.join(map(str, range(1, 101)))}]\n"
                for name in ("epochs", "lr", "vocab", "batch_size")
            ),
            r"give 100,000,000 combinations, at most 10,000",
        ),
        ("presets: [{}]", r"presets = {} is not text"),
        ("notebook: 3", r"notebook = 3 should be text"),
        ("name: 2024-01-01\nname: x", r"line 2, column 1: the name 'name' stands twice"),
        ("zip: [{}]", r"zip 1 should be names, each with a list"),
        ("- 1", r"should hold names with values"),
    ],
)
def test_what_has_no_meaning_is_refused(here, text, said):
    with pytest.raises(Refused, match=said) as error:
        read(here, text)
    assert "\n" not in str(error.value)


def test_a_wrong_path_names_the_nearest_and_scales_are_known(here):
    read(here, "scale: {cpu: {}}")
    with pytest.raises(Refused, match=r"'s.yml' cannot be read .*did you mean 's.yaml'"):
        spec.read("s.yml")
    with pytest.raises(Refused, match=r"scale = 'cpi' .did you mean 'cpu'"):
        spec.read("s.yaml", "cpi")
    with pytest.raises(Refused, match="parameter epochs: the study varies it"):
        read(here, "axes: {epochs: [1]}", given={"epochs": 2})


def test_dates_exponents_and_no_stay_what_was_meant(here):
    text = "base: {data_args: {since: 2024-01-01}, precision: no, lr: 1e-3}\naxes: {weight_decay: [1e-2, 5E-2]}"
    found = read(here, text)
    assert found.base == {"data_args": {"since": "2024-01-01"}, "precision": "no", "lr": 1e-3}
    assert found.axes == {"weight_decay": [0.01, 0.05]}
    assert read(here, "name: 2024-01-01").name == "2024-01-01"


def test_yaml_is_data_only(here):
    with pytest.raises(Refused, match="is no YAML"):
        read(here, "base: !!python/object/apply:os.system ['touch owned']")
    assert not (here / "owned").exists()


def test_every_combination_is_checked_before_anything_starts(here):
    with pytest.raises(
        Refused, match=r"2 of 4 combinations cannot work, first method = mea, seed = 0: no methods called"
    ):
        plan.plan(read(here, TINY + "axes: {method: [mae, mea]}\nseeds: 2"))
    with pytest.raises(Refused, match="fits no combination"):
        plan.plan(read(here, TINY + "axes: {method: [mae]}\nexclude: [{method: beit}]"))
    with pytest.raises(Refused, match="no parameter 'epoch' .did you mean 'epochs'"):
        plan.plan(read(here, TINY + "axes: {epoch: [1]}"))
    with pytest.raises(Refused, match="evaluation_args: no option 'kk'"):
        plan.plan(read(here, TINY + "evaluations: [{evaluation: knn, evaluation_args: {kk: 1}}]"))
    assert sorted(path.name for path in here.iterdir()) == ["s.yaml"]


def test_alike_configurations_are_one_job_and_scratch_is_shared(here):
    """The paper's own mask ratio, and the same number written out, are one run; both rows point to it."""
    text = (
        TINY
        + "axes: {mask_ratio: [null, 0.75], method: [mae]}\nscratch: true\nseeds: 2\nevaluations: [{evaluation: knn}]"
    )
    jobs = plan.plan(read(here, text))
    scratch, trained = jobs[:2], jobs[2:]
    assert [len(job.varied) for job in trained] == [2, 2] and len(scratch) == 2
    assert [job.varied for job in scratch] == [[{"method": "none", "seed": 0}], [{"method": "none", "seed": 1}]]
    assert [task.name.partition("-")[0] for task in trained[0].tasks] == ["pretrain", "knn"]
    other = plan.plan(
        read(here, TINY + "axes: {method: [beit]}\nscratch: true\nseeds: 2\nevaluations: [{evaluation: knn}]")
    )
    assert {job.folder for job in other[:2]} == {job.folder for job in scratch}  # another study, the same baseline
    assert other[1].tasks[1].folder == scratch[1].tasks[1].folder


def test_the_baseline_knows_no_data_where_the_evaluations_have_their_own(here):
    grid = TINY + "axes: {method: [mae], data: [emoji, fashion_mnist], vocab: [8, 9]}\nscratch: true\nevaluations: [%s]"
    scratch = [
        [job.varied for job in plan.plan(read(here, grid % one)) if job.varied[0]["method"] == "none"]
        for one in ("{evaluation: knn}", "{evaluation: knn, data: emoji}, {evaluation: knn, data: null}", "{evaluation: knn, data: emoji}")
    ]  # fmt: skip
    each = [[{"method": "none", "data": "emoji"}], [{"method": "none", "data": "fashion_mnist"}]]
    assert scratch == [each, each, [[{"method": "none"}]]]


def test_evaluations_are_told_apart_by_their_settings(here):
    many = "evaluations: [{evaluation: knn}, {evaluation: knn, fraction: 0.5}, {evaluation: knn, device: cpu}]"
    (job,) = plan.plan(read(here, TINY + many))
    names = [task.name for task in job.tasks[1:]]
    assert names[0] == names[2] != names[1]  # the device changes nothing


def test_presets_of_the_explorer_are_an_axis(here):
    from mimlab import preset

    for name, ratio in (("few", 0.25), ("many", 0.75)):
        preset.save(here / f"{name}.yaml", "random", ratio, {})
    jobs = plan.plan(read(here, TINY + "presets: [few.yaml, many.yaml]\naxes: {method: [mae]}"))
    assert [job.settings["mask_ratio"] for job in jobs] == [0.25, 0.75]
    assert [job.varied[0]["preset"] for job in jobs] == ["few", "many"]


def test_the_file_may_be_remote(here):
    import fsspec

    with fsspec.open("memory://bucket/away.yaml", "w") as file:
        file.write("axes: {method: [mae]}\nseeds: 2")
    found = spec.read("memory://bucket/away.yaml")
    assert (found.name, found.seeds) == ("away", [0, 1])
    with pytest.raises(Refused, match="cannot be read"):
        spec.read("memory://bucket/nowhere.yaml")
    with pytest.raises(Refused, match="cannot be read"):
        spec.read("nosuch://bucket/s.yaml")


STUDIES = sorted((ROOT / "notebooks" / "studies").glob("*.yaml"))
SCALES = [(path, scale) for path in STUDIES for scale in yaml.safe_load(path.read_text())["scale"]]


def test_the_questions_of_the_paper_have_its_scale():
    asked = {path.stem for path, scale in SCALES if scale == "paper"}
    assert asked >= {"data_size", "scenes", "tokenizers", "steps", "epochs", "masks"}


@pytest.mark.parametrize(("path", "scale"), SCALES, ids=[f"{path.stem}-{scale}" for path, scale in SCALES])
def test_every_study_of_the_clone_can_be_planned(path, scale, here):
    """Each file at each scale: every combination resolves, and none is there twice."""
    found = spec.read(path, scale)
    found = dataclasses.replace(found, seeds=found.seeds[:1])  # another seed is the same but for its number
    jobs = plan.plan(found)
    assert found.about and len({job.folder for job in jobs}) == len(jobs)
    assert all(len(job.tasks) == 1 + len(found.evaluations) for job in jobs)


def test_an_evaluation_has_its_name_from_its_images_not_from_where_they_lie(here):
    import numpy as np
    from PIL import Image

    for split in ("train", "test"):
        for name in ("a", "b"):
            (here / "one" / split / name).mkdir(parents=True)
            Image.fromarray(np.full((4, 4, 3), len(split), np.uint8)).save(here / "one" / split / name / "0.png")

    def name(path):
        own = f"evaluations: [{{evaluation: knn, data: folder, data_args: {{path: {path}}}}}]"
        (job,) = plan.plan(read(here, TINY + own))
        return job.tasks[1].name

    before = name("one")
    (here / "one").rename(here / "two")
    assert name("two") == before
    Image.new("RGB", (4, 4), "red").save(here / "two" / "train" / "a" / "1.png")
    assert name("two") != before


@pytest.mark.parametrize(("ended", "found"), [("result.json", True), ("failed.json", True), ("other.json", False)])
def test_a_notebook_executed_in_a_folder_of_six_digits_is_found(here, notebook_writer, ended, found):
    import json

    notebook_writer(here / "n.ipynb", "x = 1\ny = 2", "print(x)")
    (new,) = plan.plan(read(here, "notebook: n.ipynb\nbase: {x: 3}"))
    whole = {"x": 3, "y": 2}
    old = new.path.with_name(f"n-{plan.digest(whole, 3)}")
    old.mkdir(parents=True)
    (old / ended).write_text(json.dumps({"parameters": {"x": 3}, "said": "no"}))
    (job,) = plan.plan(read(here, "notebook: n.ipynb\nbase: {x: 3}"))
    assert job.path == (old if found else new.path)
    (old / ended).write_text(json.dumps({"parameters": {"x": 4}}))  # another of the same six digits
    (job,) = plan.plan(read(here, "notebook: n.ipynb\nbase: {x: 3}"))
    assert job.path == new.path
