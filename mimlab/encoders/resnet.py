"""Residual networks (He et al. 2015, arXiv 1512.03385), timm's `ResNet` underneath.

A ResNet has neither tokens nor a place for a mask embedding, so hidden patches can be neither left out nor replaced.
It suits methods that show it a whole image: `cim`, whose point it is that any network can learn from a corrupted
image, and `supervised`. Its last map, resized to the token grid (bilinear), stands for the patches.

Differs from the paper: with patches of fewer than 16 pixels the last stages are dilated instead of strided (timm's
`output_stride`; same weights, same names), since a stride of 32 leaves one cell of a small image. Running statistics of
BatchNorm move in the backward pass, over all processes (see `encoders/xcit.py`), so that `forward` changes nothing.

In bf16 on a processor without AVX-512 or AMX oneDNN has no fast convolution: measured with AVX2, one thread, resnet18, 4 images of
64 pixels, the backward pass took 3.0 s for 0.16 s in float32 (1.0 s with weights in channels-last). Use precision = "no" there.
"""

from typing import Annotated, Literal

from torch import nn
from torch.nn.functional import interpolate

from mimlab import kinds
from mimlab.encoders import Encoder
from mimlab.encoders.xcit import BatchNorm
from mimlab.errors import Refused, shown
from mimlab.layers import Normalise, check_images

STRIDES = (32, 16, 8)  # what timm can build


def create(
    name,
    image_size,
    patch,
    layers=(),
    *,
    output_stride: Literal[8, 16, 32] | None = None,
    drop_path: Annotated[float, (0.0, 0.9)] = 0.0,
    normalise: kinds.Pixels = "imagenet",
):
    """`resnet` is resnet18; else any timm name of this class: `resnet18`, `resnet50`, `resnet26d`, ...

    `output_stride`: pixels of a cell of the last map, 8, 16 or 32; None: the largest of at most two patches, or 8.
    `normalise`: a key of `layers.PIXELS`. `layers`: further arguments for timm.
    """
    from timm import is_model

    full = "resnet18" if name == "resnet" else name
    if not is_model(full):
        raise Refused(
            f"encoder = {shown(name)}: timm has no model of this name; there are: resnet18, resnet34, resnet50, ..."
        )
    stride = next((s for s in STRIDES if s <= 2 * patch), STRIDES[-1]) if output_stride is None else output_stride
    spec = {"num_classes": 0, "output_stride": stride}
    return built(full, spec | dict(layers), image_size, patch, drop_path, normalise)


def small(name, image_size, patch, **options):
    """The same with one residual block in each stage."""
    return create(name, image_size, patch, {"layers": [1, 1, 1, 1]}, **options)


def built(full, spec, image_size, patch, drop_path, normalise):
    """The `ResNet` that timm's arguments `spec` give."""
    from timm import create_model
    from timm.models.resnet import ResNet as Trunk

    try:
        trunk = create_model(full, drop_path_rate=drop_path, **spec)
    except Exception as error:  # other networks of such a name take other arguments
        raise Refused(
            f"encoder = {shown(full)} cannot be built by timm with {spec} ({type(error).__name__}: {error}); use resnet18, "
            "resnet34, resnet50 or resnet26d"
        ) from None
    if not isinstance(trunk, Trunk):
        raise Refused(
            f"encoder = {shown(full)} is no plain ResNet of timm's; use resnet18, resnet34, resnet50 or resnet26d"
        )
    return ResNet(trunk, {"model_name": full, **spec}, image_size, patch, normalise)


class ResNet(nn.Module):
    """timm's ResNet with the encoder's contract, less what needs tokens: masks, class token, attention.

    `dim` is the width of the last map, `depth` the four stages, `grid` the tokens that `forward` gives.
    """

    prefix, can_drop, can_fill, can_resize, has_cls = 0, False, False, True, False
    cells = Encoder.cells

    def __init__(self, trunk, spec, image_size, patch, normalise):
        super().__init__()
        self.trunk, self.spec, self.patch = trunk, spec, patch
        self.grid = (image_size[0] // patch, image_size[1] // patch)
        self.dim, self.depth = trunk.num_features, 4
        self.normalise = Normalise(normalise)
        for module in list(trunk.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    own = BatchNorm(child.num_features, child.eps, child.momentum)
                    own.load_state_dict(child.state_dict())  # the last scale of a branch is 0
                    setattr(module, name, own)

    def stages(self):
        return self.trunk.layer1, self.trunk.layer2, self.trunk.layer3, self.trunk.layer4

    def set_drop_path(self, rate):
        """Stochastic depth rising linearly from 0 to `rate` over the residual blocks of all stages."""
        from timm.layers import DropPath

        blocks = [block for stage in self.stages() for block in stage]
        for index, block in enumerate(blocks):
            share = rate * index / max(len(blocks) - 1, 1)
            block.drop_path = DropPath(share) if share else None

    def to_fine_tune(self):
        """Nothing is frozen."""

    def train_cls(self, wanted):
        """Nothing: there is no class token."""

    def maps(self, images, layers):
        """Feature maps (B, C, h, w) after the stages in `layers`, 0 to 3; images (B, 3, H, W) in [0, 1]."""
        wrong = [layer for layer in layers if not 0 <= layer < self.depth]
        if wrong:
            raise Refused(f"layers = {wrong}: a ResNet has stages 0 to {self.depth - 1}")
        trunk, found = self.trunk, {}
        x = trunk.maxpool(trunk.act1(trunk.bn1(trunk.conv1(self.normalise(check_images(images))))))
        for index, stage in enumerate(self.stages()[: max(layers) + 1]):
            x = stage(x)
            found[index] = x
        return [found[index] for index in layers]

    def tokens(self, images):
        """The cells of the last map in raster order, (B, h * w, D), before they are resized to the grid."""
        return self.maps(images, [self.depth - 1])[0].flatten(2).transpose(1, 2)

    def forward(self, images, mask=None, visible=None, fill=None):
        """None, as there is no class token, and the last map on the token grid, (B, N, D). `Refused` with a mask."""
        if mask is not None:
            raise Refused(
                f"{self.spec['model_name']} can neither leave hidden patches out nor replace them; its methods are cim and "
                "supervised, or use an encoder of the vit family"
            )
        (last,) = self.maps(images, [self.depth - 1])
        last = interpolate(last, size=self.cells(images), mode="bilinear", align_corners=False)
        return None, last.flatten(2).transpose(1, 2)

    def features(self, images, pool="mean"):
        """One vector an image, (B, D): the mean of the last map."""
        if pool == "cls":
            raise Refused("pool = 'cls': a ResNet has no class token; use pool = 'mean'")
        return self.tokens(images).mean(dim=1)

    def attention(self, images, layers):
        """`Refused`: there is none."""
        raise Refused(f"{self.spec['model_name']} has no attention; use an encoder of the vit or beit family")
