"""BEiT: BERT Pre-Training of Image Transformers (Bao et al. 2021, arXiv 2106.08254).

1. A frozen tokenizer turns the image into visual tokens, one a patch (section 2.1).
2. Blocks of patches, about 40 %, are replaced by a learned mask embedding before the encoder, which
   therefore processes every position (section 2.3, algorithm 1).
3. A linear layer on the encoder's outputs at hidden positions predicts their tokens: cross-entropy, mean over
   all hidden patches of the batch (equation 2).

Official code: microsoft/unilm, beit/modeling_pretrain.py, masking_generator.py, run_beit_pretraining.py.

Differs from the paper: the image that the tokenizer sees is the encoder's crop made smaller (the official code
resizes the original twice); the default tokenizer is SplitMask's random projection, since DALL-E's encoder
is a file of its own; a mask that falls short of its goal (a third of the official draws) is completed by
further blocks, since every row must hide equally many patches. With `encoder = vit` it is SplitMask's BEiT
baseline ("the same backbone for all"), with `encoder = beit_base` the official one.

What the paper takes away from it (its table of ablations): blocks are `mask = random`; visual tokens, with pixels in
their place, are the method `simmim` with `loss = "l2"`; relative positions and LayerScale are the encoder's `bias` and
`layer_scale`; tokens of all patches are [`all_patches`].
"""

import math

import torch
from torch import nn

from mimlab.errors import Refused
from mimlab.layers import token_logs, truncated
from mimlab.masks import hidden_ids
from mimlab.methods import Method, Output, decoded, judged
from mimlab.token_loss import token_loss

RECIPE = {
    "paper": {  # beit/README.md, ImageNet-1K; the mask's count 75 of 196 is the official code's
        "mask": "blockwise",
        "mask_ratio": 75 / 196,
        "mask_args": {"sampler": "beit"},
        "tokenizer": "random_projection",
        "tokenizer_args": {},
        "encoder_args": {},
        "method_args": {},
        "augment": {
            "scale": [0.08, 1.0],
            "flip": 0.5,
            "jitter": [0.4, 0.4, 0.4, 0.0],
            "jitter_p": 1.0,
            "jitter_first": True,
        },
        "lr": 1.5e-3 * 256 / 2048,
        "min_lr": 1e-5 * 256 / 2048,
        "schedule": "table",
        "epochs": 800,
        "warmup_epochs": 10,
        "weight_decay": 0.05,
        "no_decay": "pos_embed,cls_token",
        "beta2": 0.999,
        "clip": 3.0,
        "drop_path": 0.1,
    }
}


class BEiT(Method):
    """Tokens of hidden patches, which the encoder sees as mask embeddings; with `all_patches` those of visible ones too."""

    def __init__(self, encoder, tokenizer, *, all_patches: bool = False):
        super().__init__(encoder, tokenizer)
        if tokenizer is None:
            raise Refused("tokenizer = none: beit predicts tokens and needs one")
        if not encoder.can_fill:
            raise Refused(
                "beit replaces hidden patches, which this encoder cannot; use one of the vit, beit or xcit family, or method = cim"
            )
        self.all_patches = all_patches
        encoder.train_cls(False)  # the loss is on patches alone
        self.mask_token = nn.Parameter(torch.zeros(1, 1, encoder.dim))
        self.head = nn.Linear(encoder.dim, tokenizer.vocab)
        self.start()

    def start(self):
        """Initial weights of modeling_pretrain.py: normal cut at one deviation, rescaled by depth."""
        trunk = self.encoder.trunk
        for name, part in self.named_children():
            if name != "tokenizer":
                part.apply(lambda module: truncated(module, at=1.0))
        embedding = trunk.patch_embed.proj  # XCiT's convolutions keep timm's
        single = isinstance(embedding, nn.Conv2d)
        tokens = [self.mask_token, trunk.cls_token, getattr(trunk, "pos_embed", None)]
        tokens += [embedding.weight] if single else []
        for parameter in tokens:
            if isinstance(parameter, nn.Parameter) and parameter.requires_grad:
                nn.init.trunc_normal_(parameter, std=0.02, a=-0.02, b=0.02)
        if single:
            nn.init.zeros_(embedding.bias)
        self.encoder.shrink_branches()

    def encode(self, images, mask, rows=None):
        """Encoder outputs of all patches, or those at `rows` (B, M), hidden ones replaced: (B, N or M, D)."""
        return self.encoder(images, mask, fill=self.mask_token[0, 0], rows=rows)[1]

    def forward(self, batch, mask, progress):
        """`prediction`: what `head` reads of the patches predicted, (patches in the batch, D), image by image."""
        ids = self.tokenizer(batch.images, self.encoder.grid)  # (B, N)
        if self.all_patches:
            hidden, targets = self.encode(batch.images, mask).flatten(0, 1), ids.flatten()
        elif batch.visible is None:  # rows may differ
            hidden, targets = self.encode(batch.images, mask)[mask], ids[mask]
        else:
            where = hidden_ids(mask, mask.shape[1] - batch.visible)
            hidden, targets = self.encode(batch.images, mask, where).flatten(0, 1), ids.gather(1, where).flatten()
        loss, accuracy = token_loss(self.head, hidden, targets)
        uniform = torch.full((), math.log(self.tokenizer.vocab), device=loss.device)
        logs = {"loss_uniform": uniform} | token_logs(ids, accuracy, self.tokenizer.vocab)
        return Output(loss, logs, hidden)

    def predict(self, images, mask):
        """Logits of every position, (B, N, vocabulary)."""
        return self.head(self.encode(images, mask))

    def judge(self, images, mask):
        return judged(self.predict(images, mask), self.tokenizer(images, self.encoder.grid))

    @property
    def predicts(self):
        return f"{self.vocabulary}, by one linear layer on the encoder; there is no decoder"

    def reconstruct(self, images, mask):
        return decoded(self.tokenizer, self.predict(images, mask), images, self.encoder.grid)
