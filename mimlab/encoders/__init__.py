"""Encoders: adapters over timm that can drop hidden patches or replace them.

The part of a name before the first underscore is the file: `vit_small` is built by `encoders/vit.py`, and `resnet50`
by `encoders/resnet.py`.
"""

import math
import re

import torch
from torch import nn
from torch.nn import functional as F

from mimlab.cores import room
from mimlab.errors import Refused, shown
from mimlab.find import check_options, find, names
from mimlab.layers import Normalise, check_images, patchify, weightless
from mimlab.linear import untouched
from mimlab.masks import PATCHES, visible_ids

POOLS = ("mean", "cls")


def create(name, image_size, patch, **options):
    """The encoder called `name` for images of `image_size` (an int or (height, width)) in `patch`-pixel patches.

    `vit` is CPU-sized (options dim, depth, heads); `vit_tiny`, `vit_small`, `vit_base`, `vit_large` and
    `beit_base`, `beit_large` and `resnet50` are timm's; any full timm name of these families works. Raises `Refused`.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if patch < 1 or height % patch or width % patch:
        raise Refused(
            f"patch_size = {patch} does not divide image_size = {image_size}; try one of: "
            + ", ".join(str(p) for p in range(2, height) if height % p == 0 and width % p == 0)
        )
    try:
        module = find("encoders", family(name))
    except Refused as error:
        raise Refused(f"encoder = {shown(name)}: {error}") from None
    check_options("encoder_args", options, module.create)
    if not module.__name__.startswith(f"{__name__}."):
        return module.create(name, (height, width), patch, **options)  # a user's own need not be timm's
    from mimlab.encoders._agree import agreed

    small = agreed(module, name, patch, options)
    if not small:  # what cannot be is refused before gigabytes are taken
        with weightless():
            module.create(name, (height, width), patch, **options)
    made = module.create(name, (height, width), patch, **options)
    if not small:
        agreed(module, name, patch, options, {key: options[key] for key in ("dim", "depth", "heads") if key in options})
    return made


def family(name):
    """The file that builds `name`; for a timm name without an underscore, such as `resnet50`, its leading letters."""
    if not isinstance(name, str):
        return name
    first = name if "." in name else name.split("_")[0]
    if "." in name or first in names("encoders"):
        return first
    import timm

    return re.match("[a-z]+", first)[0] if timm.is_model(name) else first


def model_name(name, known):
    """timm's name for a short one: `vit_small` is `vit_small_patch16_224`; a full name stays."""
    import timm

    full = known.get(name, name)
    if not timm.is_model(full) and "_patch" not in full:
        full = f"{name}_patch16_224"
    if not timm.is_model(full):
        raise Refused(
            f"encoder = {shown(name)}: timm has no model called {shown(full)}; there are: {', '.join(known)}, or any timm name"
        )
    return full


def sized(name, known, image_size, patch, dim, depth, heads, normalise, sizes=None):
    """timm's full name and the arguments that size it; a bare family name is 192 wide, 6 deep, with 3 heads.

    `sizes` (dim, depth, heads) -> short name, where names differ by these alone: a bare family name of such a size is called so.
    """
    if "_" in name:
        full = model_name(name, known)
    else:
        dim, depth, heads = dim or 192, depth or 6, heads or 3
        full = known[(sizes or {}).get((dim, depth, heads), next(iter(known)))]
    if dim is not None and heads is not None and (heads < 1 or dim % heads):
        good = ", ".join(str(h) for h in range(1, 33) if dim % h == 0)
        raise Refused(f"encoder_args: heads = {heads} does not divide dim = {dim}; heads could be: {good}")
    sizes = {"embed_dim": dim, "depth": depth, "num_heads": heads}
    spec = {key: value for key, value in sizes.items() if value is not None}
    return full, spec | {"img_size": list(image_size), "patch_size": patch, "num_classes": 0}


