"""XCiT: Cross-Covariance Image Transformers (El-Nouby et al. 2021, arXiv 2106.09681), timm's `Xcit` underneath.

1. A stack of 3 x 3 convolutions of stride 2 with BatchNorm makes patches of 16 or 8 pixels (section 3.3), and
   Fourier positions of any grid are added.
2. Blocks of cross-covariance attention, which mixes channels at a cost linear in the patches, and of local patch
   interaction, two 3 x 3 depth-wise convolutions over the grid (sections 3.2, 3.3). Hence the whole grid is needed:
   hidden patches cannot be left out, but they can be replaced.
3. Only then comes CLS, and two class-attention layers (CaiT's) in which CLS looks at the patches, and the patches at
   nothing. `maps` are the blocks' outputs, before these layers.

Official code: facebookresearch/xcit, xcit.py.

Differs from the paper:
- For masked images, which the paper does not have, hidden pixels get the mean colour before the convolutions, and
  the embeddings of hidden patches are replaced after them. Without the first step pixels would leak: a patch's
  embedding also sees the 15 pixels (7 for 8-pixel patches) above and to the left of it, all but one of a
  neighbour's. BatchNorm then learns the statistics of images with holes.
- Running statistics of BatchNorm move in the backward pass, so that `forward` alone changes nothing; where there is
  no gradient (a teacher), when the method asks for it after the step. The official SyncBatchNorm, over all processes, works on CPUs too.
"""

from functools import partial
from typing import Annotated

import torch
from torch import nn
from torch.nn import functional as F

from mimlab import kinds
from mimlab.attention import pick
from mimlab.distributed import gather, world
from mimlab.encoders import Encoder, build, sized
from mimlab.errors import Refused, shown
from mimlab.layers import check_images
from mimlab.masks import pixels

KNOWN = {
    "xcit_nano": "xcit_nano_12_p16_224",
    "xcit_tiny": "xcit_tiny_12_p16_224",
    "xcit_small": "xcit_small_12_p16_224",
    "xcit_medium": "xcit_medium_24_p16_224",
    "xcit_large": "xcit_large_24_p16_224",
}
PATCHES = (8, 16)  # what timm has a stack of convolutions for
NARROWEST = 8  # the first convolution has an eighth of the width


def create(
    name,
    image_size,
    patch,
    *,
    dim: kinds.Width | None = None,
    depth: kinds.Depth | None = None,
    heads: kinds.Heads | None = None,
    drop_path: Annotated[float, (0.0, 0.9)] = 0.0,
    normalise: kinds.Pixels = "imagenet",
):
    """`xcit` (default 192 wide, 6 deep, 3 heads), or a timm XCiT whose dim, depth and heads may be overridden.

    `patch`: 8 or 16 pixels, also against the name. `normalise`: a key of `layers.PIXELS`.
    """
    if patch not in PATCHES:
        raise Refused(
            f"patch_size = {patch}: xcit's convolutions make patches of 8 or 16 pixels; use patch_size = 8 and an "
            "image_size that is a multiple of 8, such as 32"
        )
    if dim is not None and dim < NARROWEST:
        raise Refused(f"encoder_args: dim = {dim} is too narrow for xcit's convolutions; use {NARROWEST} or more")
    full, spec = sized(name, KNOWN | full_name(name), image_size, patch, dim, depth, heads, normalise)
    return XCiT(full, spec, patch, drop_path, normalise)


def full_name(name):
    """{name: name} if timm knows it, which its XCiTs' `_p16_` does not tell; `Refused` for an unknown one."""
    import timm

    if name == "xcit" or name in KNOWN:
        return {}
    if not timm.is_model(name):
        raise Refused(
            f"encoder = {shown(name)}: timm has no model of this name; there are: xcit, {', '.join(KNOWN)}, "
            f"{', '.join(timm.list_models('xcit_*'))}"
        )
    return {name: name}


