"""What a case says of itself (sizes, counts, switches) is what its arrays and weights hold: no stored number may be anything."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from oracle_cases import assert_close, cases, folder, load

SWITCHES = {  # a key of `config`, and the end of a name that only such a model's weights have
    "use_abs_pos_emb": ("pos_embed",),
    "use_shared_rel_pos_bias": ("rel_pos_bias.relative_position_bias_table",),
    "use_rel_pos_bias": ("attn.relative_position_bias_table",),
    "qkv_bias": ("attn.qkv.bias", "attn.q_bias"),
    "use_mean_pooling": ("fc_norm.weight",),
    "global_pool": ("fc_norm.weight",),
}
THEIRS = {"microsoft/unilm", "facebookresearch/mae", "Atten4Vis/CAE", "microsoft/SimMIM", "facebookresearch/dino"}
read = cache(load)  # of each case, once


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    yield
    read.cache_clear()


def names():
    return sorted(path.stem for path in folder().glob("*.json"))


def test_the_configuration_is_the_weights():
    for name in names():
        state, _, about = read(name)
        if state is not None and "config" in about and about.get("source", {}).get("repo") in THEIRS:
            configuration_is_the_weights(name, state, about)  # the switches are those codes'


def configuration_is_the_weights(name, state, about):
    config = about["config"]
    if "mlp_ratio" in config:
        fc1 = next(value for key, value in state.items() if key.endswith("blocks.0.mlp.fc1.weight"))
        assert fc1.shape[0] == config["mlp_ratio"] * fc1.shape[1]
    for key, ends in SWITCHES.items():
        if key in config:
            assert any(one.endswith(ends) for one in state) == bool(config[key]), key
    if "in_chans" in config:
        patches = [value for key, value in state.items() if key.endswith("patch_embed.proj.weight")]
        assert {value.shape[1] for value in patches} == {config["in_chans"]}
    if "init_values" in config:
        assert any("gamma_1" in one for one in state) == bool(config["init_values"])
    if "patch_grid" in config:
        assert config["patch_grid"] == [config["img_size"] // config["patch_size"]] * 2
    if "num_classes" in config:
        heads = [value for key, value in state.items() if key.endswith("head.weight") and "mlp" not in key]
        assert [value.shape[0] for value in heads] == [config["num_classes"]] * bool(config["num_classes"])
    if "state_dict_keys" in about:
        assert {key for key in about["state_dict_keys"] if "num_batches" not in key} == {
            key for key in state if "num_batches" not in key
        }


def test_numbers_in_single_precision_are_those_in_double():
    for name, arrays in ((name, read(name)[1]) for name in names()):
        for key in [key for key in arrays if key.startswith("loss") and key.endswith("_f64")]:
            if key.removesuffix("_f64") in arrays:
                assert_close(arrays[key.removesuffix("_f64")], arrays[key], 1e-4, 1e-6, what=f"{name} {key}")


def test_counts_are_those_of_the_masks():
    for name in cases("beit_pretrain"):
        _, arrays, about = read(name)
        if "n_masked" in about:
            assert about["n_masked"] == arrays["bool_masked_pos"].sum(1).tolist()
    for name in cases("cae_pretrain"):
        _, arrays, about = read(name)
        assert set(arrays["bool_masked_pos"].sum(1).tolist()) == {about["n_masked_each"]}
    for name in cases("mae_pretrain"):
        _, arrays, about = read(name)
        assert_close(arrays["mask"].mean(1), about["mask_ratio"] * np.ones(len(arrays["mask"])), 0, 1e-6)
    for name in cases("infonce_gather"):
        _, arrays, about = read(name)
        assert about["per_rank"] * about["world_size"] == len(arrays["z_a"])
    for name in cases("splitmask"):
        state, arrays, about = read(name)
        config = about["config"]
        assert (config["batch"], config["n"]) == arrays["in_a"].shape and math.prod(about["grid"]) == config["n"]
        fc1 = [value for key, value in state.items() if key.endswith("fc1.weight")]
        assert fc1 and all(len(value) == about["mlp_ratio"] * value.shape[1] for value in fc1)
    for name in cases("dino_loss"):
        _, arrays, about = read(name)
        assert arrays["student_output"].shape[1] == about["config"]["batch"] * about["config"]["ncrops"]
    for name in cases("xcit_neck"):
        _, arrays, about = read(name)
        config = about["config"]
        assert arrays["input_0"].shape == (config["batch"], config["embed_dim"], *config["feature_grid"])
        for level, stride in enumerate(about["strides"]):
            if f"eval_{level}" in arrays:
                sides = [config["patch_size"] * side // stride for side in config["feature_grid"]]
                assert list(arrays[f"eval_{level}"].shape[2:]) == sides
    for name in cases("patch_tokenizers"):
        _, arrays, about = read(name)
        assert len(arrays["codebook_random_patches"]) == about["vocabulary"]
    for name in cases("dalle_encoder"):
        _, arrays, about = read(name)
        top = np.sort(arrays["logits"], axis=1)
        assert_close((top[:, -1] - top[:, -2]).min(), about["smallest_top2_margin"], 1e-3, 1e-5)
        config = about["config"]
        assert arrays["pixels"].shape[1:] == (config["input_channels"], *config["image_size"])
        assert arrays["logits"].shape[2] == config["image_size"][0] // 2 ** (config["group_count"] - 1)


def test_votes_without_weights_are_a_plain_knn():
    for name in cases("dino_knn"):
        _, arrays, about = read(name)
        close = torch.from_numpy(arrays["test_features"] @ arrays["train_features"].T)
        labels = torch.from_numpy(arrays["train_labels"]).long()
        for k, percent in about["unweighted_vote_top1_percent"].items():
            votes = torch.nn.functional.one_hot(labels[close.topk(int(k)).indices]).sum(1)
            right = votes.argmax(1).numpy() == arrays["test_labels"]
            assert abs(100 * right.mean() - percent) <= 1  # ties fall as they fall


def test_the_loss_of_the_masked_tokens_alone():
    for name in cases("cim"):
        _, arrays, about = read(name)
        masked = arrays["bool_masked_pos"].astype(bool)
        assert_close(arrays["bce"][masked].mean(), about["losses"]["revdet_bce_over_masked_only"], 1e-5, 0)
