"""Cross-entropy in pieces against the plain one."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mimlab import token_loss as module
from mimlab.token_loss import token_loss


def built(rows, vocab, dim=12, spread=1.0):
    torch.manual_seed(rows + vocab)
    head, x = nn.Linear(dim, vocab), (spread * torch.randn(rows, dim)).requires_grad_()
    return head, x, torch.randint(0, vocab, (rows,))


@pytest.mark.parametrize("rows, vocab", [(1, 2), (7, 5), (64, 33), (100, 8192)])
@pytest.mark.parametrize("room", [1, 64, 1 << 22])
@pytest.mark.parametrize("spread", [1.0, 100.0])
def test_loss_accuracy_and_gradients_are_those_of_all_logits_at_once(rows, vocab, room, spread, monkeypatch):
    monkeypatch.setattr(module, "ROOM", room)
    head, x, targets = built(rows, vocab, spread=spread)
    logits = head(x)
    wanted = cross_entropy(logits, targets)
    loss, accuracy = token_loss(head, x, targets)
    assert torch.allclose(loss, wanted, rtol=1e-5, atol=1e-6)
    assert float(accuracy) == pytest.approx(float((logits.argmax(1) == targets).float().mean()))
    assert not accuracy.requires_grad
    into = [x, head.weight, head.bias]
    for one, other in zip(torch.autograd.grad(3 * wanted, into), torch.autograd.grad(3 * loss, into), strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6 * spread)


def test_no_more_than_a_piece_of_the_logits_is_held(monkeypatch):
    monkeypatch.setattr(module, "ROOM", 10 * 50)
    head, x, targets = built(95, 50)
    largest = []
    softmax = torch.softmax
    monkeypatch.setattr(torch, "softmax", lambda x, **given: largest.append(x.shape) or softmax(x, **given))
    token_loss(head, x, targets)[0].backward()
    assert largest == [(10, 50)] * 9 + [(5, 50)]


def test_each_piece_of_the_logits_is_shown_as_it_is(monkeypatch):
    monkeypatch.setattr(module, "ROOM", 10 * 50)
    head, x, targets = built(95, 50)
    seen, order = torch.zeros(95, 50), []

    def look(logits, rows):
        assert not logits.requires_grad
        seen[rows] = logits
        order.append(rows.start)

    shown = token_loss(head, x, targets, look)
    assert torch.allclose(seen, head(x), atol=1e-6) and order == list(range(0, 95, 10))
    plain = token_loss(head, x, targets)
    assert torch.equal(shown[0], plain[0])
    into = [x, head.weight, head.bias]
    for one, other in zip(torch.autograd.grad(shown[0], into), torch.autograd.grad(plain[0], into), strict=True):
        assert torch.equal(one, other)


def test_without_gradients_none_are_made_and_the_numbers_are_the_same():
    head, x, targets = built(20, 30)
    with torch.no_grad():
        loss, accuracy = token_loss(head, x, targets)
    assert not loss.requires_grad and torch.equal(loss, token_loss(head, x, targets)[0].detach())
    assert torch.equal(accuracy, token_loss(head, x, targets)[1])


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_in_half_precision_as_plain_autocast(half):
    head, x, targets = built(300, 64)
    with torch.autocast("cpu", dtype=half):
        wanted, (loss, _) = cross_entropy(head(x), targets), token_loss(head, x, targets)
    assert loss.dtype == torch.float and torch.allclose(loss, wanted, rtol=1e-2)
    into = [x, head.weight, head.bias]
    for one, other in zip(torch.autograd.grad(wanted, into), torch.autograd.grad(loss, into), strict=True):
        assert one.dtype == other.dtype
        assert (one - other).norm() < 0.02 * one.norm()
