"""What three methods use: patches, pixel statistics, positions, schedules, token counts."""

import contextlib
import math

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from mimlab.errors import Refused

# The only place that knows means and deviations; images are [0, 1] everywhere else.
PIXELS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


@contextlib.contextmanager
def exact(device):
    """float32 in full on a torch `device`: without autocast, and on a GPU without TF32, which keeps as many bits as fp16."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, enabled=False))
        for part, name, full in tf32() if device.type == "cuda" else ():
            stack.callback(setattr, part, name, getattr(part, name))
            setattr(part, name, full)
        yield


def tf32():
    """TF32's switches, of convolutions and of products, and what they say without it; torch 2.9 has others than before."""
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    if hasattr(products, "fp32_precision"):
        return (convolutions.conv, "fp32_precision", "ieee"), (products, "fp32_precision", "ieee")
    return (convolutions, "allow_tf32", False), (products, "allow_tf32", False)


# what fills a tensor in place and leaves its shape; on meta nothing of it is there
FILLS = {"add_", "clamp_", "copy_", "erfinv_", "fill_", "mul_", "normal_", "uniform_", "zero_"}


class _Unfilled(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensor = args[0] if args else kwargs.get("tensor")  # as torch.nn.init names it
        if getattr(function, "__name__", "") in FILLS and isinstance(tensor, torch.Tensor) and tensor.is_meta:
            return tensor
        return function(*args, **kwargs)


@contextlib.contextmanager
def weightless():
    """Modules built inside have shapes and no memory; no random number is drawn, and no weight drawn on meta.

    Each operation on meta goes through Python, and initial weights are most of a model's.
    """
    with torch.device("meta"), torch.random.fork_rng(devices=[]), _Unfilled():
        yield


def check_images(images, look=False):
    """The images, if they are float, meant to lie in [0, 1]; else `Refused`. `look`: at their values too, for which a GPU is waited for."""
    if not images.is_floating_point():
        raise Refused(
            f"images are {str(images.dtype).removeprefix('torch.')}; they should be float in [0, 1], such as images / 255"
        )
    if look and type(images) is torch.Tensor and images.numel() and not torch.compiler.is_compiling():
        low, high = (float(end) for end in images.detach().aminmax())
        if not -1e-3 <= low <= high <= 1 + 1e-3:  # also where a value is NaN
            raise Refused(
                f"images reach from {low:.4g} to {high:.4g}; they should be in [0, 1]: divide by their largest value, or, where "
                "mean and deviation were taken out, images * deviation + mean"
            )
    return images


class Normalise(nn.Module):
    """Pixels [0, 1] to what a network was trained on, and `back` again.

    `name` is a key of `PIXELS`. Images (B, 3, H, W).
    """

    def __init__(self, name):
        super().__init__()
        mean, std = PIXELS[name]
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images):
        return (images - self.mean) / self.std

    def patches(self, patches):
        """The same for patches as `patchify` makes them, (B, N, 3 * patch * patch)."""
        colours = patches.unflatten(2, (3, -1))  # (B, N, 3, patch * patch)
        return ((colours - self.mean.view(3, 1)) / self.std.view(3, 1)).flatten(2)

    def back(self, images):
        return images * self.std + self.mean


