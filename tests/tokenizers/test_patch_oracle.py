"""Tokens and Lloyd's rounds against the stored ones, computed by plain loops elsewhere."""

import pytest
import torch
from oracle_cases import assert_close, cases, load

from mimlab.find import find
from mimlab.layers import patchify
from mimlab.tokenizers import nearest
from mimlab.tokenizers.kmeans import lloyd

every = pytest.mark.parametrize("case", cases("patch_tokenizers"))


def arrays(case):
    _, stored, config = load(case)
    return {key: torch.as_tensor(value) for key, value in stored.items()}, config


@every
@pytest.mark.parametrize(
    ("name", "codebook", "tokens"),
    [
        ("random_patches", "codebook_random_patches", "tokens_random_cosine"),
        ("random_projection", "projection", "tokens_projection_cosine"),
        ("kmeans", "kmeans_centres", "tokens_kmeans_cosine"),
    ],
)
def test_tokens_are_exact(case, name, codebook, tokens):
    stored, config = arrays(case)
    vectors = stored[codebook].T if name == "random_projection" else stored[codebook]  # columns there
    tokenizer = find("tokenizers", name).Tokenizer(len(vectors), config["patch_size"], normalise="none")
    tokenizer.set_codebook(vectors)
    ids = tokenizer(stored["images"], tuple(config["grid"]))
    assert torch.equal(ids, stored[tokens])


@every
def test_the_rule_is_neither_euclidean_nor_a_bare_product(case):
    stored, config = arrays(case)
    x = patchify(stored["images"], config["patch_size"])
    product = nearest(x.flatten(0, 1), stored["projection"].T.contiguous()).view(x.shape[:2])
    assert torch.equal(product, stored["tokens_projection_dot"])  # unit rows are the caller's part
    assert not torch.equal(product, stored["tokens_projection_cosine"])
    for codebook, tokens in (
        ("codebook_random_patches", "tokens_random_euclid"),
        ("kmeans_centres", "tokens_kmeans_euclid"),
    ):
        vectors = stored[codebook]
        _, labels, _ = lloyd(x.flatten(0, 1), vectors, 0)  # no round: labels by distance
        assert torch.equal(labels.view(x.shape[:2]), stored[tokens])


@every
def test_lloyds_rounds(case):
    stored, config = arrays(case)
    data, k, rounds = stored["kmeans_data"], config["kmeans"]["k"], config["kmeans"]["rounds"]
    centres, labels, inertia = lloyd(data, data[:k], rounds)
    assert_close(centres, stored["kmeans_centres"], 0, 1e-5, "centres")
    assert_close(inertia, stored["kmeans_inertia"], 1e-5, 0, "inertia")
    assert torch.equal(labels, stored["kmeans_labels"])
