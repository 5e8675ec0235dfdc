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
Differs from the paper: algorithm 1 ends above 0.4 N; the code, and this, never exceed the goal. `rank` goes on
with short BEiT masks until the count is exact, as CAE's code does. The sampler "rank" is ours.

A set of cells is a column of bits in 64-bit words: a block is one AND, its new cells are counted by popcount.
Letters: B batch, N patches, G goals, A images that are not done, K sets of cells.
"""

import math
from functools import lru_cache
from typing import Annotated, Literal, get_args

import numpy as np
import torch

from mimlab.errors import Refused, shown
from mimlab.find import closest

TRIES = 10  # per round, BEiT's and CAE's
TABLED = 64 * 64  # patches: of larger grids blocks are put together row by row and column by column
ROOM = 1 << 28  # cells of the blocks that are tried at a time, a bit each
PATIENCE = {"beit": 1, "cae": 100}  # fruitless rounds in a row that end an image; CAE's own loop has no bound

Sampler = Literal["beit", "cae", "rank"]
Size = Annotated[float, (0.02, 0.6)] | Annotated[int, (1, 65536)] | None  # a share of the grid, or a number of patches
Ratio = Annotated[float, (0.01, 100.0)]
Aspect = Annotated[float, (0.1, 1.0)] | Annotated[tuple[Ratio, Ratio], "rising"]


def rank(
    batch,
    grid,
    generator,
    *,
    goal=None,
    sampler: Sampler = "beit",
    min_block: Size = None,
    max_block: Size = None,
    aspect: Aspect = 0.3,
):
    """Rank by the blocks that cover the patches: (batch, N) float.

    `sampler`: "beit" or "cae" lay blocks up to `goal`, which `masks.sample` fills in, and rank what they cover as
    1, the rest as 0. Both go on until the count is exact, since a batch needs equal counts: a short BEiT mask is
    continued by the same rule, which is CAE's, so the two give the same ranks here; `blocks` gives BEiT's own
    short masks. "rank" needs no goal: it covers the whole grid, earlier blocks first, and may be cut anywhere. A
    cut through a block goes along one side of the image drawn at random, so that what remains of the block is a
    block and at most one broken line.
    `min_block`, `max_block`: patches per block, or a share of the grid if below 1; None: 16/196 of the grid, and
    no limit but the goal ("rank": 75/196 of the grid). SplitMask uses 16 and 75 on 14 x 14. `aspect`: narrowest
    height to width, or a pair. Refuses settings that no block can meet.
    """
    if goal is None and sampler in PATIENCE:
        raise Refused(f"goal = None: sampler {shown(sampler)} needs the number of patches to hide; 'rank' does not")
    n = grid[0] * grid[1]
    low, high = _sizes(n, n if sampler == "rank" else goal, sampler, min_block, max_block)
    if sampler == "rank":
        return _cover(batch, grid, generator, low, high, _logs(aspect))
    counts = torch.full((batch,), goal)
    return _exactly(batch, grid, counts, generator, counts.clamp(max=low), high, _logs(aspect)).float()


def goals(grid, generator, goals, *, sampler="beit", min_block=None, max_block=None, aspect=0.3):
    """One image's mask at each of many counts, from one draw: goals (G,) int64 -> (G, N) bool.

    Each row is the mask of a batch of one by `rank` with that goal and a generator in the same state. A goal below
    `min_block`, which `rank` refuses, is itself the smallest area here. Refuses what `rank` does at the
    highest goal.
    """
    if sampler == "rank":
        given = {"min_block": min_block, "max_block": max_block, "aspect": aspect}
        return _highest(rank(1, grid, generator, sampler=sampler, **given), goals)
    low, high = _sizes(grid[0] * grid[1], int(goals.max()), sampler, min_block, max_block)
    return _exactly(1, grid, goals, generator, goals.clamp(max=low), high, _logs(aspect))


def blocks(batch, grid, goal, generator, *, min_block, max_block=None, aspect=0.3, sampler="beit"):
    """The official generators' masks: (batch, N) bool, True = hidden.

    "beit": at most `goal`, possibly fewer. "cae": exactly `goal`; where a hundred rounds of ten tries add
    nothing (a grid of one row, on which no block fits, or a last gap that none can fill) the rest is hidden at
    random, where CAE's own loop would never end. As there, `min_block` may exceed the goal.
    """
    if sampler not in PATIENCE:
        raise Refused(
            f"sampler = {shown(sampler)} is no official one{closest(sampler, PATIENCE)}; there are: beit, cae"
        )
    counts, low = torch.full((batch,), goal), torch.full((batch,), min_block)
    given = (batch, grid, counts, generator, low, max_block or goal, _logs(aspect))
    return _exactly(*given) if sampler == "cae" else _place(*given, PATIENCE["beit"])


def _sizes(n, most, sampler, min_block, max_block):
    """Smallest and largest area of a block in patches; a share of the grid, such as 75/196, is rounded.

    Refuses an unknown sampler, and sizes that are no positive integers or out of order.
    """
    known = get_args(Sampler)
    if sampler not in known:
        raise Refused(f"sampler = {shown(sampler)} is unknown{closest(sampler, known)}; there are: {', '.join(known)}")
    given = {"min_block": min_block, "max_block": max_block}
    for name, size in given.items():
        if isinstance(size, float) and 0 < size < 1:
            given[name] = max(1, round(size * n))
        elif size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise Refused(f"{name} = {shown(size)} is not a number of patches; use an integer from 1 to {most}")
    low, high = given.values()
    if low is not None and low > most:
        raise Refused(f"min_block = {low} is more than the {most} patches to hide; use at most {most}")
    if low is not None and high is not None and low > high:
        raise Refused(f"min_block = {low} is more than max_block = {high}; use at most {high}")
    low = low or min(max(1, round(n * 16 / 196)), high or n)
    return low, high or (max(low, round(n * 75 / 196)) if sampler == "rank" else n)


def _logs(aspect):
    """Logarithms of the narrowest and widest height to width."""
    alone = not isinstance(aspect, (tuple, list))
    pair = (aspect, 1) if alone else aspect
    numbers = len(pair) == 2 and all(isinstance(x, (int, float)) for x in pair)
    if not (numbers and 0 < pair[0] <= pair[1] < math.inf):
        raise Refused(f"aspect = {shown(aspect)} is not a ratio in (0, 1] or a pair of rising ratios, such as 0.3")
    low, high = (math.log(x) for x in pair)
    return low, -low if alone else high


def _exactly(batch, grid, goals, generator, low, high, logs):
    """As `_place` by CAE's rule; where no block fits any more, the rest is hidden at random."""
    seed = int(torch.randint(2**62, (1,), generator=generator))  # now: the number of later draws depends on the goals
    masks = _place(batch, grid, goals, generator, low, high, logs, PATIENCE["cae"])
    short = masks.sum(1) < goals
    if short.any():
        noise = torch.rand(batch, masks.shape[1], generator=torch.Generator().manual_seed(seed))
        masks[short] = _highest((masks + noise)[short], goals[short])
    return masks