def build(full, spec, drop_path):
    """timm's model `full`; widths that its heads do not divide are `Refused`."""
    import timm

    from mimlab import blocks

    try:
        trunk = timm.create_model(full, drop_path_rate=drop_path, **spec)
    except Exception as error:  # models of other kinds take other arguments, and each fails in its way
        if "divisible" in str(error):
            raise Refused(f"encoder_args {spec} do not fit {full}: {error}; give dim and heads together") from None
        said = f"{type(error).__name__} {error}".strip()
        raise Refused(f"encoder = {shown(full)} cannot be built by timm with {spec} ({said})") from None
    blocks.adopt(getattr(trunk, "blocks", ()))
    return trunk


def interpolated(table, old, new):
    """Positions (1, h * w, D) of the grid `old` for the grid `new`: bicubic, without antialiasing.

    DINO gives the factor (cells + 0.1) / cells of each side and not the size, which also moves the points where
    the cubic is read. Source: DINO, vision_transformer.py, interpolate_pos_encoding.
    """
    factor = tuple((cells + 0.1) / before for cells, before in zip(new, old, strict=True))
    grid = table.reshape(1, *old, -1).permute(0, 3, 1, 2)  # (1, D, h, w)
    grid = F.interpolate(grid, scale_factor=factor, mode="bicubic", align_corners=False)
    return grid.permute(0, 2, 3, 1).flatten(1, 2)


