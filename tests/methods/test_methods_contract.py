"""What every method keeps to, in every form that `method_cases` lists; runs over the files of the folder."""

import inspect

import pytest
import torch
from methods.method_cases import CASES, LONG, built, inputs, optimiser, said, train
from safetensors.torch import load_file, save_file

from mimlab.find import find, names
from mimlab.masks import pixels
from mimlab.methods import Filled, Method, Progress, judged

long = pytest.mark.parametrize("case", LONG, ids=said, indirect=True)


@pytest.fixture(params=CASES, ids=said)
def case(request):
    return request.param


@pytest.fixture
def method(case):
    return built(*case)


@pytest.fixture
def batch(method):
    return inputs(method)[0]


@pytest.fixture
def mask(method):
    return inputs(method)[1]


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
    if not method.predicts:  # nothing is hidden, or nothing predicted of it
        assert filled is None
        return
    assert isinstance(filled, Filled) and filled.images.shape == batch.images.shape and filled.note
    assert float(filled.images.min()) >= 0 and float(filled.images.max()) <= 1
    hidden = pixels(mask, (4, 4), batch.images.shape[2:])
    with torch.no_grad():
        assert torch.equal(method.reconstruct(batch.images * ~hidden, mask).images, filled.images)


def test_each_patch_is_judged_as_the_loss_does(case, method, batch, mask):
    method.eval()
    with torch.no_grad():
        judged = method.judge(batch.images, mask)
    if not method.predicts:
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
    if case[0] != "splitmask" or not method.split:  # which judges by its branch A alone
        output = method(batch, mask, Progress())
        want = output.logs.get("loss_generator", output.loss)  # of CIM, whose enhancer predicts no hidden patches
        asked = mask | getattr(method, "all_patches", False)
        assert torch.allclose(judged.loss[asked].mean(), want, atol=1e-5)


def test_a_method_says_in_words_what_it_predicts(method, batch, mask):
    assert bool(method.predicts) == (method.masked and getattr(method, "inpaint", True))
    if method.predicts:
        what = "tokens of random_patches (vocabulary 16)"
        if method.tokenizer is None:
            what = "the 96 largest principal" if getattr(method, "predicted", "") == "pca" else "pixels"
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
    deployed = method.deployed
    assert deployed.features(batch.images).shape == (4, deployed.dim) and deployed.dim == method.encoder.dim


@long
def test_one_batch_overfits(case, method, batch, mask):
    """Of CIM, whose enhancer sees other tokens at each step, the generator does.

    Of DINO, whose targets move, the distance from a teacher that stands still and is another network falls.
    """
    key = {"cim": "loss_generator", "dino": "kl"}.get(case[0])
    if case[0] == "dino":
        method.momentum = method.centre_momentum = 1.0
        for parameter in method.teacher["encoder"].parameters():
            parameter.data += 0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    outputs = list(train(method, optimiser(method, 1e-2), batch, mask, range(20)))
    found = [float(output.logs[key] if key else output.loss.detach()) for output in outputs]
    assert found[-1] < 0.8 * found[0] and outputs[-1].loss < outputs[0].loss, found


@long
def test_training_goes_on_to_the_bit_from_a_file(case, method, batch, mask, tmp_path):
    """All state is in the weights, the buffers, the optimiser, and the step."""
    torch.set_num_threads(1)
    whole = built(*case)
    for _ in train(whole, optimiser(whole), batch, mask, range(3)):
        pass
    first = optimiser(method)
    for step, _ in enumerate(train(method, first, batch, mask, range(3))):
        if step == 0:
            save_file({n: v.clone().contiguous() for n, v in method.state_dict().items()}, tmp_path / "m.safetensors")
            torch.save(first.state_dict(), tmp_path / "o.pt")
            break
    again = built(*case)
    again.load_state_dict(load_file(tmp_path / "m.safetensors"))
    second = optimiser(again)
    second.load_state_dict(torch.load(tmp_path / "o.pt", weights_only=True))
    for _ in train(again, second, batch, mask, range(1, 3)):
        pass
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
