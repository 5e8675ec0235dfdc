"""Tables for another grid, against BEiT's own loader and against arithmetic."""

import pytest
import torch
from oracle_cases import assert_close, cases, load

from mimlab import encoders
from mimlab.checkpoints import resize
from mimlab.encoders import create
from mimlab.errors import Refused


@pytest.mark.parametrize("name", cases("beit_relpos_resize"))
def test_relative_tables_as_the_official_loader_resizes_them(name):
    _, arrays, case = load(name)
    old, new = ((case[key],) * 2 for key in ("source_window", "target_window"))
    table = torch.from_numpy(arrays["table_shared"])
    assert resize.window(table) == old
    got = resize.relative(table, old, new)
    assert got.dtype == table.dtype and torch.equal(got[-3:], table[-3:])
    assert_close(got, arrays["table_resized"], 1e-3, 1e-4, name)
    places = resize.offsets(old[0] - 1, new[0] - 1)
    assert_close(places, arrays["source_positions"], 1e-5, 1e-5, "offsets")
    steps = torch.as_tensor(places)[len(places) // 2 :].diff()  # q^0, q^1, ...
    if len(steps) > 1:
        assert_close(steps[1] / steps[0], arrays["q"], 1e-5, 1e-5, "q")
    heads = case["num_heads"]
    encoder = create("beit", new[0] * 4, 4, dim=8 * heads, depth=case["blocks"], heads=heads)
    encoder.to_fine_tune()
    held = encoder.trunk.state_dict()
    assert [n for n in held if n.endswith("relative_position_bias_table")] == case["keys_after"]
    assert {held[n].shape for n in case["keys_after"]} == {got.shape}


def test_one_axis_at_a_time():
    """A table that is a function of the row offset alone keeps that on a grid that is not square, with a row's stride."""
    rows = torch.arange(-3.0, 4.0)
    table = torch.cat([rows.repeat_interleave(7)[:, None], torch.tensor([[7.0], [8.0], [9.0]])])
    got = resize.relative(table, (4, 4), (4, 6))
    grid = got[:-3].reshape(7, 11)
    assert torch.allclose(grid, grid[:, :1].expand(-1, 11), atol=1e-5)
    steps = torch.tensor(resize.offsets(3, 3))
    inner = torch.arange(-3.0, 4.0)
    assert grid[3].abs().max() < 1e-6 and (grid[4] > 0).all()
    assert torch.allclose(steps, inner * 1.0, atol=0.07)  # the ratio stays at its lower end, 1.01
    assert torch.allclose(grid[:, 0], inner, atol=0.07)


def test_small_windows():
    """Three offsets have no cubic; one patch has no neighbours."""
    table = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))
    got = resize.relative(table, (2, 2), (3, 3))
    assert got.shape == (28, 2) and torch.allclose(got[:-3].reshape(5, 5, 2)[2, 2], table[4], atol=1e-6)
    with pytest.raises(Refused, match="of 1 x 1 patches cannot be resized"):
        resize.relative(torch.zeros(4, 2), (1, 1), (2, 2))


def test_only_what_does_not_fit_is_touched():
    state = {"rel_pos_bias.relative_position_bias_table": torch.randn(52, 3), "pos_embed": torch.randn(1, 17, 8)}
    state |= {"decoder.positions": torch.randn(1, 17, 4), "norm.weight": torch.ones(8)}
    same, said = resize.fitted(state, (4, 4), 1)
    assert said == [] and all(same[name] is value for name, value in state.items())
    found, said = resize.fitted(state, (4, 6), 1)
    assert [len(found[n]) for n in found][:1] == [7 * 11 + 3]
    assert found["pos_embed"].shape == (1, 25, 8) and found["decoder.positions"].shape == (1, 25, 4)
    assert (
        torch.equal(found["pos_embed"][:, 0], state["pos_embed"][:, 0]) and found["norm.weight"] is state["norm.weight"]
    )
    assert said[1:] == ["pos_embed: 4 x 4 to 4 x 6", "decoder.positions: 4 x 4 to 4 x 6"] and len(said) == 3


def test_an_encoder_of_another_size_gets_the_resized_tables(tmp_path):
    from mimlab import checkpoints

    torch.manual_seed(0)
    small = create("beit", 16, 4, dim=24, depth=2, heads=3)
    torch.nn.init.normal_(small.trunk.rel_pos_bias.relative_position_bias_table)
    torch.save({"model": small.trunk.state_dict()}, tmp_path / "beit.pth")
    big = encoders.create("beit", 24, 4, dim=24, depth=2, heads=3, bias="per_block")
    report = checkpoints.open(tmp_path / "beit.pth").load(big)
    want = resize.relative(small.trunk.rel_pos_bias.relative_position_bias_table.detach(), (4, 4), (6, 6))
    for block in big.trunk.blocks:  # fine-tuning: the shared table goes to every block
        assert torch.equal(block.attn.relative_position_bias_table, want)
    assert report.unused == report.missing == []
    assert report.resized == [f"blocks.{i}.attn.relative_position_bias_table: 4 x 4 to 6 x 6" for i in range(2)]
    back = encoders.create("beit", 24, 4, dim=24, depth=2, heads=3)
    torch.save({"model": big.trunk.state_dict()}, tmp_path / "tuned.pth")
    with pytest.raises(Refused, match="missing names .'rel_pos_bias.relative_position_bias_table'"):
        checkpoints.open(tmp_path / "tuned.pth").load(back)  # there is no one table in a fine-tuned file
