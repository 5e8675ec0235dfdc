"""Cross-entropy of a linear layer over a vocabulary, in pieces: no more than some thousand logits a row are ever held."""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from mimlab.linear import product, untouched

ROOM = 1 << 22  # logits held at a time, 16 MiB: 512 patches at a vocabulary of 8,192


def token_loss(head, x, targets, look=None):
    """Mean cross-entropy of `head(x)` with `targets`, and the share of them that is most probable.

    `head` an nn.Linear to K tokens, x (M, D), targets (M,) int64 -> two scalars, the second without gradient. Gradients
    are made while a piece is at hand, so that memory does not grow with M * K. `look(logits, rows)` sees each piece, float
    (m, K), and which rows it is of, a slice.
    """
    if not untouched(head):  # wrapped, or seen by a hook: called, with all logits at once
        logits = head(x).float()
        if look is not None:
            look(logits.detach(), slice(0, len(x)))
        return F.cross_entropy(logits, targets), (logits.argmax(dim=1) == targets).float().mean()
    kind = x.device.type
    half = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return TokenLoss.apply(x, head.weight, head.bias, targets, half, torch.is_grad_enabled(), look)


class TokenLoss(torch.autograd.Function):
    """See `token_loss`; products in the precision `half` if given, sums and the softmax in full precision."""

    @staticmethod
    def forward(ctx, x, weight, bias, targets, half, wanted, look):
        with torch.autocast(x.device.type, enabled=False):
            low = half or weight.dtype
            rows, table, step = x.to(low), weight.to(low), max(1, ROOM // len(weight))
            loss, right = (torch.zeros((), device=x.device) for _ in range(2))
            to_x = torch.empty_like(rows) if wanted else None
            to_weight, to_bias = (torch.zeros_like(p, dtype=torch.float) for p in (weight, bias))
            for start in range(0, len(rows), step):
                here = slice(start, start + step)
                part, true = rows[here], targets[here, None]
                logits = product(part, table, bias.to(low)).float()
                if look is not None:
                    look(logits, here)
                high, most = logits.max(dim=1, keepdim=True)
                found = logits.gather(1, true)
                chance = torch.softmax(logits, dim=1, out=logits)
                loss += (high - chance.gather(1, most).log() - found).sum()  # the largest is at least 1 / K
                right += (most == true).sum()
                if wanted:
                    chance.scatter_add_(1, true, chance.new_full(true.shape, -1.0))
                    to_bias += chance.sum(dim=0)
                    chance = chance.to(low)
                    product(chance, table.T, out=to_x[here])
                    if low == to_weight.dtype:
                        to_weight.addmm_(chance.T, part)
                    else:
                        to_weight += chance.T @ part
        ctx.types = x.dtype, weight.dtype, bias.dtype
        ctx.save_for_backward(to_x, to_weight, to_bias)
        ctx.count = len(rows)
        loss, right = loss / len(rows), right / len(rows)
        ctx.mark_non_differentiable(right)
        return loss, right

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient, _):
        scale = gradient / ctx.count
        given = (found.float() * scale for found in ctx.saved_tensors)
        return *(found.to(kind) for found, kind in zip(given, ctx.types, strict=True)), None, None, None, None
