"""Which patches the encoder does not see: strategies rank patches, `sample` hides the top of the ranking.

A mask is bool (B, N) with N = h * w patches in raster order and no prefix tokens; True = hidden. Every row
hides the same number, `count(N, ratio)`, which is the only place that rounds. `~mask` is a mask as well.
A strategy is a file of this folder, a dotted name or a function:
`rank(batch, grid, generator, *, **options) -> float (batch, N)`, higher hides first; annotations of its options
(`Annotated[int, (1, 8)]`, `Literal["a", "b"]`) are their ranges, for checks and for sliders.
One that looks at the images, or asks the model, also has
`score(images, grid, *, method, **options) -> float (B, N)`, without randomness, whose result its `rank` gets as the
keyword `scores`.
Letters: B batch, N patches, V visible, D width.
"""

import math
from typing import Annotated, Literal

import numpy as np
import torch

from mimlab.errors import Refused, shown
from mimlab.find import check_options, find, options, ranges
from mimlab.layers import check_images, lost

FILLED = ("scores", "goal", "method")  # keyword-only parameters that are filled in here


PATCHES = 1 << 16  # of an image, at most: 256 x 256; an explorer counts them in 16 bits


def check_grid(image_size, patch_size):
    """Refuse images of more than `PATCHES` patches, before anything of that size is made."""
    if patch_size >= 1 and (n := (image_size // patch_size) ** 2) > PATCHES:
        side, least = image_size // patch_size, -(-image_size // math.isqrt(PATCHES))
        raise Refused(
            f"image_size = {image_size} with patch_size = {patch_size} makes {side} x {side} = {n:,} patches, and {PATCHES:,} is "
            f"the most; use patches of {least} pixels or more, or smaller images"
        )


def count(n, ratio):
    """How many of `n` patches a `ratio` hides: n - floor(n * (1 - ratio)).

    The number kept is MAE's `int(L * (1 - mask_ratio))` (models_mae.py, random_masking), guarded so that
    float noise does not lose a patch (10 * (1 - 0.9) is 0.9999...). Refuses a ratio outside (0, 1), and one
    that would hide nothing or everything.
    """
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio < 1:
        raise Refused(f"mask_ratio = {shown(ratio)} is not a share of patches between 0 and 1, such as 0.5")
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
    values = (rank if rank.dtype == torch.float64 else rank.float()).cpu().numpy()
    lowest = np.partition(values, -hidden, axis=1)[:, -hidden, None]  # (B, 1); a fraction of topk's or a sort's time
    lowest = torch.from_numpy(lowest).to(rank)
    mask = rank >= lowest
    if int(mask.sum()) == hidden * len(mask):  # no tie to break
        return mask
    above, tied = rank > lowest, rank == lowest
    return above | (tied & (tied.cumsum(1) <= hidden - above.sum(1, keepdim=True)))


def sample(strategy, batch, grid, ratio, generator, scores=None, images=None, method=None, **given):
    """Masks of a strategy: (batch, N) bool, True = hidden, exactly `count(N, ratio)` in every row.

    `strategy` is a name, a dotted name or a function. `given` are its options, checked against its keyword-only
    parameters. `scores` (batch, N) reach a strategy that ranks by them; without, they are made from `images`
    (batch, 3, H, W) and `method`. One that has a keyword `goal` is told how many patches will be hidden.
    Refuses unknown names and options, and a rank of the wrong shape.
    """
    hidden = count(grid[0] * grid[1], ratio)
    if scores is None and looks(strategy):
        scores = score(strategy, images, grid, method, **given).float().cpu()
    return cut(_ranked(strategy, batch, grid, hidden, generator, scores, given), hidden)


def every(strategy, grid, generator, scores=None, at=None, **given):
    """One image's mask at every count: (N - 1, N) bool, row k hides k + 1 patches; or at the counts `at` alone, (G, N).

    Each row is what `sample` gives for a batch of one at that count with a generator in the same state.
    """
    n = grid[0] * grid[1]
    counts = torch.arange(1, n) if at is None else torch.as_tensor(at)
    module = find("masks", strategy)
    if "goal" not in options(module.rank):  # the ranking does not know the count
        ranked = _ranked(strategy, 1, grid, None, generator, scores, given)
        place = ranked.argsort(dim=1, descending=True, stable=True).argsort(dim=1)  # 0 = hidden first
        return place < counts[:, None]
    if hasattr(module, "goals"):  # all counts from one draw
        check_options("mask_args", given, module.rank, reserved=FILLED)
        return module.goals(grid, generator, counts, **given)
    state, rows = generator.get_state(), []
    for hidden in counts.tolist():
        generator.set_state(state)
        rows.append(cut(_ranked(strategy, 1, grid, hidden, generator, scores, given), hidden))
    return torch.cat(rows)


def looks(strategy):
    """Whether a strategy looks at the images, by a function `score`."""
    return getattr(find("masks", strategy), "score", None) is not None


def asks(strategy):
    """Whether a strategy asks the model: its `score` has a keyword `method`."""
    return looks(strategy) and "method" in options(find("masks", strategy).score)


def arguments(strategy):
    """What a user may set: name -> `find.Option`, of `rank` and of `score`."""
    return {name: option for f in _functions(strategy) for name, option in ranges(f).items() if name not in FILLED}


@torch.no_grad()
def score(strategy, images, grid, method=None, **given):
    """What a strategy sees in each image: float (B, N); the model is asked in eval mode and left as it was."""
    look = find("masks", strategy).score
    check_options("mask_args", given, _functions(strategy), reserved=FILLED)
    if images is None:
        raise Refused(f"mask = {shown(_name(strategy))} looks at the images; give `images`, or `scores`")
    check_images(images, look=images.device.type == "cpu")
    told = {name: value for name, value in given.items() if name in options(look)}
    if not asks(strategy):
        found = look(images, grid, **told)
    elif method is None:
        raise Refused(f"mask = {shown(_name(strategy))} asks a model; give a run, or use it in pre-training")
    else:
        before = method.training
        method.eval()
        try:
            found = look(images, grid, method=method, **told)
        finally:
            method.train(before)
    return _finite(found, len(images), grid, f"mask = {shown(_name(strategy))} scored")


def ratio(
    progress,
    start,
    *,
    end: Annotated[float | None, (0.01, 0.99)] = None,
    shape: Literal["linear", "cosine", "steps"] = "linear",
    steps: Annotated[int, (2, 1000)] = 5,
):
    """The share to hide at a `progress` in [0, 1] of training, from `start` to `end`; without `end` it stays.

    "linear", "cosine" (half a period, slow at both ends), or "steps" of equal height and length.
    """
    if end is None:
        return start
    share = {
        "linear": progress,
        "cosine": (1 - math.cos(math.pi * progress)) / 2,
        "steps": min(math.floor(progress * steps), steps - 1) / (steps - 1),
    }[shape]
    return start + (end - start) * share


def check(strategy, grid, ratio, given):
    """Refuse what `sample` would refuse, without looking at an image or asking a model."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(1, grid[0] * grid[1], generator=generator)
    try:
        sample(strategy, 1, grid, ratio, generator, scores, **given)
    except Refused:
        raise
    except Exception as error:
        if str(getattr(find("masks", strategy), "__name__", "")).startswith("mimlab."):
            raise  # a fault of ours is no setting
        said = f"{type(error).__name__}: {error}"
        raise Refused(f"mask = {shown(_name(strategy))}: rank(batch, grid, generator) raised {said}") from error


def _functions(strategy):
    module = find("masks", strategy)
    if not callable(getattr(module, "rank", None)):
        raise Refused(f"mask = {shown(_name(strategy))} has no function rank(batch, grid, generator, ...)")
    return [module.rank] + ([module.score] if getattr(module, "score", None) else [])


def _ranked(strategy, batch, grid, hidden, generator, scores, given):
    """The checked rank of every patch, (batch, N)."""
    functions = _functions(strategy)
    check_options("mask_args", given, functions, reserved=FILLED)
    if scores is None and looks(strategy):
        raise Refused(f"mask = {shown(_name(strategy))} looks at the images; give `images`, or `scores`")
    rank = functions[0]
    known = options(rank)
    told = {name: value for name, value in given.items() if name in known}
    told |= {name: value for name, value in (("scores", scores), ("goal", hidden)) if name in known}
    return _finite(rank(batch, grid, generator, **told), batch, grid, f"mask = {shown(_name(strategy))} ranked")


def _finite(found, batch, grid, who):
    """A finite float tensor (batch, N), or Refused."""
    wanted, shape = (batch, grid[0] * grid[1]), tuple(getattr(found, "shape", ()))
    if not isinstance(found, torch.Tensor) or shape != wanted or not found.is_floating_point():
        what = f"{shape} {found.dtype}" if isinstance(found, torch.Tensor) else type(found).__name__
        raise Refused(f"{who} as {what}; expected a float tensor of shape {wanted}")
    if not math.isfinite(found.sum()) and lost(found):  # the sum is quicker, but may overflow
        raise Refused(f"{who} some patches not finite; every patch needs a finite number")
    return found


def _name(strategy):
    return getattr(strategy, "__name__", strategy)  # of a module, a function or a name


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
