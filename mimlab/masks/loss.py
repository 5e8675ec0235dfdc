"""Hard patches: those that the model itself predicts worst are hidden.

HPM (Wang et al., "Hard Patches Mining for Masked Image Modeling", CVPR 2023, arXiv 2304.05919) and its code,
Haochen-Wang409/HPM, models_mae_learn_loss.py (`generate_mask`): of the hidden patches a share, rounded down, are
those with the largest predicted loss, the others are random among the rest.

Differs from the paper: no auxiliary network predicts the loss; it is measured, each patch being hidden once under one of
two complementary checkerboards, which costs two more passes a step. The model in training is asked, not its moving
average. The share stays; the paper's grows over training from 0 to 0.5, the default here.
"""

from typing import Annotated, Literal

import torch

from mimlab.errors import Refused
from mimlab.masks.attention import fit


def score(images, grid, *, method):
    """The training loss of each patch while it is hidden: (B, N) float, from images (B, 3, H, W) in [0, 1].

    Refuses another grid than the method's, and a method without a loss of single patches.
    """
    images = fit(images, method.encoder, grid)
    h, w = grid
    board = (torch.arange(h, device=images.device)[:, None] + torch.arange(w, device=images.device)) % 2 == 0
    board = board.flatten().expand(len(images), -1)  # (B, N)
    judged = [method.judge(images, mask) for mask in (board, ~board)]
    if any(found is None for found in judged):
        raise Refused(
            f"mask = 'loss': {type(method).__name__} with these options has no loss of single patches; methods that "
            f"have one: {', '.join(_judges())}"
        )
    return torch.where(board, *(found.loss.float() for found in judged))


def _judges():
    """Names of the methods that define `judge`."""
    from mimlab.find import find, names
    from mimlab.methods import Method

    found = {name: vars(find("methods", name)).values() for name in names("methods")}
    return [
        name
        for name, values in found.items()
        if any(isinstance(v, type) and issubclass(v, Method) and v.judge is not Method.judge for v in values)
    ]


def rank(
    batch,
    grid,
    generator,
    *,
    scores,
    hide: Literal["hardest", "easiest"] = "hardest",
    share: Annotated[float, (0.0, 1.0)] = 0.5,
):
    """The order of hiding, first highest: (batch, N) float.

    Of any number k of hidden patches floor(`share` * k) are the hardest (or easiest), the others uniform among the
    rest. Equal `scores` go in random order.
    """
    n = scores.shape[1]
    order = torch.rand(batch, n, generator=generator).argsort(dim=1)  # below, patches are numbered in this order
    extreme = scores.gather(1, order).argsort(dim=1, descending=hide == "hardest", stable=True)
    step = torch.tensor([_turns(row, share) for row in extreme.tolist()], dtype=torch.float32)
    return torch.empty(batch, n).scatter_(1, order, step)


def _turns(extreme, share):
    """Minus the turn in which each of N patches hides, from the patches in the order of their scores, (N,)."""
    turn, chosen, first = [0] * len(extreme), 0, 0
    for k in range(1, len(extreme) + 1):
        patch = first
        if int(share * k + 1e-9) > chosen:
            patch, chosen = extreme[chosen], chosen + 1
        if turn[patch]:  # hidden already: the first that is not, a random one
            while turn[first]:
                first += 1
            patch = first
        turn[patch] = -k
    return turn
