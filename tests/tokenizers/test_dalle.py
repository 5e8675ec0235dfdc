"""DALL-E's networks against the official ones, and as a tokenizer of files."""

import shutil
from pathlib import Path

import pytest
import torch
from oracle_cases import assert_close, cases, load
from safetensors.torch import save_file

import mimlab
from mimlab import tokenizers
from mimlab.errors import Refused
from mimlab.tokenizers.dalle import Decoder, Encoder, Tokenizer, map_pixels, unmap_pixels

encoders = pytest.mark.parametrize("case", cases("dalle_encoder"))
decoders = pytest.mark.parametrize("case", cases("dalle_decoder"))


def sizes(config):
    return {"width": config["n_hid"], "blocks": config["n_blk_per_group"], "first": config["n_init"]}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Files of both networks of the first cases, as options of a tokenizer, and their vocabulary."""
    folder, given, told = tmp_path_factory.mktemp("dalle"), {}, []
    for name in ("encoder", "decoder"):
        state, _, about = load(cases(f"dalle_{name}")[0])
        save_file(state, folder / f"{name}.safetensors")
        given[name] = str(folder / f"{name}.safetensors")
        told.append(sizes(about["config"]))
    assert told[0] == told[1]  # a pair, whose every size is an option of one tokenizer
    return given | sizes(about["config"]), about["config"]["vocab_size"]


@encoders
def test_logits_and_tokens_are_the_official_ones(case, tmp_path):
    state, arrays, about = load(case)
    config, pixels = about["config"], torch.as_tensor(arrays["pixels"])
    assert_close(map_pixels(pixels), arrays["mapped"], 0, 1e-6, "mapped")
    encoder = Encoder(config["vocab_size"], config["n_hid"], config["n_blk_per_group"])
    encoder.load_state_dict(state)
    assert_close(encoder(map_pixels(pixels)), arrays["logits"], 1e-4, 5e-5, "logits")
    save_file(state, tmp_path / "encoder.safetensors")
    given = {"encoder": str(tmp_path / "encoder.safetensors"), "width": config["n_hid"]}
    tokenizer = Tokenizer(config["vocab_size"], 8, blocks=config["n_blk_per_group"], **given)
    tokenizer.fit(None, None)
    ids = tokenizer(pixels, arrays["tokens"].shape[1:])
    assert torch.equal(ids, torch.as_tensor(arrays["tokens_flat"]))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(tokenizer(pixels, arrays["tokens"].shape[1:]), ids)


@decoders
def test_pictures_are_the_official_ones(case):
    state, arrays, about = load(case)
    config = about["config"]
    decoder = Decoder(config["vocab_size"], **sizes(config))
    decoder.load_state_dict(state)
    tokens, soft = (torch.as_tensor(arrays[name]) for name in ("tokens", "soft_input"))
    hard = torch.nn.functional.one_hot(tokens, config["vocab_size"]).permute(0, 3, 1, 2).float()
    assert_close(decoder(hard), arrays["stats"], 1e-4, 5e-5, "statistics")
    assert_close(decoder(soft), arrays["stats_soft"], 1e-4, 5e-5, "of soft tokens")
    assert_close(unmap_pixels(torch.as_tensor(arrays["unmap_in"])), arrays["unmap_out"], 0, 1e-6, "unmap")
    tokenizer = Tokenizer(config["vocab_size"], encoder="e.pkl", decoder="d.pkl", **sizes(config))
    tokenizer.decoder.load_state_dict(state)
    grid = tokens.shape[1:]
    assert_close(tokenizer.decode(tokens.flatten(1), grid), arrays["reconstruction"], 0, 2e-5, "picture")
    want = unmap_pixels(torch.as_tensor(arrays["stats_soft"])[:, :3].sigmoid())
    with torch.autocast("cpu", torch.bfloat16):
        found = tokenizer.expected(soft.log().flatten(2).transpose(1, 2), grid)
    assert_close(found, want, 0, 2e-5, "expected picture")


@pytest.mark.parametrize("case", cases("dalle_full_names"))
def test_full_size_names(case):
    about = load(case)[2]
    with torch.device("meta"):
        tokenizer = Tokenizer(encoder="e.pkl", decoder="d.pkl")
    for name in ("encoder", "decoder"):
        found = {key: list(value.shape) for key, value in getattr(tokenizer, name).state_dict().items()}
        assert found == about[name]
        assert sum(value.numel() for value in getattr(tokenizer, name).buffers()) == about[f"{name}_parameters"]
    assert list(tokenizer.parameters()) == []


def test_tokens_of_any_grid_come_from_8_pixels_a_patch(sources):
    given, vocab = sources
    tokenizer = tokenizers.fitted("dalle", None, (2, 3), (32, 48), vocab, 4, 0, **given)
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    ids = tokenizer(images, (2, 3))
    assert ids.shape == (2, 6) and ids.dtype == torch.int64 and not tokenizer.training
    small = torch.nn.functional.interpolate(images, (16, 24), mode="bicubic", antialias=True).clamp(0, 1)
    assert torch.equal(ids, tokenizer.encoder(map_pixels(small)).argmax(1).flatten(1))
    assert tokenizer.decode(ids, (2, 3)).shape == (2, 3, 16, 24)
    certain = torch.full((2, 6, vocab), -1e4).scatter(2, ids[..., None], 0.0)
    assert torch.allclose(tokenizer.expected(certain, (2, 3)), tokenizer.decode(ids, (2, 3)), atol=1e-6)


def test_carried_by_its_state_without_the_files(sources):
    given, vocab = sources
    tokenizer = tokenizers.fitted("dalle", None, (2, 2), 16, vocab, 8, 0, **given)
    other = Tokenizer(vocab, **(given | {"encoder": "gone.pkl", "decoder": "gone.pkl"}))
    other.load_state_dict(tokenizer.state_dict())
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(other(images, (2, 2)), tokenizer(images, (2, 2)))


def test_without_a_decoder_nothing_is_drawn(sources):
    given, vocab = sources
    tokenizer = Tokenizer(vocab, **{name: value for name, value in given.items() if name != "decoder"})
    tokenizer.fit(None, None)
    assert not tokenizer.can_decode and not any(name.startswith("decoder") for name in tokenizer.state_dict())
    with pytest.raises(Refused, match="without a decoder"):
        tokenizer.decode(torch.zeros(1, 4, dtype=torch.int64), (2, 2))


@pytest.mark.parametrize("wrong", [{"vocab": 1}, {"width": 4, "blocks": 1}, {"first": 3}], ids=str)
def test_other_sizes_are_refused_with_those_of_the_file(sources, wrong):
    right = {"vocab": sources[1]} | sources[0]
    tokenizer = Tokenizer(**(right | {name: right[name] + more for name, more in wrong.items()}))
    said = ", ".join(f"{name} = {right[name] + more}" for name, more in wrong.items())
    use = ", ".join(f"{name} = {right[name]}" for name in wrong)
    for check in (tokenizer.ready, lambda: tokenizer.fit(None, None)):
        with pytest.raises(Refused, match=f"{said}: the (encoder|decoder) in .* has {use}; use these"):
            check()


def test_a_missing_file_is_refused_before_and_at_loading(sources):
    tokenizer = Tokenizer(sources[1], **(sources[0] | {"encoder": "nowhere.pkl"}))
    for check in (tokenizer.ready, lambda: tokenizer.fit(None, None)):
        with pytest.raises(Refused, match="no checkpoint at nowhere.pkl"):
            check()


def test_exchanged_files_and_missing_options_are_refused(sources):
    given, vocab = sources
    turned = Tokenizer(vocab, **(given | {"encoder": given["decoder"]}))
    with pytest.raises(Refused, match="holds no encoder of DALL-E's"):
        turned.ready()
    with pytest.raises(Refused, match="encoder = None: dalle needs a file"):
        Tokenizer(vocab)
    with pytest.raises(Refused, match="blocks = 0"):
        Tokenizer(vocab, encoder="e.pkl", blocks=0)


def test_beit_trains_on_its_tokens_and_the_run_needs_no_files(sources, tmp_path):
    given, vocab = sources
    files = {name: shutil.copy(given[name], tmp_path) for name in ("encoder", "decoder")}
    cfg = mimlab.Pretrain(
        method="beit", encoder="vit", encoder_args={"dim": 24, "depth": 2, "heads": 3}, fraction=0.004, patch_size=7, epochs=1,
        batch_size=16, out=str(tmp_path), knn_every=0, vocab=vocab, tokenizer="dalle", tokenizer_args=given | files, mask="random",
    )  # fmt: skip
    run = mimlab.pretrain(cfg)
    for path in files.values():
        Path(path).unlink()
    method, images = run.method(), torch.rand(2, 3, 28, 28)
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[:, 3:9] = True
    filled = method.eval().reconstruct(images, mask)
    assert filled.images.shape == images.shape
    assert torch.equal(method.tokenizer.encoder.blocks["input"].w, load(cases("dalle_encoder")[0])[0]["blocks.input.w"])


def test_views_that_come_again_are_tokenized_once_and_the_losses_stay(sources, tmp_path, monkeypatch):
    given, vocab = sources
    asked, plain = [], Tokenizer.forward

    def forward(self, images, grid):
        asked.append(len(images))
        return plain(self, images, grid)

    monkeypatch.setattr(Tokenizer, "forward", forward)
    losses = {}
    for name, costly in (("kept", True), ("anew", False)):
        monkeypatch.setattr(Tokenizer, "costly", costly)
        asked.clear()
        run = mimlab.pretrain(
            mimlab.Pretrain(
                method="beit", encoder="vit", encoder_args={"dim": 24, "depth": 1, "heads": 3}, fraction=0.004, patch_size=7, epochs=6,
                batch_size=16, out=str(tmp_path), run=name, knn_every=0, film=0, vocab=vocab, tokenizer="dalle", tokenizer_args=given,
                mask="random", augment={"scale": None, "flip": 0.5, "jitter_p": 0.0}, log_every=1,
            )
        )  # fmt: skip
        losses[name] = [row["loss"] for row in run.metrics() if "loss" in row], sum(asked)
    images = len(run.data("train"))
    assert losses["kept"][0] == losses["anew"][0]
    assert losses["anew"][1] - losses["kept"][1] >= 6 * (images // 16 * 16) - 2 * images > 0
