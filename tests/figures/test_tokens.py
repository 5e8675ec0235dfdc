import numpy as np
import pytest
import torch

from mimlab.errors import Refused
from mimlab.figures.tokens import token_map


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
