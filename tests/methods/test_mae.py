"""MAE against the official code's numbers, and against its own words."""

import signal

import numpy as np
import pytest
import torch
from oracle_cases import assert_close, cases, load

import mimlab
from mimlab import encoders
from mimlab.checkpoints import mae as official
from mimlab.errors import Refused
from mimlab.layers import PIXELS, Normalise, patchify, unpatchify
from mimlab.masks import cut, pixels, visible_ids
from mimlab.methods import Batch, Progress
from mimlab.methods._components import Components
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
    shuffled = noise.argsort(dim=1)
    assert torch.equal(shuffled, torch.as_tensor(arrays["ids_shuffle"]))
    assert torch.equal(shuffled.argsort(dim=1), torch.as_tensor(arrays["ids_restore"]))
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


def settings(**given):
    """A run on colour images that takes a second."""
    args = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2} | given.pop("method_args")
    tiny = {
        "data": "emoji",
        "image_size": 16,
        "patch_size": 4,
        "encoder_args": {"dim": 24, "depth": 1, "heads": 2},
        "vocab": 16,
    }
    tiny |= {
        "batch_size": 32,
        "updates": "4",
        "log_every": 1,
        "knn_every": 0,
        "film": 0,
        "device": "cpu",
        "fraction": 0.2,
    }
    return mimlab.Pretrain(method="mae", **tiny | given, method_args=args)


def test_the_default_target_is_the_papers_own():
    cfg = settings(method_args={})
    assert cfg.resolved().method_args["norm_pix"] and cfg.resolved().tokenizer == "none"
    assert "norm_pix" in cfg.resolved().build().predicts


def test_components_are_those_of_a_singular_value_decomposition():
    torch.manual_seed(0)
    vectors = torch.randn(500, 12) @ torch.randn(12, 12) + torch.randn(12)
    found = Components(12, 5)
    found.fit(vectors)
    centred = vectors.double() - vectors.double().mean(dim=0)
    _, sizes, rows = torch.linalg.svd(centred, full_matrices=False)
    assert torch.allclose((found.basis.double() * rows[:5]).sum(dim=1).abs(), torch.ones(5).double(), atol=1e-5)
    assert torch.allclose(found.basis @ found.basis.T, torch.eye(5), atol=1e-5)
    coefficients = found(vectors)
    assert torch.allclose(coefficients.double().square().sum(dim=0), sizes[:5].square(), rtol=1e-4)
    assert torch.allclose(coefficients.mean(dim=0), torch.zeros(5), atol=1e-4)
    left = (found.back(coefficients) - vectors).double().square().sum()
    assert float(left) == pytest.approx(float(sizes[5:].square().sum()), rel=1e-4)  # the best of rank 5
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(found(vectors), coefficients) and found.back(coefficients).dtype == torch.float


def test_components_of_small_and_of_large_patches():
    for patch, count in ((2, 11), (16, 96)):
        encoder = encoders.create("vit", 2 * patch, patch, dim=24, depth=1, heads=2)
        method = MAE(encoder, target="pca", decoder_dim=8, decoder_depth=1, decoder_heads=2)
        assert method.components.basis.shape == (count, 3 * patch**2) and method.head.out_features == count


def test_a_run_learns_its_components_once_from_its_training_images(tmp_path):
    """They do not depend on where training was stopped, and come back with the run."""
    cfg = settings(method_args={"target": "pca"}, out=str(tmp_path), run="whole", checkpoint_every=1)
    whole = mimlab.pretrain(cfg)
    method = whole.method()
    basis, mean = method.components.basis, method.components.mean
    images = whole.data().get(np.arange(len(whole.data()))).float() / 255
    patches = patchify(torch.nn.functional.interpolate(images, 16) if images.shape[2] != 16 else images, 4)
    patches = method.encoder.normalise.patches(patches).flatten(0, 1)
    assert torch.allclose(mean, patches.mean(dim=0), atol=0.1)
    left = (method.components.back(method.components(patches)) - patches).var() / patches.var()
    assert left < 1e-3, left  # all but one of 48 values
    again = mimlab.pretrain(cfg.replace(run="again", seed=1)).method().components.basis
    assert not torch.equal(again, basis)  # another sample
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MAE, "after_step", lambda self, progress: stop(progress, 2))
        with pytest.raises(KeyboardInterrupt):
            mimlab.pretrain(cfg.replace(run="cut"))
        patched.undo()
        patched.setattr(MAE, "learn", lambda *given: pytest.fail("learned twice"))
        cut_short = mimlab.pretrain(cfg.replace(run="cut"))
    assert torch.equal(cut_short.method().components.basis, basis)
    assert [row["loss"] for row in cut_short.metrics()] == [row["loss"] for row in whole.metrics()]


def stop(progress, at):
    """Ctrl-C once, after a step."""
    if progress.step == at:
        signal.raise_signal(signal.SIGINT)


def test_components_become_pixels_again():
    torch.manual_seed(0)
    encoder = encoders.create("vit", 16, 4, dim=16, depth=1, heads=2)
    method = MAE(encoder, target="pca", decoder_dim=8, decoder_depth=1, decoder_heads=2).eval()
    images, mask = torch.rand(4, 3, 16, 16), cut(torch.rand(4, 16), 12)
    method.components.fit(method.encoder.normalise.patches(patchify(images, 4)).flatten(0, 1))
    method.predict = lambda images, mask: method.target(images)  # one that knows the answer
    filled = method.reconstruct(images, mask)
    assert torch.allclose(filled.images, images, atol=0.1) and filled.leaking is None
    assert (filled.images - images).abs().mean() < 0.01  # one direction of 48 is lost
    assert "47 of the 48 principal components" in filled.note


def test_tokens_are_the_tokenizers_and_are_drawn_by_it():
    cfg = settings(method_args={"target": "tokens"}, tokenizer="random_patches").resolved()
    torch.manual_seed(0)
    method = cfg.build().eval()
    before = torch.rand(200, 48)
    method.tokenizer.fit(before, torch.Generator().manual_seed(0))
    images, mask = torch.rand(2, 3, 16, 16), cut(torch.rand(2, 16), 12)
    ids, logits = method.tokenizer(images, (4, 4)), method.predict(images, mask)
    want = torch.nn.functional.cross_entropy(logits[mask], ids[mask])
    output = method(Batch(images, visible=4), mask, Progress())
    assert float(output.loss.detach()) == pytest.approx(float(want.detach()), rel=1e-5)
    assert float(output.logs["token_accuracy"]) == float((logits.argmax(2) == ids)[mask].float().mean())
    method.predict = lambda images, mask: torch.nn.functional.one_hot(ids, 16) * 1e4  # one that knows the answer
    assert torch.allclose(method.reconstruct(images, mask).images, method.tokenizer.decode(ids, (4, 4)), atol=1e-5)


def test_a_target_and_a_tokenizer_belong_together():
    with pytest.raises(Refused, match=r"tokenizer = none: mae with target = tokens .* needs one"):
        settings(method_args={"target": "tokens"}).resolved()
    with pytest.raises(
        Refused, match=r"target = pixels takes none; use tokenizer = none, or method_args target = tokens"
    ):
        settings(method_args={}, tokenizer="kmeans").resolved()
    with pytest.raises(Refused, match=r"target = 'pcs'.*did you mean 'pca'.*pixels, tokens, pca"):
        settings(method_args={"target": "pcs"}).resolved()


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
