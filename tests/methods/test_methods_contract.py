"""What every method keeps to; runs over the files of the folder."""

import inspect

import pytest
import torch

import mimlab
from mimlab.find import find, names
from mimlab.masks import cut
from mimlab.methods import Batch, Filled, Method, Progress, judged

SMALL = {"encoder_args": {"dim": 24, "depth": 2, "heads": 3}, "patch_size": 7, "vocab": 16, "epochs": 50}


@pytest.fixture(params=names("methods"))
def method(request):
    torch.manual_seed(0)
    tokens = find("methods", request.param).RECIPE["paper"]["tokenizer"] != "none"
    needs = {"tokenizer": "random_patches"} if tokens else {}
    if request.param == "dino":
        needs = {"method_args": {"out_dim": 64, "head_dim": 32, "bottleneck_dim": 16}}
    cfg = mimlab.Pretrain(method=request.param, drop_path=0.0, **SMALL, **needs).resolved()
    built = cfg.build()
    if built.tokenizer is not None:
        patches = torch.rand(200, 3 * cfg.token_patch**2)
        built.tokenizer.fit(patches, torch.Generator().manual_seed(0))
    return built


@pytest.fixture
def batch():
    crops = torch.rand(4, 3, 28, 28), torch.rand(4, 3, 14, 14)
    return Batch(torch.rand(4, 3, 28, 28), torch.rand(4, 16), 8, crops, torch.tensor([0, 1, 1, 0]))


@pytest.fixture
def mask(method):
    return cut(torch.rand(4, 16), 8) if method.masked else None


def test_a_file_is_a_recipe_and_one_final_class():
    for name in names("methods"):
        module = find("methods", name)
        assert next(iter(module.RECIPE)) == "paper"
        own = [c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__]
        methods = [c for c in own if issubclass(c, Method)]
        assert len(methods) == 1 and methods[0].__bases__ == (Method,)
        assert "arXiv" in module.__doc__ and "Differs from the paper" in module.__doc__


def test_forward_computes_and_changes_nothing(method, batch, mask):
    before = {name: value.clone() for name, value in method.state_dict().items()}
    output = method(batch, mask, Progress())
    assert output.loss.shape == () and torch.isfinite(output.loss)
    assert all(isinstance(value, torch.Tensor) and value.shape == () for value in output.logs.values())
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    torch.manual_seed(9)  # no draw of its own
    assert torch.equal(method(batch, mask, Progress()).loss, output.loss)


def test_every_trained_weight_gets_a_gradient(method, batch, mask):
    """A weight without one stops DistributedDataParallel."""
    method(batch, mask, Progress()).loss.backward()
    without = [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


def test_reconstruction_depends_on_visible_pixels_alone(method, batch, mask):
    method.eval()
    with torch.no_grad():
        filled = method.reconstruct(batch.images, mask)
    if not method.masked:  # nothing is hidden, so nothing is filled in
        assert filled is None
        return
    assert isinstance(filled, Filled) and filled.images.shape == batch.images.shape and filled.note
    assert float(filled.images.min()) >= 0 and float(filled.images.max()) <= 1
    pixels = mask.view(4, 1, 4, 4).repeat_interleave(7, 2).repeat_interleave(7, 3)
    assert torch.equal(method.reconstruct(batch.images * ~pixels, mask).images, filled.images)


def test_each_patch_is_judged_as_the_loss_does(method, batch, mask):
    method.eval()
    with torch.no_grad():
        judged = method.judge(batch.images, mask)
    if not method.masked:
        assert judged is None
        return
    assert judged.loss.shape == (4, 16) and torch.isfinite(judged.loss[mask]).all()
    assert (judged.tokens is None) == (judged.right is None)
    if judged.right is not None:
        assert judged.right.shape == (4, 16) and judged.right.dtype == torch.bool
        tokens = judged.tokens
        assert torch.equal(tokens.true, method.tokenizer(batch.images, (4, 4)))
        assert torch.equal((tokens.rank == 1)[mask], judged.right[mask])
        assert tokens.likely.shape == tokens.chance.shape == (4, 16, 5)
        near = (tokens.likely == tokens.true[..., None]).any(dim=2)
        assert torch.equal((tokens.rank <= 5)[mask], near[mask])
    if not method.couples_images:
        output = method(batch, mask, Progress())
        want = output.logs.get("loss_generator", output.loss)  # of CIM, whose enhancer predicts no hidden patches
        assert torch.allclose(judged.loss[mask].mean(), want, atol=1e-5)


def test_a_method_says_in_words_what_it_predicts(method, batch, mask):
    assert bool(method.predicts) == method.masked
    if method.masked:
        what = "pixels" if method.tokenizer is None else "tokens of random_patches (vocabulary 16)"
        assert method.predicts.startswith(what)
        other, visible = method.other(mask, batch.noise, 8)
        assert torch.equal(other, ~mask) and visible == 8


def test_tokens_are_ranked_by_their_logits():
    logits, ids = torch.tensor([[[0.0, 3.0, 1.0, 2.0], [9.0, 0.0, 0.0, 0.0]]]), torch.tensor([[3, 0]])
    found = judged(logits, ids, most=2)
    assert found.tokens.rank.tolist() == [[2, 1]] and found.right.tolist() == [[False, True]]
    assert found.tokens.likely[0, 0].tolist() == [1, 3] and found.tokens.likely[0, 1, 0] == 0
    assert torch.allclose(found.tokens.chance[0, 0], logits[0, 0].softmax(0)[[1, 3]])
    assert torch.allclose(found.loss[0], -logits[0].log_softmax(1)[[0, 1], [3, 0]])


def test_what_is_deployed_is_the_encoder(method, batch):
    assert method.deployed.features(batch.images).shape == (4, 24)
