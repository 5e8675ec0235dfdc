"""lightly: its modules put together as its examples do (examples/pytorch/mae.py, simmim.py, dino.py of version 1.6)."""

import copy

import torch
from lightly.loss import DINOLoss
from lightly.models import utils
from lightly.models.modules import DINOProjectionHead, MaskedVisionTransformerTIMM
from lightly.models.modules.masked_vision_transformer_decoder_timm import MaskedVisionTransformerDecoderTIMM
from torch import nn

from mimlab.bench.peers import share
from mimlab.bench.plain import vit

FUSED = False  # its examples build torch.optim.AdamW with the defaults


class Masked(nn.Module):
    """What its MAE and SimMIM share: the encoder, and random tokens to keep and to hide."""

    name = "MaskedVisionTransformerTIMM"

    def __init__(self, shape, positions):
        super().__init__()
        self.patch, self.ratio = shape.patch, share(shape)
        self.encoder = MaskedVisionTransformerTIMM(vit(shape), pos_embed_initialization=positions)

    def draw(self, images):
        """Indices of tokens kept, the class token among them, and of hidden ones: (B, kept), (B, hidden)."""
        size = (len(images), self.encoder.sequence_length)
        return utils.random_token_mask(size, mask_ratio=self.ratio, device=images.device)

    def target(self, images, hidden):
        return utils.get_at_index(utils.patchify(images, self.patch), hidden - 1)  # patches have no class token


class MAE(Masked):
    def __init__(self, shape, options):
        super().__init__(shape, "sincos")
        dim, depth, heads = (options[f"decoder_{name}"] for name in ("dim", "depth", "heads"))
        self.embed = nn.Linear(shape.dim, dim)
        self.decoder = MaskedVisionTransformerDecoderTIMM(shape.patches, dim, depth, heads)
        self.head = nn.Linear(dim, 3 * shape.patch**2)

    def loss(self, ready):
        images = ready.seen[0]
        keep, hidden = self.draw(images)
        x = self.embed(self.encoder.encode(images, idx_keep=keep))
        full = utils.repeat_token(self.decoder.mask_token, (len(images), self.encoder.sequence_length))
        full = self.decoder(utils.set_at_index(full, keep, x.type_as(full)))
        found = self.head(utils.get_at_index(full, hidden))
        return nn.functional.mse_loss(found, utils.normalize_mean_var(self.target(images, hidden), dim=-1))


class SimMIM(Masked):
    def __init__(self, shape, options):
        super().__init__(shape, "learn")
        self.head = nn.Linear(shape.dim, 3 * shape.patch**2)

    def loss(self, ready):
        images = ready.seen[0]
        _, hidden = self.draw(images)
        x = utils.get_at_index(self.encoder.encode(images, idx_mask=hidden), hidden)
        return nn.functional.l1_loss(self.head(x), self.target(images, hidden))


class DINO(nn.Module):
    name = "DINOProjectionHead, DINOLoss"

    def __init__(self, shape, options):
        super().__init__()
        sizes = (shape.dim, options["head_dim"], options["bottleneck_dim"], options["out_dim"])
        encoder = MaskedVisionTransformerTIMM(vit(shape, dynamic_img_size=True), pos_embed_initialization="learn")
        self.student = nn.ModuleList([encoder, DINOProjectionHead(*sizes)])
        self.teacher = nn.ModuleList([copy.deepcopy(encoder), DINOProjectionHead(*sizes)]).requires_grad_(False)
        self.criterion = DINOLoss(output_dim=options["out_dim"])

    def loss(self, ready):
        with torch.no_grad():
            teacher = [self.teacher[1](self.teacher[0](view)) for view in ready.seen[:2]]
        student = [self.student[1](self.student[0](view)) for view in ready.seen]
        return self.criterion(teacher, student)

    def after(self):
        for own, theirs in zip(self.student, self.teacher, strict=True):
            utils.update_momentum(own, theirs, m=0.996)


MODELS = {"mae": MAE, "simmim": SimMIM, "dino": DINO}
