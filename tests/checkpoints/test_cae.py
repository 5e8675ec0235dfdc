"""CAE's official files in, of the present repository and of the older one."""

import argparse

import pytest
import torch
from oracle_cases import assert_close, cases, load

from mimlab import encoders
from mimlab.checkpoints import cae
from mimlab.errors import Refused
from mimlab.methods.cae import CAE
from mimlab.tokenizers.random_projection import Tokenizer

FIXED = {"bias": "none", "absolute": "sincos"}


def small(seed, **options):
    torch.manual_seed(seed)
    encoder = encoders.create("beit", 16, 4, dim=24, depth=1, heads=3, **FIXED)
    method = CAE(encoder, Tokenizer(16, 4), regressor_depth=2, decoder_depth=1, **options)
    with torch.no_grad():
        for parameter in method.parameters():  # so that none is as another
            parameter += 0.1 * torch.randn_like(parameter)
        method.positions.copy_(cae.rows_first(method.positions.shape[2], (4, 4)))  # as official files have it
        encoder.trunk.pos_embed.copy_(cae.rows_first(24, (4, 4)))
    return method


@pytest.mark.parametrize("name", cases("official_names"))
@pytest.mark.parametrize("kind", ["cae_pretrain", "cae_old_lxtGH"])
def test_full_size_names(name, kind):
    """Every official name has its place, with its shape, and none of ours is left over but fixed positions."""
    with torch.device("meta"):
        method = CAE(encoders.create("beit_base", 224, 16, **FIXED), Tokenizer(8192, 8))
    own = {n: list(v.shape) for n, v in method.state_dict().items() if not n.startswith("tokenizer.")}
    if kind != "cae_pretrain":
        del own["positions"]
    given = cae.weights(load(name)[2]["models"][kind])
    assert {cae.ours(n): list(shape) for n, shape in given.items()} == own


PARTS = {  # ours: the present repository's, the older one's
    "encoder.trunk.": ("encoder.", "encoder."),
    "project.0.": ("encoder_to_regresser.", "encoder_to_decoder."),
    "project.1.": ("encoder_to_regresser_norm.", "encoder_to_decoder_norm."),
    "positions": ("rd_pos_embed", None),
    "mask_token": ("mask_token", "mask_token"),
    "regressor.": ("regresser.regressor_blocks.", "pretext_neck.regressor_blocks."),
    "regressor_norm.": ("regresser.norm.", "pretext_neck.norm."),
    "decoder.": ("decoder.decoder_blocks.", "pretext_neck.decoder_blocks."),
    "decoder_norm.": ("decoder.norm.", "pretext_neck.norm2."),
    "head.": ("decoder.head.", "pretext_neck.head."),
    "tokenizer.": (None, None),
}
BLOCK = {
    "attn.q.bias": "cross_attn.q_bias",
    "attn.v.bias": "cross_attn.v_bias",
    ".attn.": ".cross_attn.",
    "norm_": "norm1_",
    "norm.": "norm2_cross.",
    "gamma_1": "gamma_1_cross",
    "gamma_2": "gamma_2_cross",
    "mlp.": "mlp_cross.",
}


def official(method, kind):
    """The method's weights under the names of the present ("new") or the older repository."""
    back = {}
    for name, value in method.state_dict().items():
        part = next(here for here in PARTS if name.startswith(here))
        rest, theirs = name[len(part) :], PARTS[part][kind == "old"]
        if part == "regressor.":
            here = next((h for h in BLOCK if h in rest), "")
            rest = rest.replace(here, BLOCK.get(here, ""))
        if theirs:
            back[theirs + rest] = value.clone()
    copy = "alignment_encoder." if kind == "new" else "teacher."
    return back | {copy + n.removeprefix("encoder."): v for n, v in back.items() if n.startswith("encoder.")}


@pytest.mark.parametrize("kind", ["new", "old"])
@pytest.mark.parametrize("width", [0, 32])
def test_files_of_both_repositories_load(kind, width, tmp_path):
    options = {"decoder_dim": width, "decoder_heads": 4} if width else {}
    one, two, path = small(0, **options), small(1, **options), tmp_path / "cae.pth"
    torch.save({"model": official(one, kind), "args": argparse.Namespace(lr=1.0), "epoch": 3}, path)
    with torch.no_grad():
        two.positions.zero_()
    assert cae.load_method(two, path) == ([], [])
    for name, value in one.state_dict().items():
        if not name.startswith("tokenizer."):
            assert torch.equal(value, two.state_dict()[name]), name


def test_an_encoder_file_reports_what_was_not_used():
    one, encoder = small(0), encoders.create("beit", 16, 4, dim=24, depth=1, heads=3, **FIXED)
    unused, missing = cae.load_encoder(encoder, official(one, "new"), partial=True)
    assert missing == [] and "mask_token" in unused and not any(n.startswith("alignment") for n in unused)
    assert torch.equal(encoder.trunk.blocks[0].attn.q_bias, one.encoder.trunk.blocks[0].attn.q_bias)
    with pytest.raises(Refused, match=r"CAE checkpoint: unused names"):
        cae.load_encoder(encoder, official(one, "new"))


@pytest.mark.parametrize("name", cases("cae_pretrain"))
def test_positions_are_the_official_ones_on_square_grids(name):
    state, arrays, about = load(name)
    size, patch = about["config"]["img_size"], about["config"]["patch_size"]
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:  # there the official table is built column by column for patches in rows
        return
    dim, grid = about["config"]["decoder_embed_dim"], (height // patch, width // patch)
    assert_close(cae.rows_first(dim, grid), state["rd_pos_embed"], 0, 1e-6)
    assert_close(cae.rows_first(dim, grid), arrays["rd_pos_embed"], 0, 1e-6)
    assert_close(cae.rows_first(about["config"]["embed_dim"], grid), arrays["encoder_pos_embed"], 0, 1e-6)
