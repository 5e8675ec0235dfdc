"""MAE against the official code's numbers, and against its own words."""

import numpy as np
import pytest
import torch
from oracle_cases import assert_close, cases, load

from mimlab import encoders
from mimlab.checkpoints import mae as official
from mimlab.errors import Refused
from mimlab.layers import PIXELS, Normalise, patchify, unpatchify
from mimlab.masks import cut, pixels, visible_ids
from mimlab.methods import Batch, Progress
from mimlab.methods.mae import MAE, around


def build(config, norm_pix):
    encoder = encoders.create(
        "vit",
        config["img_size"],
        config["patch_size"],
        dim=config["embed_dim"],
        depth=config["depth"],
        heads=config["num_heads"],
        positions="sincos",
        normalise="none",
    )
    return MAE(
        encoder,
        norm_pix=norm_pix,
        decoder_dim=config["decoder_embed_dim"],
        decoder_depth=config["decoder_depth"],
        decoder_heads=config["decoder_num_heads"],
    )


@pytest.fixture(params=cases("mae_pretrain"))
def case(request):
    return load(request.param)


def images_of(arrays):
    return torch.as_tensor(arrays["images"])


def test_mask_is_the_official_one_for_its_noise(case):
    _, arrays, about = case
    noise = torch.as_tensor(arrays["noise"])
    mask = cut(noise, noise.shape[1] - about["len_keep"])
    assert torch.equal(mask, torch.as_tensor(arrays["mask"]).bool())


@pytest.mark.parametrize("norm_pix", [False, True])
def test_outputs_losses_and_gradients_are_the_official_ones(case, norm_pix):
    state, arrays, about = case
    method = build(about["config"], norm_pix)
    assert official.load_method(method, state) == ([], [])
    images, mask = images_of(arrays), torch.as_tensor(arrays["mask"]).bool()
    visible = about["len_keep"]

    cls, patches = method.encoder(images, mask, visible)
    order = torch.as_tensor(arrays["ids_keep"]).argsort(dim=1)  # raster order of the official shuffled tokens
    want = torch.as_tensor(arrays["latent"])
    assert_close(cls, want[:, 0], 3e-5, 1e-5)
    assert_close(patches, want[:, 1:].gather(1, order[..., None].expand_as(want[:, 1:])), 3e-5, 1e-5)
    assert_close(method.predict(images, mask), arrays["pred"], 3e-5, 1e-5)

    output = method(Batch(images, visible=visible), mask, Progress())
    assert_close(output.loss, arrays["loss_norm_pix_f64" if norm_pix else "loss_f64"], 2e-5, 0)
    output.loss.backward()
    own = dict(method.named_parameters())
    for name, want in about["grad_norm_norm_pix" if norm_pix else "grad_norm"].items():
        gradient = own[official.ours(name)].grad
        if want is None:
            assert gradient is None, name
        else:
            assert_close(gradient.norm(), want, 2e-3, 1e-6)


