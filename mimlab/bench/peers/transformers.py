"""Hugging Face transformers: ViTMAEForPreTraining, BeitForMaskedImageModeling, ViTForMaskedImageModeling (SimMIM)."""

import transformers
from torch import nn

from mimlab.bench.peers import share

FUSED = True  # the default of its Trainer with torch 2.8 and later


def sized(shape):
    """What the configurations of the three models share."""
    return {
        "image_size": shape.image,
        "patch_size": shape.patch,
        "hidden_size": shape.dim,
        "num_hidden_layers": shape.depth,
        "num_attention_heads": shape.heads,
        "intermediate_size": 4 * shape.dim,
    }


class MAE(nn.Module):
    name = "ViTMAEForPreTraining"

    def __init__(self, shape, options):
        super().__init__()
        dim = options["decoder_dim"]
        config = transformers.ViTMAEConfig(
            **sized(shape),
            decoder_hidden_size=dim,
            decoder_num_hidden_layers=options["decoder_depth"],
            decoder_num_attention_heads=options["decoder_heads"],
            decoder_intermediate_size=4 * dim,
            mask_ratio=share(shape),
            norm_pix_loss=options.get("norm_pix", True),
        )
        self.model = transformers.ViTMAEForPreTraining(config)

    def loss(self, ready):
        return self.model(ready.seen[0], noise=ready.noise).loss


class BEiT(nn.Module):
    name = "BeitForMaskedImageModeling"

    def __init__(self, shape, options):
        super().__init__()
        as_trained = {"use_mask_token": True, "use_shared_relative_position_bias": True, "drop_path_rate": 0.0}
        config = transformers.BeitConfig(**sized(shape), vocab_size=shape.vocab, **as_trained)
        self.model = transformers.BeitForMaskedImageModeling(config)

    def loss(self, ready):
        return self.model(ready.seen[0], bool_masked_pos=ready.mask, labels=ready.ids[ready.mask]).loss


class SimMIM(nn.Module):
    name = "ViTForMaskedImageModeling"

    def __init__(self, shape, options):
        super().__init__()
        config = transformers.ViTConfig(**sized(shape), encoder_stride=shape.patch)
        self.model = transformers.ViTForMaskedImageModeling(config)

    def loss(self, ready):
        return self.model(ready.seen[0], bool_masked_pos=ready.mask).loss


MODELS = {"mae": MAE, "beit": BEiT, "simmim": SimMIM}
