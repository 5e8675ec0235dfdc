"""Block-wise masking: rectangles of random area and shape, until the goal is reached.

BEiT, algorithm 1 (arXiv 2106.08254), as its code does it: microsoft/unilm, beit/masking_generator.py; CAE:
Atten4Vis/CAE, furnace/masking_generator.py. The code's rule, for one image:

  while fewer than the goal are covered, with cap = min(goal - covered, max_block), try up to ten times:
    area ~ U(min_block, cap) (the ends in either order), aspect = exp U(ln a, ln 1/a);
    height = round(sqrt(area * aspect)), width = round(sqrt(area / aspect));
    go on only if height < H and width < W, both strictly, at a uniform place;
    take the block if it covers at least 1 and at most cap new cells.
  BEiT stops when ten tries fail: its masks never exceed the goal and are often short (a third of them at
  75 of 196). CAE goes on until the count is exact.

Here one round draws ten tries for every image at once and takes the first that passes: the same distribution.
"""

import math

import torch

from mimlab.errors import Refused
from mimlab.find import closest
from mimlab.masks import cut

SAMPLERS = ("beit", "cae", "rank")
TRIES = 10  # per round, BEiT's and CAE's
PATIENCE = {"beit": 1, "cae": 100}  # fruitless rounds in a row that end an image; CAE's own loop has no bound


def rank(
    batch,
    grid,
    generator,
    *,
    scores=None,
    goal=None,
    sampler="beit",
    min_block=None,
    max_block=None,
    aspect=0.3,
):
    """Rank by the order in which blocks cover the patches: (batch, N) float. `scores` are not read.

    `sampler`: "beit" or "cae" lay blocks up to `goal`, which `masks.sample` fills in. Both go on until the
    count is exact, since a batch needs equal counts: a short BEiT mask is continued by the same rule, which is
    CAE's, so the two give the same ranks here; `blocks` gives BEiT's own short masks. "rank" needs no goal: it
    covers the whole grid and may be cut anywhere. A cut through a block goes along one side of the image drawn
    at random, so that what remains of the block is a block and at most one broken line.
    `min_block`, `max_block`: patches per block, or a share of the grid if below 1; None: 16/196 of the grid, and
    no limit but the goal ("rank": 75/196 of the grid). SplitMask uses 16 and 75 on 14 x 14. `aspect`: narrowest height to width, or a pair.
    Refuses settings that no block can meet.
    """
    n = grid[0] * grid[1]
    min_block, max_block = _patches(min_block, n), _patches(max_block, n)
    if sampler not in SAMPLERS:
        raise Refused(f"sampler = {sampler!r} is unknown{closest(sampler, SAMPLERS)}; there are: {', '.join(SAMPLERS)}")
    if goal is None and sampler != "rank":
        raise Refused(f"goal = None: sampler {sampler!r} needs the number of patches to hide; 'rank' does not")
    most = n if sampler == "rank" else goal
    _check(min_block, max_block, most)
    low = min(max(1, round(n * 16 / 196)), most, max_block or n) if min_block is None else min_block
    if sampler == "rank":
        high = max(low, round(n * 75 / 196)) if max_block is None else max_block
        age = _cover(batch, grid, generator, low, high, _logs(aspect))
    else:
        age = _place(batch, grid, goal, generator, low, max_block or goal, _logs(aspect), PATIENCE["cae"])
    return _rank(age, grid, generator)


def blocks(batch, grid, goal, generator, *, min_block, max_block=None, aspect=0.3, sampler="beit"):
    """The official generators' masks: (batch, N) bool, True = hidden.

    "beit": at most `goal`, possibly fewer. "cae": exactly `goal`; where a hundred rounds of ten tries add
    nothing (a grid of one row, on which no block fits, or a last gap that none can fill) the rest is hidden at
    random, where CAE's own loop would never end. As there, `min_block` may exceed the goal.
    """
    if sampler not in PATIENCE:
        raise Refused(f"sampler = {sampler!r} is no official one{closest(sampler, PATIENCE)}; there are: beit, cae")
    age = _place(batch, grid, goal, generator, min_block, max_block or goal, _logs(aspect), PATIENCE[sampler])
    return age > 0 if sampler == "beit" else cut(_rank(age, grid, generator), goal)


def _patches(size, n):
    """A share of the grid, such as 75/196, as a number of patches; whole numbers and None stay."""
    return max(1, round(size * n)) if isinstance(size, float) and 0 < size < 1 else size