class XCiT(Encoder):
    """timm's XCiT: hidden patches replaced, any image size; `embed` and the blocks have no CLS, `tokens` has."""

    def __init__(self, full, spec, patch, drop_path, normalise):
        trunk = build(full, spec, drop_path)
        height, width = spec["img_size"]
        grid = (height // patch, width // patch)
        super().__init__(trunk, {"model_name": full, **spec}, grid, patch, 1, False, normalise, can_resize=True)
        heads = trunk.blocks[0].attn.num_heads
        if self.dim % heads:
            raise Refused(
                f"encoder_args: dim = {self.dim} does not fit the {heads} heads of {full}; give both together"
            )
        for module in list(trunk.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    setattr(module, name, BatchNorm(child.num_features))

    def positions(self):
        return self.positions_at(self.grid)

    def positions_at(self, grid):
        """None, as CLS has no position, and the Fourier positions of a grid, (1, h * w, D)."""
        return None, self.trunk.pos_embed(1, *grid).flatten(2).transpose(1, 2)

    def prefix_tokens(self):
        return self.trunk.cls_token

    def run_block(self, index, x, shared, rows=None):
        """Block `index` on patches `x`, (B, N, D), always all of them; `shared` is their grid."""
        return self.trunk.blocks[index](x, *shared)

    def set_drop_path(self, rate):
        """Stochastic depth of the same `rate` in every block, as in the official code; none in class attention."""
        from timm.layers import DropPath

        for block in self.trunk.blocks:
            for name in ("drop_path1", "drop_path2", "drop_path3"):
                setattr(block, name, DropPath(rate) if rate else nn.Identity())

    def train_cls(self, wanted):
        """Train, or freeze, what CLS alone needs: CLS itself, and most of the class-attention layers.

        A loss on patches gives it gradients of 0, and AdamW's weight decay would shrink it.
        """
        self.trunk.cls_token.requires_grad_(wanted)
        for block in self.trunk.cls_attn_blocks:
            block.attn.requires_grad_(wanted)
            block.mlp.requires_grad_(wanted)
            block.gamma2.requires_grad_(wanted)
            if not block.tokens_norm:
                block.norm2.requires_grad_(wanted)

    def embed(self, images, mask=None, visible=None, fill=None):
        """Patches before the first block, without CLS: (B, N, D); images (B, 3, H, W) in [0, 1].

        H and W may be any multiples of the patch. With a mask, hidden pixels are blanked before the convolutions.
        """
        grid = self.cells(check_images(images))
        if mask is not None and fill is None:
            raise Refused(
                f"{self.spec['model_name']} cannot leave hidden patches out: its local patch interaction needs the whole "
                "grid; use a method that replaces them (beit, simmim), or an encoder of the vit family"
            )
        x = self.normalise(images)
        if mask is not None:
            x = x.masked_fill(pixels(mask, grid, x.shape[2:]), 0.0)
        x, _ = self.trunk.patch_embed(x)
        if mask is not None:
            x = torch.where(mask[..., None], fill.to(x.dtype), x)
        return x + self.positions_at(grid)[1]

    def tokens(self, images, mask=None, visible=None, fill=None, rows=None):
        """CLS and patches after the class-attention layers and before the final norm, (B, 1 + N, D), or those at `rows`."""
        x, grid = self.embed(images, mask, visible, fill), self.cells(images)
        for index in range(self.depth):
            x = self.run_block(index, x, grid)
        return pick(self.trunk.forward_cls(x), rows)

    def maps(self, images, layers):
        """Feature maps (B, D, h, w) after the blocks in `layers` (0-based), without a norm, for dense tasks.

        Source: detection/backbone/xcit.py, which has no class-attention layers.
        """
        x, grid, found = self.embed(images), self.cells(images), {}
        for index in range(max(layers) + 1):
            x = self.run_block(index, x, grid)
            if index in layers:
                found[index] = x.transpose(1, 2).unflatten(2, grid)
        return [found[index] for index in layers]

    def attention(self, images, layers):
        """`Refused`: no block has attention between patches."""
        raise Refused(
            f"{self.spec['model_name']}: its blocks attend across channels, not between patches; there are "
            "class_attention(images), of CLS to the patches, and cross_covariance(images, layers)"
        )

    @torch.no_grad()
    def class_attention(self, images):
        """Softmax attention of CLS in the class-attention layers, {layer: (B, heads, 1, 1 + N)}, 0 being the first."""
        x, grid, found = self.embed(images), self.cells(images), {}
        for index in range(self.depth):
            x = self.run_block(index, x, grid)
        x = torch.cat([self.trunk.cls_token.expand(len(x), -1, -1), x], dim=1)
        for index, block in enumerate(self.trunk.cls_attn_blocks):
            attn, seen = block.attn, block.norm1(x)
            q, k = (y.unflatten(2, (attn.num_heads, -1)).transpose(1, 2) for y in (attn.q(seen[:, :1]), attn.k(seen)))
            found[index] = (q @ k.transpose(-2, -1) * attn.scale).softmax(dim=-1)
            x = block(x)
        return found

    @torch.no_grad()
    def cross_covariance(self, images, layers):
        """Softmax attention of channels to channels, {layer: (B, heads, D / heads, D / heads)}; rows are outputs.

        Queries and keys have length 1 over the patches, and each head its temperature (equation 2).
        """
        wrong = [layer for layer in layers if not 0 <= layer < self.depth]
        if wrong:
            raise Refused(f"layers = {wrong}: this encoder has layers 0 to {self.depth - 1}")
        x, grid, found = self.embed(images), self.cells(images), {}
        for index in range(max(layers) + 1):
            if index in layers:
                block = self.trunk.blocks[index]
                qkv = block.attn.qkv(block.norm1(x)).unflatten(2, (3, block.attn.num_heads, -1))
                q, k, _ = qkv.permute(2, 0, 3, 4, 1)  # (B, heads, D / heads, N) each
                logits = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
                found[index] = (logits * block.attn.temperature).softmax(dim=-1)
            x = self.run_block(index, x, grid)
        return found


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm over the images of all processes, (B, C, h, w), whose running statistics move with the gradient.

    Those of batches without one wait for `take_in`.
    """

    waiting = ()

    def forward(self, x):
        if self.training:
            out, found = self.together(x) if world() > 1 else self.alone(x)
        else:
            out, found = super().forward(x), None
        if out.requires_grad:
            out.register_hook(partial(self.learn, found))
        elif found:
            self.waiting = (*self.waiting, found)
        return out

    def alone(self, x):
        """Output, and the batch's mean and unbiased variance, (C,) each."""
        mean, var = torch.zeros_like(self.running_mean), torch.ones_like(self.running_var)
        out = F.batch_norm(x, mean, var, self.weight, self.bias, True, 1.0, self.eps)  # with momentum 1 it writes them
        return out, (mean, var)

    def together(self, x):
        """The same over all processes, which have equally many values."""
        full = x.float()
        own = torch.stack(torch.var_mean(full, dim=(0, 2, 3), unbiased=False))[None]
        variances, means = gather(own).unbind(1)  # (processes, C)
        mean, var = means.mean(dim=0), variances.mean(dim=0) + means.var(dim=0, unbiased=False)
        scale = self.weight * (var + self.eps).rsqrt()
        out = (full - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]
        count = world() * x.numel() / x.shape[1]
        return out.to(x.dtype), (mean.detach(), var.detach() * count / (count - 1))

    def learn(self, found, gradient):
        """With the output's gradient; torch 2.14 on CPUs errs where that of one image comes transposed."""
        if found:
            self.settle(*found)
        return gradient.contiguous() if len(gradient) == 1 else gradient

    def take_in(self):
        """Move the running statistics by the batches that wait, in their order."""
        for found in self.waiting:
            self.settle(*found)
        self.waiting = ()

    @torch.no_grad()
    def settle(self, mean, var):
        """Take a batch's mean and unbiased variance, (C,), into the running ones."""
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var, self.momentum)
        self.num_batches_tracked += 1
