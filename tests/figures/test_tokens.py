import numpy as np
import pytest
import torch

from mimlab.errors import Refused
from mimlab.figures.tokens import guesses, token_map
from mimlab.methods import judged


def test_map_is_raster_order_with_hover_and_stable_colours():
    ids = torch.arange(12).reshape(2, 6)
    heat = token_map(ids, (2, 3), 100, hover={4: "a wheel"}).data[0]
    assert heat.z.shape == (2, 7) and np.isnan(heat.z[:, 3]).all()  # two maps with a gap between
    assert heat.text[1][1] == "token 4<br>a wheel" and heat.text[0][4] == "token 6"
    alone = token_map(torch.full((1, 6), 4), (2, 3), 100).data[0]
    assert alone.z[0, 0] == heat.z[1, 1]  # the same colour in another figure
    assert len(np.unique(heat.z[~np.isnan(heat.z)])) == 12


def test_a_list_of_texts_and_the_count_in_the_title():
    figure = token_map(torch.tensor([[0, 1, 1, 0]]), (2, 2), 3, hover=["zero", "one", "two"])
    assert figure.data[0].text[0][1] == "token 1<br>one"
    assert figure.layout.title.text == "Tokens: 2 of 3 in use"


def test_bad_ids_are_refused():
    with pytest.raises(Refused, match="vocab = 3"):
        token_map(torch.tensor([[0, 3, 1, 0]]), (2, 2), 3)
    with pytest.raises(Refused, match="grid of 2 x 3"):
        token_map(torch.zeros(1, 4, dtype=torch.long), (2, 3), 3)


def test_guesses_tell_of_each_hidden_patch_what_was_said():
    ids = torch.tensor([[3, 0, 7, 1]])
    logits = torch.zeros(1, 4, 10)
    logits[0, 0, 3], logits[0, 1, 5] = 5.0, 4.0
    logits[0, 1, 0] = 2.0
    mask = torch.tensor([[True, True, False, True]])
    figure = guesses(judged(logits, ids).tokens, mask, (2, 2), 10)
    true, likely, rank = figure.data
    assert true.z.shape == likely.z.shape == rank.z.shape == (2, 2)
    assert not np.isnan(true.z).any() and np.isnan(likely.z[1, 0]) and np.isnan(rank.z[1, 0])  # patch 2 is visible
    assert true.z[0, 0] == likely.z[0, 0] != likely.z[0, 1]
    assert rank.z[0, 0] == 0 and rank.z[0, 1] == pytest.approx(np.log10(2), abs=1e-4)
    share = float(logits[0, 1].softmax(0)[5])
    assert rank.text[0][1].startswith(f"image 0, patch 1: token 0, rank 2<br>5 {share:.1%}<br>0 ")
    assert rank.text[1][0] == "" and true.text[1][0] == "token 7"
    assert "67% right" in figure.layout.title.text and "of 10" in figure.layout.title.text
    assert "no tokens" in guesses(None, None, (2, 2), 0).layout.annotations[0].text
    with pytest.raises(Refused, match="3 x 3"):
        guesses(judged(logits, ids).tokens, mask, (3, 3), 10)


def test_guesses_show_four_images_of_a_large_vocabulary_lightly():
    ids = torch.randint(8192, (6, 196), generator=torch.Generator().manual_seed(0))
    said = judged(torch.randn(6, 196, 8192, generator=torch.Generator().manual_seed(1)), ids).tokens
    figure = guesses(said, torch.ones(6, 196, dtype=torch.bool), (14, 14), 8192)
    assert figure.data[0].z.shape == (14, 4 * 15 - 1) and len(figure.to_json()) < 350_000