def _check(min_block, max_block, most):
    """Refuse block sizes that are no positive integers or out of order."""
    for name, value in (("min_block", min_block), ("max_block", max_block)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise Refused(f"{name} = {value!r} is not a number of patches; use an integer from 1 to {most}")
    if min_block is not None and min_block > most:
        raise Refused(f"min_block = {min_block} is more than the {most} patches to hide; use at most {most}")
    if min_block is not None and max_block is not None and min_block > max_block:
        raise Refused(f"min_block = {min_block} is more than max_block = {max_block}; use at most {max_block}")


def _logs(aspect):
    """Logarithms of the narrowest and widest height to width."""
    pair = aspect if isinstance(aspect, (tuple, list)) else (aspect, 1 / aspect if aspect else 0)
    if not (len(pair) == 2 and 0 < pair[0] <= pair[1]):
        raise Refused(f"aspect = {aspect!r} is not a ratio in (0, 1] or a pair of rising ratios, such as 0.3")
    return math.log(pair[0]), math.log(pair[1])


def _sides(area, u, logs):
    """Height and width of blocks of the given areas, aspects log-uniform by the uniform numbers `u`."""
    root = (u * ((logs[1] - logs[0]) / 2) + logs[0] / 2).exp()  # square root of the aspect
    side = area.sqrt()
    return (side * root).round(), (side / root).round()


def _inside(top, left, height, width, grid, out=None):
    """Cells of one block per image: four (B,) -> (B, h, w) float of 0 and 1."""
    row, column = (torch.arange(float(side)) for side in grid)
    rows = (row >= top[:, None]) & (row < (top + height)[:, None])  # (B, h)
    columns = (column >= left[:, None]) & (column < (left + width)[:, None])  # (B, w)
    return torch.mul(rows.float()[:, :, None], columns.float()[:, None, :], out=out)


def _place(batch, grid, goal, generator, low, high, logs, patience):
    """For how many rounds a cell has been covered: (batch, N) float, most for the first block, 0 for none.

    An image that is done stays in the arrays, without effect, until half of them are: copying costs more.
    """
    h, w = grid
    result = torch.zeros(batch, h * w)
    if min(h, w) < 2:  # no block has strictly smaller sides
        return result
    alive = torch.arange(batch)  # the images of the rows below
    mask, age = torch.zeros(2, batch, h, w)
    budget, idle = torch.full((batch,), float(goal)), torch.zeros(batch)
    total = torch.zeros(batch, h + 1, w + 1)  # for the integral images; fresh memory every round costs more
    block = torch.empty(batch, h, w)
    going = batch
    while going:
        rows = len(alive)
        u_area, u_aspect, u_top, u_left = torch.rand(4, rows, TRIES, generator=generator)
        cap = budget.clamp(max=high)[:, None]  # (A, 1), 0 where done
        height, width = _sides(low + (cap - low) * u_area, u_aspect, logs)  # (A, tries)
        tall = (height >= h) | (width >= w)
        height.masked_fill_(tall, 0)  # an empty block covers nothing new, so it is not taken
        width.masked_fill_(tall, 0)
        top, left = ((h + 1 - height) * u_top).floor_(), ((w + 1 - width) * u_left).floor_()
        new = height * width - _count(mask, total[:rows], top, left, height, width)
        new.masked_fill_(new > cap, 0)
        first = (new > 0).byte().argmax(1).view(1, -1, 1).expand(5, -1, -1)  # the first that passes, or 0
        tries = torch.stack([top, left, height, width, new])
        top, left, height, width, new = tries.gather(2, first).squeeze(2).unbind()  # (A,) each
        failed = new == 0
        _inside(top, left, height.masked_fill_(failed, 0), width, grid, out=block[:rows])
        torch.maximum(mask, block[:rows], out=mask)
        age += mask
        budget -= new
        idle = (idle + 1) * failed
        budget.masked_fill_(idle >= patience, 0)
        open_ = budget > 0
        going = int(open_.sum())
        if going <= rows / 2:
            result[alive] = age.flatten(1)
            alive, mask, age, budget, idle = (x[open_] for x in (alive, mask, age, budget, idle))
    return result


def _count(mask, total, top, left, height, width):
    """Covered cells in candidate blocks: mask (A, h, w), four (A, T) -> (A, T) float.

    By integral images, made in `total` (A, h + 1, w + 1), whose first row and column are zero.
    """
    a, stride = len(mask), mask.shape[2] + 1
    torch.cumsum(mask, 2, out=total[:, 1:, 1:]).cumsum_(1)
    upper, lower = top * stride, (top + height) * stride
    right = left + width
    corners = torch.cat([lower + right, upper + left, upper + right, lower + left], 1).long()  # (A, 4 T)
    plus, minus = total.view(a, -1).gather(1, corners).view(a, 2, 2, -1).sum(2).unbind(1)
    return plus - minus


def _cover(batch, grid, generator, low, high, logs):
    """As `_place`, without a goal: each block is laid over a random cell that is still uncovered.

    Sides are limited to H - 1 and W - 1 (but 1 at least) instead of being tried again, so that every round
    covers something on every grid.
    """
    h, w = grid
    result = torch.zeros(batch, h * w)
    alive = torch.arange(batch)
    mask, age = torch.zeros(2, batch, h * w)
    while len(alive):
        cell = (torch.rand(mask.shape, generator=generator) - mask).argmax(1).float()
        u_area, u_aspect, u_top, u_left = torch.rand(4, len(alive), generator=generator)
        height, width = _sides(low + (high - low) * u_area, u_aspect, logs)
        height, width = height.clamp_(1, max(1, h - 1)), width.clamp_(1, max(1, w - 1))
        row = (cell / w).floor()
        top, left = _over(row, height, h, u_top), _over(cell - row * w, width, w, u_left)
        torch.maximum(mask, _inside(top, left, height, width, grid).flatten(1), out=mask)
        age += mask
        going = mask.amin(1) == 0
        if not going.all():
            result[alive[~going]] = age[~going]
            alive, mask, age = alive[going], mask[going], age[going]
    return result


def _over(cell, side, limit, u):
    """A uniform start of an interval of length `side` in 0..limit that contains `cell`."""
    first = (cell - side + 1).clamp_(min=0)
    last = torch.minimum(cell, limit - side)
    return first + ((last - first + 1) * u).floor_()


def _rank(age, grid, generator):
    """Earlier blocks higher; inside a block along a side drawn per image; uncovered cells last, at random."""
    h, w = grid
    batch, n = age.shape
    raster, turned = torch.arange(n).view(h, w), torch.arange(n).view(w, h).T
    sides = torch.stack([s.flip(dims) for s in (raster, turned) for dims in ([], [0], [1], [0, 1])]).flatten(1)
    side = (sides / n)[torch.randint(len(sides), (batch,), generator=generator)]  # (batch, N) of [0, 1)
    noise = torch.rand(batch, n, generator=generator)
    return torch.where(age > 0, age + side, noise)