def patchify(images, patch, channels_last=False):
    """Images (B, C, H, W) as patches in raster order: (B, N, C * patch * patch).

    Inside a patch: channel, row, column, as a convolution's flattened weight; with `channels_last`
    row, column, channel, as MAE's targets (models_mae.py, patchify).
    """
    b, c, height, width = images.shape
    x = images.reshape(b, c, height // patch, patch, width // patch, patch)
    order = (0, 2, 4, 3, 5, 1) if channels_last else (0, 2, 4, 1, 3, 5)
    return x.permute(order).reshape(b, (height // patch) * (width // patch), c * patch * patch)


def unpatchify(patches, grid, patch, channels_last=False):
    """The inverse of `patchify`: (B, N, C * patch * patch) to images (B, C, H, W); `grid` = (h, w)."""
    b, (h, w) = patches.shape[0], grid
    c = patches.shape[2] // (patch * patch)
    if channels_last:
        x = patches.reshape(b, h, w, patch, patch, c).permute(0, 5, 1, 3, 2, 4)
    else:
        x = patches.reshape(b, h, w, c, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(b, c, h * patch, w * patch)


def sincos_2d(dim, grid, cls=False):
    """Fixed 2-D sine-cosine positions, (N, dim), or (1 + N, dim) with a zero row for CLS.

    The column half comes first, then the row half; each is sin then cos at frequencies
    10000^(-k / (dim / 4)), computed in float64. Source: MAE, util/pos_embed.py.
    """
    h, w = grid
    frequency = 10000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))

    def encode(position):  # (N,) -> (N, dim / 2)
        angle = position[:, None] * frequency[None]
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    rows = torch.arange(h, dtype=torch.float64).repeat_interleave(w)
    columns = torch.arange(w, dtype=torch.float64).repeat(h)
    table = torch.cat([encode(columns), encode(rows)], dim=1).float()
    return torch.cat([torch.zeros(1, dim), table]) if cls else table


def resize_positions(table, old, new, prefix=1):
    """A learned table (1, prefix + h*w, D) for another grid: bicubic by size, no antialias, prefix rows kept.

    Source: MAE, util/pos_embed.py, interpolate_pos_embed.
    """
    if tuple(old) == tuple(new):
        return table
    kept, grid = table[:, :prefix], table[:, prefix:]
    grid = grid.reshape(1, *old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=tuple(new), mode="bicubic", align_corners=False)
    return torch.cat([kept, grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def lost(*tensors):
    """How many numbers of `tensors` are not finite, an int; their device is waited for once."""
    return int(sum((~torch.isfinite(x.detach())).sum() for x in tensors))


def resampled(images, size, mode="bicubic"):
    """Images (B, C, H, W) at `size` (h, w), antialiased; on the CPU where torch has no such kernel for their device (MPS before 2.8)."""
    given = {"size": tuple(size), "mode": mode, "antialias": True, "align_corners": False}
    try:
        return F.interpolate(images, **given)
    except NotImplementedError:
        if images.device.type == "cpu":
            raise
        return F.interpolate(images.cpu(), **given).to(images.device)


SCHEDULES = ("fraction", "table", "step")
HELD = 7 / 8  # of training before the drop of "step": SimMIM's epoch 700 of 800


def schedule(step, steps, warmup, base, start=0.0, end=0.0, shape="fraction"):
    """Learning rate at `step` of `steps`: linear warm-up over `warmup` steps, then half a cosine to `end`.

    MAE's rule (util/lr_sched.py) is a function of the fraction of training: `base` is reached at the
    step after the warm-up. "table" is BEiT's and DINO's (utils.py, cosine_scheduler): the last
    warm-up step already has `base`, and the next one has it again. "step" is SimMIM's (lr_scheduler.py, multistep):
    no cosine, `base` until `HELD` of training, then `end`.
    """
    if step < warmup:
        share = step / max(warmup - 1, 1) if shape == "table" else step / warmup
        return start + (base - start) * share
    if shape == "step":
        return base if step < round(HELD * steps) else end
    share = (step - warmup) / (steps - warmup)
    return end + (base - end) * 0.5 * (1.0 + math.cos(math.pi * share))


def decay_groups(model, weight_decay, spared=()):
    """Two AdamW groups of the trainable parameters: decayed, and not.

    One-dimensional parameters and biases are never decayed (timm's rule, used by MAE, BEiT and
    DINO); `spared` names further ones by the last part of their name, such as BEiT's `pos_embed`.
    """
    kept, free = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            bare = parameter.ndim <= 1 or name.endswith(".bias") or name.split(".")[-1] in spared
            (free if bare else kept).append(parameter)
    groups = [
        {"params": kept, "weight_decay": weight_decay, "decays": True},
        {"params": free, "weight_decay": 0.0, "decays": False},
    ]
    return [group for group in groups if group["params"]]


def token_logs(ids, accuracy, vocab):
    """What every token-predicting method logs, without waiting for the device.

    `ids` (B, N) all tokens of the batch; `accuracy` of those predicted. It stands beside what guessing reaches:
    `token_uniform` (1 / V) and `token_majority` (the batch's most frequent token).
    """
    counts = torch.zeros(vocab, device=ids.device).scatter_add_(
        0, ids.flatten(), torch.ones_like(ids.flatten(), dtype=torch.float)
    )
    share = counts / counts.sum()
    return {
        "token_accuracy": accuracy,
        "token_majority": share.max(),
        "token_uniform": torch.full((), 1.0 / vocab, device=ids.device),
        "tokens_used": (counts > 0).float().sum(),
        "token_entropy_bits": -(share * share.clamp_min(1e-12).log2()).sum(),
    }


def judge_tokens(logits, ids):
    """Cross-entropy of every patch, (B, N), and whether its most probable token is true: logits (B, N, V), ids (B, N)."""
    loss = F.cross_entropy(logits.transpose(1, 2), ids, reduction="none")
    return loss, logits.argmax(dim=2) == ids


def xavier(module):
    """MAE's initialisation of a Linear or LayerNorm (models_mae.py, _init_weights); use with `apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


def truncated(module, std=0.02, at=2.0):
    """Truncated normal for every Linear, zero biases, unit norms; cut at `at` (in units of `std`).

    BEiT's pre-training cuts at one deviation (modeling_pretrain.py); ViT's code in practice never cuts.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=std, a=-at * std, b=at * std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
