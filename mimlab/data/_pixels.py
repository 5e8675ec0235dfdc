"""What augmentation does to pixels, for whole batches: resized crops, grey, hue, blur; no chance is in here.

In place and without choices between values (`torch.where` on noise stalls a processor at every other pixel), since on
small models the augmentation of a multi-crop is a twentieth of the step.
"""

import torch
import torch.nn.functional as F

DENSE = 48  # up to this side one batched product beats a loop over images on a CPU
GREY = (0.2989, 0.587, 0.114)  # torchvision's


def resized_crops(images, boxes, flipped, size, mode="bicubic"):
    """Crops of uint8 images, antialiased and perhaps mirrored: float (B, 3, size, size) in [0, 1].

    mode: bicubic or bilinear. boxes: int64 (B, 4) on the CPU; flipped: bool (B,) on the CPU; with V * B of both each image is cut V times. Small
    images and accelerators take the batched product, large images on a CPU torch's own uint8 kernel, one image at a time
    (2 to 6 times as fast from 64 pixels).
    """
    if images.device.type != "cpu" or max(*images.shape[2:], size) <= DENSE:
        return _crops_at_once(images, boxes, flipped, size, mode)
    return _crops_one_by_one(images, boxes, flipped, size, mode)


def _crops_at_once(images, boxes, flipped, size, mode="bicubic"):
    if len(boxes) > len(images):
        images = images.repeat(len(boxes) // len(images), 1, 1, 1)
    batch, channels, height, width = images.shape
    top, left, h, w = boxes.to(images.device).unbind(1)
    rows = _weights(top, h, height, size, mode)  # (B, size, H)
    columns = _weights(left, w, width, size, mode)  # (B, size, W)
    columns = torch.where(flipped.to(images.device)[:, None, None], columns.flip(1), columns)
    x = images.float().reshape(batch, channels * height, width)
    x = torch.bmm(x, columns.transpose(1, 2)).reshape(batch, channels, height, size)
    return torch.matmul(rows[:, None], x).div_(255).clamp_(0, 1)


def _crops_one_by_one(images, boxes, flipped, size, mode="bicubic"):
    if len(boxes) > len(images):  # the kernel's own order, which it would otherwise make for every crop anew
        images = images.contiguous(memory_format=torch.channels_last)
    out = torch.empty(len(boxes), 3, size, size, dtype=torch.uint8)
    for i, (top, left, h, w) in enumerate(boxes.tolist()):
        k = i % len(images)
        crop = images[k : k + 1, :, top : top + h, left : left + w]
        if (h, w) != (size, size):
            crop = F.interpolate(crop, (size, size), mode=mode, antialias=True)
        out[i] = crop[0].flip(2) if flipped[i] else crop[0]
    return out.float().div_(255)


def _weights(start, length, full, size, mode="bicubic"):
    """Antialiased resampling of [start, start + length) to `size`: float (B, size, full), rows sum to
    1.

    The cubic of Keys (1981) with a = -0.5, or the triangle (`mode` bilinear), widened by the factor of reduction: Pillow's
    and torch's rule.
    """
    step = (length / size)[:, None]  # (B, 1)
    centre = start[:, None] + (torch.arange(size, device=start.device) + 0.5) * step  # (B, size)
    pixel = torch.arange(full, device=start.device)
    u = (pixel + 0.5 - centre[..., None]).div_(step.clamp(min=1)[..., None]).abs_().neg_().add_(2).clamp_(min=0)
    # with u = 2 - |x|, t = 1 - |x|, each at least 0, the cubic is u^2 (u - 1) / 2 + t^2 (1 - 2 t): no choice to be made
    t = u - 1  # (B, size, full)
    if mode == "bilinear":
        weights = t.clamp_(min=0)
    else:
        weights = (t * u).mul_(u).div_(2)
        t.clamp_(min=0)
        weights.add_((t * t).mul_(t.mul_(-2).add_(1)))
    inside = (pixel >= start[:, None]) & (pixel < (start + length)[:, None])  # (B, full)
    weights.mul_(inside[:, None])
    return weights.div_(weights.sum(dim=2, keepdim=True))


def luma(x):
    """Grey value of RGB images: (B, 3, H, W) -> (B, 1, H, W)."""
    r, g, b = x.unbind(1)
    return (GREY[0] * r).add_(g, alpha=GREY[1]).add_(b, alpha=GREY[2]).unsqueeze(1)


def shift_hue(x, shift):
    """Turn the hue of RGB images (B, 3, H, W) by `shift` (B,) of a full circle."""
    high, low = x.amax(dim=1), x.amin(dim=1)  # (B, H, W)
    chroma = high - low
    r, g, b = x.unbind(1)
    # products with 0 and 1, where a choice by `where` would stall the processor at every edge in the image
    red = torch.eq(high, r, out=torch.empty_like(high))
    green = torch.eq(high, g, out=torch.empty_like(high)).mul_(1 - red)
    blue = 1 - red - green
    hue = (red * (g - b)).add_(green * (b - r)).add_(blue * (r - g)).div_(chroma.clamp(min=1e-12))
    hue.add_(green.mul_(2)).add_(blue.mul_(4))
    hue.div_(6).add_(shift[:, None, None])
    hue.sub_(hue.floor()).mul_(6)
    # value - chroma * share; a channel's share is 0 within a sixth of the circle from its own hue, 1 beyond a third
    out = torch.empty_like(x)
    for channel, opposite in enumerate((3, 2, 4)):  # of red, whose own hue is 0, the distance is 3 - |hue - 3|
        share = (hue - opposite).abs_().sub_(1 if channel else 2)
        share = (share if channel else share.neg_()).clamp_(0, 1)
        torch.sub(high, share.mul_(chroma), out=out[:, channel])
    return out


def blur(x, sigma, radius):
    """Gaussian blur of images (B, 3, H, W), each with its own `sigma` (B,) in pixels, cut at `radius`.

    The border is mirrored. Two batched products, with a matrix of weights for the rows and one for the columns.
    """
    batch, channels, height, width = x.shape
    radius = min(radius, height - 1, width - 1)  # what mirroring can fill
    offset = torch.arange(-radius, radius + 1, device=x.device)
    kernel = torch.exp(-0.5 * (offset / sigma[:, None]) ** 2)  # (B, 2 * radius + 1)
    kernel = F.threshold(kernel, 1e-12, 0)  # products with denormal numbers take a hundred times as long
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    columns = _mirrored(kernel, width)
    rows = columns if height == width else _mirrored(kernel, height)
    y = torch.bmm(columns, x.reshape(batch, channels * height, width).transpose(1, 2))  # (B, W, C * H)
    y = torch.bmm(y.view(batch, width * channels, height), rows.transpose(1, 2))
    return y.view(batch, width, channels, height).permute(0, 2, 3, 1)


def _mirrored(kernel, side):
    """Weights that smooth a line of `side` pixels with each kernel (B, 2 * radius + 1): (B, side, side), rows sum to 1."""
    radius = kernel.shape[1] // 2
    pixel = torch.arange(side, device=kernel.device)
    seen = pixel[:, None] + torch.arange(-radius, radius + 1, device=kernel.device)  # (side, 2 * radius + 1)
    seen = (side - 1) - ((side - 1) - seen.abs()).abs()
    weights = kernel.new_zeros(len(kernel), side, side)
    return weights.scatter_add_(2, seen.expand(len(kernel), -1, -1), kernel[:, None].expand(-1, side, -1))
