"""What turns an encoder's maps into the class of every cell.

`Linear` is BatchNorm and a 1 x 1 convolution on the last map, DINOv2's linear head (facebookresearch/dinov2, eval/segmentation, BNHead).
`Uper` is UperNet (Xiao et al. 2018, arXiv 1807.10221; mmsegmentation, uper_head.py) on XCiT's pyramid of four depths, as BEiT's
and SplitMask's segmentation.

Differs from the paper: no auxiliary head of 0.4 times the loss on the third map.
"""

import torch
from torch import nn
from torch.nn.functional import interpolate

from mimlab.detection.neck import Neck
from mimlab.encoders.xcit import BatchNorm

BINS = (1, 2, 3, 6)  # cells of pyramid pooling, a side


class Linear(nn.Module):
    """Maps [(B, D, h, w)] to logits (B, classes, h, w) of the last one."""

    def __init__(self, dim, classes):
        super().__init__()
        self.norm, self.classify = BatchNorm(dim), nn.Conv2d(dim, classes, 1)
        nn.init.normal_(self.classify.weight, std=0.01)
        nn.init.zeros_(self.classify.bias)

    def forward(self, maps):
        return self.classify(self.norm(maps[-1]))


class Uper(nn.Module):
    """Four maps (B, D, h, w) of stride `patch` to logits (B, classes, H / 4, W / 4)."""

    def __init__(self, dim, patch, classes, channels):
        super().__init__()
        self.neck = Neck(dim, patch)
        self.pooled = nn.ModuleList(_conv(dim, channels, 1) for _ in BINS)
        self.bottleneck = _conv(dim + len(BINS) * channels, channels, 3)
        self.lateral = nn.ModuleList(_conv(dim, channels, 1) for _ in range(3))
        self.smooth = nn.ModuleList(_conv(channels, channels, 3) for _ in range(3))
        self.fuse = _conv(4 * channels, channels, 3)
        self.classify = nn.Conv2d(channels, classes, 1)

    def forward(self, maps):
        maps = self.neck(maps)
        last = maps[-1]
        context = [
            resized(conv(nn.functional.adaptive_avg_pool2d(last, bins)), last)
            for bins, conv in zip(BINS, self.pooled, strict=True)
        ]
        levels = [conv(x) for conv, x in zip(self.lateral, maps, strict=False)]
        levels.append(self.bottleneck(torch.cat([last, *context], dim=1)))
        for k in (2, 1, 0):
            levels[k] = levels[k] + resized(levels[k + 1], levels[k])
        levels = [*(conv(x) for conv, x in zip(self.smooth, levels, strict=False)), levels[-1]]
        return self.classify(self.fuse(torch.cat([resized(x, levels[0]) for x in levels], dim=1)))


def resized(x, like):
    """A map at the size of another, bilinear."""
    return interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def _conv(inputs, outputs, kernel):
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, BatchNorm(outputs), nn.ReLU())