def _highest(rank, goals):
    """`masks.cut` with a count for each row: rank (G, N) or (1, N), goals (G,) -> (G, N) bool."""
    place = rank.argsort(dim=1, descending=True, stable=True).argsort(dim=1)  # 0 = hidden first
    return place < goals[:, None]


def _place(batch, grid, goals, generator, low, high, logs, patience):
    """What blocks cover by the rule above: (G, N) bool, for goals and smallest areas (G,) int64.

    Every image has draws of its own; all goals share those of a batch of one, whatever they are.
    """
    size = np.array(grid, np.float32)[:, None, None]
    free, some = _all(grid, len(goals)), max(1, ROOM // (TRIES * grid[0] * grid[1]))  # images at a time
    budget, low, idle = goals.float().numpy(), low.float().numpy(), np.zeros(len(goals), int)
    alive = np.arange(len(goals) if min(grid) > 1 else 0)  # no block has strictly smaller sides than one row
    while len(alive):
        u = torch.rand(4, min(batch, len(alive)), TRIES, generator=generator).numpy()
        for part in range(0, len(alive), some):
            now, v = alive[part : part + some], u if u.shape[1] == 1 else u[:, part : part + some]
            cap, least = np.minimum(budget[now], high)[:, None], low[now, None]  # (A, 1)
            sides = _sides(least + (cap - least) * v[0], v[1], logs)  # (2, A, tries)
            sides *= sides < size  # a side of 0 is an empty block, which is not taken
            cells = _cells(sides, np.floor((size + 1 - sides) * v[2:]), grid)  # (words, A, tries)
            cells &= free.take(now, axis=1)[:, :, None]
            new = np.bitwise_count(cells).sum(0, dtype=np.float32)  # (A, tries)
            passes = (new > 0) & (new <= cap)
            first = np.arange(len(now)), passes.argmax(1)  # the first that passes, or 0
            taken = passes[first]
            free[:, now] ^= cells[:, *first] * taken
            budget[now] -= new[first] * taken
            idle[now] = (idle[now] + 1) * ~taken
        alive = np.flatnonzero((budget > 0) & (idle < patience))
    return torch.from_numpy(~_bools(free, grid))


def _cover(batch, grid, generator, low, high, logs):
    """The rank without a goal, (batch, N): each block is laid over a random cell that is still uncovered.

    Minus the rounds for which a cell stays uncovered, plus its place from 0 to 1 along a side drawn per image.
    Sides are limited to H - 1 and W - 1 (but 1 at least) instead of being tried again, so that every round
    covers something on every grid. An image that is done stays in the arrays until half of them are.
    """
    n = grid[0] * grid[1]
    size = np.array(grid, np.float32)[:, None]
    along = _along(grid)[torch.randint(8, (batch,), generator=generator).numpy()]
    noise = 1 - torch.rand(batch, n, generator=generator).numpy()  # above 0; the highest uncovered is uniform
    free, alive = _all(grid, batch), np.arange(batch)
    rounds = np.zeros((batch, n), np.uint8 if n < 256 else np.uint16)  # for which a cell stays uncovered
    counted = rounds.copy()
    while len(alive):
        cell = np.array(np.divmod(noise.argmax(1), grid[1]), np.float32)  # (2, A): row and column
        u = torch.rand(4, len(alive), generator=generator).numpy()
        sides = _sides(low + (high - low) * u[0], u[1], logs)
        sides = np.maximum(np.minimum(sides, np.maximum(size - 1, 1)), 1)
        first, last = np.maximum(cell - sides + 1, 0), np.minimum(cell, size - sides)
        free &= ~_cells(sides, first + np.floor((last - first + 1) * u[2:]), grid)
        uncovered = _bools(free, grid)
        noise *= uncovered
        counted += uncovered.view(np.uint8)
        going = free.any(0)
        if going.sum() <= len(alive) / 2:
            rounds[alive] = counted
            free, counted, noise, alive = free[:, going], counted[going], noise[going], alive[going]
    return torch.from_numpy(along - rounds)


def _along(grid):
    """Cells numbered from each corner along each side: (8, N) of [0, 1)."""
    raster = np.arange(grid[0] * grid[1], dtype=np.float32).reshape(grid)
    turned = raster.reshape(grid[1], grid[0]).T
    flipped = [x[::down, ::right] for x in (raster, turned) for down in (1, -1) for right in (1, -1)]
    return np.stack(flipped).reshape(8, -1) / raster.size


def _sides(area, u, logs):
    """Heights and widths (2, ...) of blocks of the given areas, aspects log-uniform by the uniform numbers `u`."""
    log = u * ((logs[1] - logs[0]) / 2) + logs[0] / 2  # of the square root of the aspect
    sides = np.empty((2, *log.shape), log.dtype)
    np.exp(log, out=sides[0])
    np.exp(-log, out=sides[1])
    sides = sides * np.sqrt(area)  # many areas may share the numbers
    return np.rint(sides, out=sides)


def _cells(sides, starts, grid):
    """Blocks as bits: heights and widths (2, ...), tops and lefts (2, ...) -> uint64 (words, ...)."""
    h, w = grid
    if h * w > TABLED:  # a table of all bands would be larger than the masks
        down, across = _befores((h, w))
        ends = (sides + starts).astype(np.intp)
        first = starts.astype(np.intp)
        rows = down.take(np.minimum(ends[0], h), axis=1) ^ down.take(first[0], axis=1)
        return rows & (across.take(np.minimum(ends[1], w), axis=1) ^ across.take(first[1], axis=1))
    index = np.empty(sides.shape, np.intp)
    index[0] = sides[0] * (h + 1) + starts[0]
    index[1] = sides[1] * (w + 1) + starts[1] + (h + 1) ** 2
    bands = _bands((h, w)).take(index, axis=1)
    return bands[:, 0] & bands[:, 1]


@lru_cache(maxsize=8)
def _bands(grid):
    """Bits of all bands of rows, then of columns: uint64 (words, (h + 1)^2 + (w + 1)^2), at length * (h + 1) + start."""
    found = []
    for position, side in zip(np.indices(grid).reshape(2, -1), grid):
        before = _bits(position < np.arange(side + 1)[:, None])  # (words, side + 1)
        length, start = np.divmod(np.arange((side + 1) ** 2), side + 1)
        found.append(before[:, np.minimum(start + length, side)] ^ before[:, start])
    return np.concatenate(found, axis=1)


@lru_cache(maxsize=2)
def _befores(grid):
    """Bits of the cells above each row, and left of each column: uint64 (words, h + 1) and (words, w + 1)."""
    places = np.indices(grid).reshape(2, -1)
    return [_bits(place < np.arange(side + 1)[:, None]) for place, side in zip(places, grid, strict=True)]


def _all(grid, k):
    """Every cell of the grid, `k` times: uint64 (words, k)."""
    return np.repeat(_full(tuple(grid)), k, axis=1)


@lru_cache(maxsize=8)
def _full(grid):
    return _bits(np.ones((1, grid[0] * grid[1]), bool))


def _bits(cells):
    """Sets of cells as bits: bool (K, N) -> uint64 (words, K)."""
    octets = np.packbits(cells, axis=1)
    return np.pad(octets, ((0, 0), (0, -octets.shape[1] % 8))).view(np.uint64).T.copy()


def _bools(words, grid):
    """The inverse of `_bits`: uint64 (words, K) -> bool (K, N)."""
    octets = np.ascontiguousarray(words.T).view(np.uint8)
    return np.unpackbits(octets, axis=1, count=grid[0] * grid[1]).view(bool)