def test_patches_are_the_official_ones(case):
    _, arrays, about = case
    patch, images = about["config"]["patch_size"], images_of(arrays)
    patches = patchify(images, patch, channels_last=True)
    assert torch.equal(patches, torch.as_tensor(arrays["patchify"]))
    side = images.shape[2] // patch
    back = unpatchify(torch.as_tensor(arrays["pred"]), (side, images.shape[3] // patch), patch, channels_last=True)
    assert torch.equal(back, torch.as_tensor(arrays["unpatchify_of_pred"]))


def test_initial_weights_have_the_official_statistics(case):
    about = case[2]
    config = about["config"] | about.get("init_config", {})
    count = {name: stats[4] for name, stats in about["init_stats"].items()}
    pooled = {}
    for seed in range(4):
        torch.manual_seed(seed)
        for name, value in build(config, True).named_parameters():
            pooled.setdefault(name, []).append(value.detach().flatten())
    for name, (mean, std, low, high, number) in about["init_stats"].items():
        values = torch.cat(pooled[official.ours(name)])
        assert len(values) == number == count[name]
        if std == 0:
            assert values.min() == values.max() == pytest.approx(mean)
        elif number > 2000:
            assert float(values.std()) == pytest.approx(std, rel=0.05), name
            bound = max(abs(low), abs(high)) * 1.02
            if "norm" not in name and not name.endswith("token"):
                assert float(values.abs().max()) <= bound, name


def test_loss_on_four_patches_by_hand():
    """Independent of the code's own patchify, take and put."""
    torch.manual_seed(0)
    method = build(
        {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
        | {"decoder_embed_dim": 8, "decoder_depth": 1, "decoder_num_heads": 2},
        norm_pix=True,
    )
    images, mask = torch.rand(1, 3, 8, 8), torch.tensor([[True, False, True, True]])
    predicted = method.predict(images, mask)[0].detach()
    total = 0.0
    for patch, (row, column) in enumerate(((0, 0), (0, 4), (4, 0), (4, 4))):
        if mask[0, patch]:
            pixels = images[0, :, row : row + 4, column : column + 4].permute(1, 2, 0).reshape(-1)
            target = (pixels - pixels.mean()) / (pixels.var(unbiased=True) + 1e-6).sqrt()
            total += float((predicted[patch] - target).square().mean())
    loss = method(Batch(images), mask, Progress()).loss.detach()
    assert float(loss) == pytest.approx(total / 3, rel=1e-5)


def test_hidden_pixels_cannot_reach_the_prediction():
    torch.manual_seed(0)
    config = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
    method = build(config | {"decoder_embed_dim": 8, "decoder_depth": 1, "decoder_num_heads": 2}, norm_pix=False).eval()
    images, mask = torch.rand(2, 3, 16, 16), cut(torch.rand(2, 16), 12)
    changed = images + torch.rand_like(images) * mask.view(2, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert torch.equal(method.predict(images, mask), method.predict(changed, mask))
    assert len(visible_ids(mask, 4)[0]) == 4


def test_only_the_leaking_picture_knows_the_statistics_of_hidden_patches():
    torch.manual_seed(0)
    config = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
    config |= {"decoder_embed_dim": 8, "decoder_depth": 1, "decoder_num_heads": 2}
    images, mask = torch.rand(2, 3, 16, 16), cut(torch.rand(2, 16), 12)
    method = build(config, True).eval()
    method.predict = lambda images, mask: method.target(images)  # one that knows the answer
    filled = method.reconstruct(images, mask)
    assert torch.allclose(filled.leaking, images, atol=1e-4)
    hidden = pixels(mask, (4, 4), (16, 16)).expand_as(images)
    assert torch.allclose(filled.images[~hidden], images[~hidden], atol=1e-4)
    assert (filled.images - images)[hidden].abs().mean() > 0.02 and "guessed" in filled.note
    plain = build(config, False).reconstruct(images, mask)
    assert plain.leaking is None and "normalised" not in plain.note


def test_statistics_are_guessed_from_near_visible_patches():
    values = torch.tensor([[[1.0], [9.0], [4.0], [9.0]]])
    guess = around(values, torch.tensor([[False, True, False, True]]), (1, 4))[0, :, 0]
    assert guess.tolist() == pytest.approx([1.0, 2.5, 4.0, (1 / 27 + 4) / (1 / 27 + 1)])  # by the distance cubed


def test_the_picture_is_that_of_the_official_demo(case):
    """demo/mae_visualize.ipynb, run_one_image and show_image, in NumPy; it normalises before, and we inside."""
    state, arrays, about = case
    method = build(about["config"], False)
    official.load_method(method, state)
    method.encoder.normalise = Normalise("imagenet")
    mean, std = (np.array(x) for x in PIXELS["imagenet"])
    images = torch.rand(images_of(arrays).shape, generator=torch.Generator().manual_seed(0))
    mask, p = torch.as_tensor(arrays["mask"]).bool(), about["config"]["patch_size"]
    h, w = images.shape[2] // p, images.shape[3] // p
    with torch.no_grad():
        filled = method.reconstruct(images, mask).images
        y = method.predict(images, mask).double().numpy()
    y = np.einsum("nhwpqc->nhpwqc", y.reshape(-1, h, w, p, p, 3)).reshape(-1, h * p, w * p, 3)
    hidden = np.kron(arrays["mask"].reshape(-1, h, w), np.ones((1, p, p)))[..., None]
    x = (images.permute(0, 2, 3, 1).double().numpy() - mean) / std
    demo = np.clip(((x * (1 - hidden) + y * hidden) * std + mean) * 255, 0, 255)
    ours = torch.where(pixels(mask, (h, w), images.shape[2:]), filled, images).permute(0, 2, 3, 1).numpy() * 255
    assert np.abs(ours - demo).max() < 0.01


def test_refuses_what_cannot_work():
    vit = encoders.create("vit", 16, 4, dim=16, depth=1, heads=2)
    with pytest.raises(Refused, match=r"decoder_dim = 10.*decoder_heads = 3"):
        MAE(vit, decoder_dim=10, decoder_heads=3)
    with pytest.raises(Refused, match="takes none"):
        MAE(vit, object())
    with pytest.raises(Refused, match="vit family, or a method that replaces patches: beit or simmim"):
        MAE(encoders.create("beit", 16, 4, dim=16, depth=1, heads=2))


def test_with_mask_tokens_in_the_encoder_the_decoder_has_none(monkeypatch):
    torch.manual_seed(0)
    encoder = encoders.create("vit", 16, 4, dim=16, depth=1, heads=2)
    method = MAE(encoder, decoder_dim=8, decoder_depth=1, decoder_heads=2, mask_in_encoder=True)
    seen, plain = [], encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda *given, **told: seen.append(plain(*given, **told)) or seen[-1])
    images, mask = torch.rand(2, 3, 16, 16), cut(torch.rand(2, 16), 12)
    before = method.predict(images, mask)
    assert seen[0][1].shape == (2, 16, 16) and not method.decoder.mask_token.requires_grad
    method.decoder.mask_token.data += 1
    assert torch.equal(method.predict(images, mask), before)
    method.fill.data += 1
    assert not torch.equal(method.predict(images, mask), before)