class Encoder(nn.Module):
    """A transformer over patches, given by its four family-specific parts.

    `trunk` is timm's model, `spec` the arguments of `timm.create_model` that build it again (its state
    dict is what `encoder.safetensors` holds). `grid` = (h, w) patches of `patch` pixels, `dim` the
    width, `prefix` the number of tokens before the patches (CLS first), `can_drop` whether hidden
    patches can be left out, `can_fill` whether they can be replaced, `can_resize` whether images of other sizes than its own can be encoded.
    A family defines `positions()`, `prefix_tokens()`, `run_block()` and `attention_logits()`.
    """

    can_fill = True

    def __init__(self, trunk, spec, grid, patch, prefix, can_drop, normalise, can_resize=False):
        super().__init__()
        self.trunk, self.spec = trunk, spec
        self.grid, self.patch, self.dim = tuple(grid), patch, trunk.embed_dim
        self.prefix, self.can_drop, self.can_resize = prefix, can_drop, can_resize
        self.depth = len(trunk.blocks)
        self.normalise = Normalise(normalise)

    def positions(self):
        """Position tables of the prefix (1, prefix, D) or None, and of the patches (1, N, D) or None."""
        raise NotImplementedError

    def prefix_tokens(self):
        """The learned tokens in front of the patches, (1, prefix, D), or None."""
        raise NotImplementedError

    @property
    def has_cls(self):
        """Whether the first token is a class token; others of the prefix are registers."""
        return self.prefix > 0 and getattr(self.trunk, "cls_token", None) is not None

    @property
    def heads(self):
        """Attention heads of a block."""
        first = self.trunk.blocks[0]
        return getattr(first, "attn", first).num_heads

    def branch_ends(self, block):
        """The last layers of a block's attention and MLP."""
        return block.attn.proj, block.mlp.fc2

    def shrink_branches(self):
        """Divide what block i, from 1, adds to its input by sqrt(2 i) at the start. Source: BEiT, fix_init_weight."""
        for depth, block in enumerate(self.trunk.blocks, start=1):
            for layer in self.branch_ends(block):
                layer.weight.data /= math.sqrt(2 * depth)

    def before_blocks(self, x):
        """What the family does to tokens (B, T, D) between the positions and the first block: nothing."""
        return x

    def run_block(self, index, x, shared, rows=None):
        """Block `index` on tokens `x`, at `rows` if given; `shared` is what `shared_bias` returned."""
        raise NotImplementedError

    def shared_bias(self):
        """What all blocks share (BEiT's relative position bias), or None."""
        return None

    def attention_logits(self, index, x, shared):
        """Attention of block `index` before the softmax, (B, heads, T, T), from its input `x`."""
        raise NotImplementedError

    def set_drop_path(self, rate):
        """Stochastic depth rising linearly from 0 to `rate` over the blocks."""
        from timm.layers import DropPath

        for index, block in enumerate(self.trunk.blocks):
            share = rate * index / max(self.depth - 1, 1)
            for part in list(block.modules()):
                for name, _ in list(part.named_children()):
                    if name.startswith("drop_path"):
                        setattr(part, name, DropPath(share) if share else nn.Identity())

    def to_fine_tune(self):
        """Make trainable what the official fine-tuning codes train and pre-training does not: nothing here."""

    def train_cls(self, wanted):
        """Train, or freeze, what only a loss on CLS reaches: nothing where the patches look at CLS, as here."""

    def cells(self, images):
        """Patches of images (B, 3, H, W) down and across, (h, w); `Refused` where the patch divides no side."""
        height, width = images.shape[2:]
        if height % self.patch or width % self.patch:
            raise Refused(
                f"images of {height} x {width} pixels are no whole number of {self.patch}-pixel patches; the nearest "
                f"that are: {' x '.join(str(max(1, round(side / self.patch)) * self.patch) for side in (height, width))}"
            )
        grid = height // self.patch, width // self.patch
        if grid[0] * grid[1] > PATCHES:
            raise Refused(
                f"images of {height} x {width} pixels are {grid[0]} x {grid[1]} patches of {self.patch} pixels, and "
                f"{PATCHES:,} is the most; use smaller images"
            )
        return grid

    def positions_at(self, grid):
        """`positions()` for images of another `grid`: the patches' table interpolated, the prefix's as it is."""
        front, table = self.positions()
        if tuple(grid) == self.grid:
            return front, table
        if not self.can_resize:
            raise Refused(
                f"{self.spec['model_name']} with a grid of {self.grid} patches cannot encode one of {tuple(grid)}: it "
                "is of one size; use an encoder of the vit family"
            )
        return front, None if table is None else interpolated(table, self.grid, grid)

    def embed(self, images, mask=None, visible=None, fill=None):
        """Tokens before the first block: (B, prefix + n, D); images (B, 3, H, W) in [0, 1].

        H and W may be other multiples of the patch than the encoder was built for, where it `can_resize`. A mask that
        drops may have k * B rows: k looks at the same images, one after another.
        """
        front, table = self.positions_at(self.cells(check_images(images)))
        projection = getattr(self.trunk.patch_embed, "proj", None)
        plain = untouched(self.trunk.patch_embed, type(self.trunk.patch_embed)) and untouched(projection, nn.Conv2d)
        x = patchify(images, self.patch) if plain else self.called(images)  # (B, N, 3 * patch * patch), or (B, N, D)
        ids = None
        if mask is not None and fill is None:
            if not self.can_drop:
                raise Refused(
                    f"{self.spec['model_name']} cannot leave hidden patches out: its position bias needs the whole "
                    "grid; use an encoder of the vit family, or a method that replaces them (beit)"
                )
            ids = visible_ids(mask, int((~mask[0]).sum()) if visible is None else visible)
            first = torch.arange(len(ids), device=x.device)[:, None] % len(x) * x.shape[1]  # each image's first patch
            x = F.embedding(ids + first, x.flatten(0, 1))  # only visible patches are embedded
        if plain:
            x = F.linear(self.normalise.patches(x), projection.weight.flatten(1), projection.bias)  # (B, n, D)
        if fill is not None:
            x = torch.where(mask[..., None], fill.to(x.dtype), x)  # before the position, as BEiT
        if table is not None:
            x = x + (table if ids is None else F.embedding(ids, table[0]))
        if self.prefix:
            first = self.prefix_tokens() if front is None else self.prefix_tokens() + front
            x = torch.cat([first.expand(len(x), -1, -1).to(x.dtype), x], dim=1)
        return self.before_blocks(x)

    def called(self, images):
        """Embedded patches (B, N, D) by timm's own layers, which are wrapped or seen by hooks: hidden patches too."""
        embedding, x = self.trunk.patch_embed, self.normalise(images)
        if self.cells(images) == self.grid:
            return embedding(x)
        return embedding.norm(embedding.proj(x).flatten(2).transpose(1, 2))

    def tokens(self, images, mask=None, visible=None, fill=None, rows=None):
        """Tokens after the last block and before the final norm: all, (B, prefix + n, D), or those at `rows`."""
        x, shared = self.embed(images, mask, visible, fill), self.shared_bias()
        for index in range(self.depth):
            x = self.run_block(index, x, shared, rows if index == self.depth - 1 else None)
        return x

    def forward(self, images, mask=None, visible=None, fill=None, rows=None):
        """CLS (B, D) or None, and patches, after the final norm.

        No mask: all patches (B, N, D). Mask: hidden ones dropped before the blocks, (B, V, D), in
        raster order; `visible` = V spares counting. Mask and `fill` (D): hidden ones replaced, (B, N, D). `rows` int64
        (B, M): these patches alone and no CLS, None and (B, M, D); the last block computes nothing else.
        """
        if rows is not None:
            return None, self.trunk.norm(self.tokens(images, mask, visible, fill, rows + self.prefix))
        x = self.trunk.norm(self.tokens(images, mask, visible, fill))
        return (x[:, 0] if self.has_cls else None), x[:, self.prefix :]

    def class_token(self, images):
        """CLS after the final norm, (B, D): the last block computes nothing else."""
        if not self.has_cls:
            raise Refused("pool = 'cls': this encoder has no class token; use pool = 'mean'")
        return self.trunk.norm(self.tokens(images, rows=slice(0, 1)))[:, 0]

    def features(self, images, pool="mean"):
        """One vector an image, (B, D): the mean of the patch tokens, or CLS; after the final norm.

        That norm is timm's: of each token before the mean, or of the vector (`fc_norm`), as the name says.
        """
        found = self.class_token(images) if pool == "cls" else self(images)[1].mean(dim=1)
        return self.trunk.fc_norm(found) if hasattr(self.trunk, "fc_norm") else found

    def maps(self, images, layers):
        """Feature maps (B, D, h, w) after the blocks in `layers` (0-based), without a norm, for dense tasks."""
        x, shared, found = self.embed(images), self.shared_bias(), {}
        for index in range(self.depth):
            x = self.run_block(index, x, shared)
            if index in layers:
                found[index] = x[:, self.prefix :].transpose(1, 2).unflatten(2, self.cells(images))
        return [found[index] for index in layers]

    def attention(self, images, layers):
        """Softmax attention {layer: (B, heads, T, T)} of the layers asked for only; T = prefix + N.

        The weights are recomputed from each block's input, so all blocks keep their fused kernel.
        """
        wrong = [layer for layer in layers if not 0 <= layer < self.depth]
        if wrong:
            raise Refused(f"layers = {wrong}: this encoder has layers 0 to {self.depth - 1}")
        tokens = self.prefix + math.prod(self.cells(images))
        room(
            (images.device.type == "cpu") * 4 * len(images) * self.heads * tokens**2 * (len(set(layers)) + 1),
            f"attention of {len(set(layers))} layers of {len(images)} images with {tokens:,} tokens; ask for fewer, or use "
            "a smaller image_size",
        )
        x, shared, found = self.embed(images), self.shared_bias(), {}
        for index in range(max(layers) + 1):
            if index in layers:
                found[index] = self.attention_logits(index, x, shared).softmax(dim=-1)
                if index == max(layers):
                    break
            x = self.run_block(index, x, shared)
        return found
