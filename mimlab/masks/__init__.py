"""Which patches the encoder does not see: strategies rank patches, `sample` hides the top of the ranking.

A mask is bool (B, N) with N = h * w patches in raster order and no prefix tokens; True = hidden. Every row
hides the same number, `count(N, ratio)`, which is the only place that rounds. `~mask` is a mask as well.
A strategy is a file of this folder, a dotted name or a function:
`rank(batch, grid, generator, *, scores=None, **options) -> float (batch, N)`, higher hides first.
Letters: B batch, N patches, V visible, D width.
"""

import math

import torch

from mimlab.errors import Refused
from mimlab.find import check_options, find, options


def count(n, ratio):
    """How many of `n` patches a `ratio` hides: n - floor(n * (1 - ratio)).

    The number kept is MAE's `int(L * (1 - mask_ratio))` (models_mae.py, random_masking), guarded so that
    float noise does not lose a patch (10 * (1 - 0.9) is 0.9999...). Refuses a ratio outside (0, 1), and one
    that would hide nothing or everything.
    """
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio < 1:
        raise Refused(f"mask_ratio = {ratio!r} is not a share of patches between 0 and 1, such as 0.5")
    hidden = n - math.floor(n * (1 - ratio) + 1e-9)
    if not 0 < hidden < n:
        raise Refused(
            f"mask_ratio = {ratio} hides {hidden} of {n} patches; at least one must be hidden and one visible"
        )
    return hidden


def cut(rank, hidden):
    """Hide the `hidden` highest of every row: rank (B, N) -> mask (B, N).

    Equal ranks go in raster order on every machine, so that a viewer which cuts the same rank agrees.
    """
    ids = rank.argsort(dim=1, descending=True, stable=True)[:, :hidden]  # (B, hidden)
    return torch.zeros_like(rank, dtype=torch.bool).scatter_(1, ids, True)


def sample(strategy, batch, grid, ratio, generator, scores=None, **given):
    """Masks of a strategy: (batch, N) bool, True = hidden, exactly `count(N, ratio)` in every row.

    `strategy` is a name, a dotted name or a function. `given` are its options, checked against its keyword-only
    parameters. `scores` (batch, N) reach a strategy that ranks by them; one that has a keyword `goal` is told
    how many patches will be hidden. Refuses unknown names and options, and a rank of the wrong shape.
    """
    rank = getattr(find("masks", strategy), "rank", None)
    if not callable(rank):
        raise Refused(f"mask = {strategy!r} has no function rank(batch, grid, generator, ...)")
    check_options("mask_args", given, rank, reserved=("scores", "goal"))
    known = options(rank)
    n = grid[0] * grid[1]
    hidden = count(n, ratio)
    told = {name: value for name, value in (("scores", scores), ("goal", hidden)) if name in known}
    ranked = rank(batch, grid, generator, **told, **given)
    shape = tuple(getattr(ranked, "shape", ()))
    if not isinstance(ranked, torch.Tensor) or shape != (batch, n) or not ranked.is_floating_point():
        what = f"{shape} {ranked.dtype}" if isinstance(ranked, torch.Tensor) else type(ranked).__name__
        raise Refused(f"mask = {strategy!r} ranked as {what}; expected a float tensor of shape {(batch, n)}")
    if not torch.isfinite(ranked).all():
        raise Refused(f"mask = {strategy!r} gave ranks that are not finite; every patch needs a finite rank")
    return cut(ranked, hidden)


def visible_ids(mask, visible):
    """Positions of the visible patches in raster order: (B, N) -> (B, V) int64.

    `visible` is V as an integer, known from `count`, so that no step waits for a device to count.
    """
    return mask.byte().argsort(dim=1, stable=True)[:, :visible]


def hidden_ids(mask, hidden):
    """Positions of the hidden patches in raster order: (B, N) -> (B, hidden) int64."""
    return visible_ids(~mask, hidden)


def take(x, ids):
    """Tokens at the given positions: x (B, N, D), ids (B, V) -> (B, V, D)."""
    return x.gather(1, ids.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def put(x, ids, base):
    """`base` (B, N, D) with the tokens x (B, V, D) laid over it at positions ids (B, V) -> (B, N, D)."""
    return base.scatter(1, ids.unsqueeze(-1).expand(-1, -1, x.shape[-1]), x.to(base.dtype))


def pixels(mask, grid, size):
    """The mask at pixel size, True = hidden: (B, N) -> (B, 1, H, W) with size = (H, W)."""
    rows, columns = (torch.arange(s, device=mask.device) * g // s for s, g in zip(size, grid, strict=True))
    return mask.view(-1, 1, *grid)[:, :, rows[:, None], columns]
