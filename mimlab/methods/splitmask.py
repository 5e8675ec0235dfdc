"""SplitMask: Are Large-scale Datasets Necessary for Self-Supervised Pre-training? (El-Nouby et al. 2021, arXiv 2112.10740).

1. **Split.** The patches of an image fall into two disjoint subsets A and B (BEiT's blocks, 50 %): section 4.
2. **Inpaint.** One encoder sees A alone and B alone. A shallow decoder of the encoder's width [`decoder_dim`] gets each branch's
   outputs with mask tokens at the missing positions, and predicts there the visual tokens of the other subset:
   cross-entropy, so every patch is supervised once an image.
3. **Match.** The mean of *all* decoder outputs of a branch describes the image; InfoNCE (equation 2) asks that the two
   descriptions of an image find each other among those of the batch, temperature 0.2.

Differs from the paper: equation 2 is printed without its -log, which is used; the image that the tokenizer
sees is the encoder's crop made smaller.

Left open by the paper, and what is done here (options in brackets):
- weight of the two losses: 1 to 1 [`match_weight`]; descriptors are L2-normalised [`normalise`]; the candidates are
  the other branch's descriptors of all images of all processes [`negatives` = "other", the default]. The paper says only
  "we symmetrize following" SimCLR, whose negatives are both branches' [`negatives` = "both"]; both directions are
  averaged [`symmetric`].
- CLS runs through the encoder and stops there, since the decoder's sequences have "length n" [`decode_cls`].
- positions are learned in encoder and decoder, and in the decoder visible tokens get them too; between the two is a linear layer,
  as in MAE; heads as the encoder's [`decoder_heads`].
- with 75 % hidden, B sees as many patches as A, drawn from those that A does not see [`second` = "equal" or "rest"].
- batch, crop scale and colour strengths: BEiT's and DINO's.
"""

import math
from typing import Annotated, Literal

import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize

from mimlab import kinds
from mimlab.decoder import Decoder
from mimlab.distributed import gather, rank, world
from mimlab.errors import Refused, shown
from mimlab.layers import token_logs, truncated
from mimlab.masks import hidden_ids, visible_ids
from mimlab.methods import Method, Output, decoded, judged
from mimlab.token_loss import token_loss

PAPER = {  # section 5.5: "follow Bao et al."; no colour jitter
    "mask": "blockwise",
    "mask_ratio": 0.5,
    "mask_args": {"sampler": "cae", "max_block": 75 / 196},
    "tokenizer": "random_projection",
    "tokenizer_args": {},
    "encoder_args": {},
    "method_args": {},
    "augment": {"scale": [0.08, 1.0], "flip": 0.5},
    "lr": 1.5e-3 * 256 / 2048,
    "min_lr": 1e-5 * 256 / 2048,
    "schedule": "table",
    "epochs": 300,
    "warmup_epochs": 10,
    "weight_decay": 0.05,
    "no_decay": "pos_embed,cls_token,positions",
    "beta2": 0.999,
    "clip": 3.0,
    "drop_path": 0.1,
}
SMALL = PAPER | {  # section 5.5, Stanford Cars, Clipart, Sketch, Painting
    "mask": "random",
    "mask_ratio": 0.75,
    "mask_args": {},
    "augment": {
        "scale": [0.08, 1.0],
        "flip": 0.5,
        "jitter": [0.4, 0.4, 0.2, 0.1],
        "jitter_p": 0.8,
        "grey": 0.2,
        "blur": 0.5,
        "solarize": 0.2,
    },
    "epochs": 5000,
}
RECIPE = {"paper": PAPER, "small": SMALL}


def info_nce(a, b, temperature=0.2, *, normalise=True, negatives="other", symmetric=True):
    """InfoNCE of descriptors `a` and `b`, (B, D), row i of one matching row i of the other: loss, accuracy.

    The candidates are those of all processes. `negatives`: "other" branch only, or "both" (then also
    the own branch's other images, as SimCLR). Equation 2, with the -log.
    """
    if normalise:
        a, b = normalize(a, dim=1), normalize(b, dim=1)
    all_a, all_b = gather(a), gather(b)
    target = torch.arange(len(a), device=a.device) + rank() * len(a)

    def one_way(anchor, others, own):
        logits = anchor @ others.T / temperature  # (B, images)
        if negatives == "both":
            same = anchor @ own.T / temperature
            same = same.scatter(1, target[:, None], float("-inf"))  # not itself
            logits = torch.cat([logits, same], dim=1)
        return cross_entropy(logits, target), (logits.detach().argmax(dim=1) == target).float().mean()

    loss, accuracy = one_way(a, all_b, all_a)
    if symmetric:
        back, accuracy_back = one_way(b, all_a, all_b)
        loss, accuracy = (loss + back) / 2, (accuracy + accuracy_back) / 2
    return loss, accuracy


class SplitMask(Method):
    """Split, inpaint, match; each can be switched off as in Table 8 (without `split` it is BEiT).

    `decoder_dim`, `decoder_heads`: of the decoder, what is matched and what is predicted from; None: the encoder's.
    """

    def __init__(
        self,
        encoder,
        tokenizer,
        *,
        split: bool = True,
        inpaint: bool = True,
        match: bool = True,
        decoder_depth: kinds.Depth = 2,
        decoder_dim: kinds.Width | None = None,
        decoder_heads: kinds.Heads | None = None,
        temperature: kinds.Temperature = 0.2,
        match_weight: Annotated[float, (0.0, 1000.0)] = 1.0,
        normalise: bool = True,
        negatives: Literal["other", "both"] = "other",
        symmetric: bool = True,
        decode_cls: bool = False,
        second: Literal["equal", "rest"] = "equal",
    ):
        super().__init__(encoder, tokenizer)
        if not (inpaint or match) or (match and not split):
            raise Refused(
                f"method_args: split = {split}, inpaint = {inpaint}, match = {match} leaves nothing to learn; Table 8 has "
                "split + inpaint + match, split + inpaint, split + match, and inpaint alone (BEiT)"
            )
        if negatives not in ("other", "both"):
            raise Refused(f"method_args: negatives = {shown(negatives)}; there are: other, both")
        if second not in ("equal", "rest"):
            raise Refused(f"method_args: second = {shown(second)}; there are: equal, rest")
        if temperature <= 0:
            raise Refused(f"method_args: temperature = {temperature} must be above 0")
        if tokenizer is None:
            raise Refused("tokenizer = none: splitmask predicts tokens and needs one")
        if split and not encoder.can_drop:
            raise Refused(
                "splitmask shows each branch its own patches only, which this encoder cannot; use an encoder of the vit "
                "family, or a method that replaces patches: beit or simmim"
            )
        self.split, self.inpaint, self.match = split, inpaint, match
        self.temperature, self.match_weight = temperature, match_weight
        self.pairs = {"normalise": normalise, "negatives": negatives, "symmetric": symmetric}
        self.decode_cls, self.second = decode_cls, second
        self.couples_images = match
        if split:
            width = encoder.dim if decoder_dim is None else decoder_dim
            heads = encoder.heads if decoder_heads is None else decoder_heads
            if width % heads:
                good = ", ".join(str(h) for h in range(1, 33) if width % h == 0)
                raise Refused(
                    f"method_args: decoder_dim = {width} is no multiple of decoder_heads = {heads}; heads could be: {good}"
                )
            self.decoder = Decoder(encoder, width, decoder_depth, heads, fixed=False)
        else:
            if decoder_dim is not None or decoder_heads is not None:
                raise Refused(
                    "method_args: decoder_dim and decoder_heads are of the decoder, which split = False has not; leave them out"
                )
            width = encoder.dim
            encoder.train_cls(False)  # the loss is on patches alone
            self.fill = nn.Parameter(torch.zeros(encoder.dim))
        if inpaint:
            self.head = nn.Linear(width, tokenizer.vocab)
        self.start()

    def start(self):
        """Initial weights as ViT's: truncated normal 0.02 (not stated in the paper)."""
        for name, part in self.named_children():
            if name != "tokenizer":
                part.apply(truncated)
        if self.split:
            for parameter in (self.decoder.mask_token, self.decoder.positions):
                nn.init.trunc_normal_(parameter, std=0.02)
        else:
            nn.init.trunc_normal_(self.fill, std=0.02)
        for parameter in (self.encoder.trunk.cls_token, self.encoder.trunk.pos_embed):
            if isinstance(parameter, nn.Parameter) and parameter.requires_grad:
                nn.init.trunc_normal_(parameter, std=0.02)

    def other(self, mask, noise, visible):
        """What is hidden from B, (B, N), and how many patches B sees.

        B sees what A does not: all of it at 50 %; if that is more than A sees, as many as A, by `noise`.
        """
        n = mask.shape[1]
        if self.second == "rest" or n - visible <= visible + 1:
            return ~mask, n - visible
        order = (noise.to(mask.device) + mask).topk(visible, dim=1).indices  # hidden from A, highest noise
        return torch.ones_like(mask).scatter_(1, order, False), visible

    def decode(self, images, mask, visible):
        """Decoder outputs of all positions in raster order, (B, N, D)."""
        cls, patches = self.encoder(images, mask, visible)
        return self.decoder(cls if self.decode_cls else None, patches, mask)

    def look(self, images, mask, visible):
        """Places of the hidden patches (k * B, H), and decoder outputs there (k * B, H, D) and, where they are matched, of
        the visible ones (k * B, V, D), else None. `mask` (k * B, N): k looks at each image.
        """
        cls, patches = self.encoder(images, mask, visible)
        seen, missing = visible_ids(mask, visible), hidden_ids(mask, mask.shape[1] - visible)
        given = (cls if self.decode_cls else None, patches, seen, missing)
        if not self.match:
            return missing, self.decoder.hidden(*given), None
        shown, hidden = self.decoder.parts(*given)
        return missing, hidden, shown

    def branches(self, images, mask, noise=None, visible=None):
        """What `look` says of A and of B."""
        visible = int((~mask[0]).sum()) if visible is None else visible
        mask_b, visible_b = self.other(mask, torch.zeros(mask.shape) if noise is None else noise, visible)
        if visible != visible_b:
            return self.look(images, mask, visible), self.look(images, mask_b, visible_b)
        both = self.look(images, torch.cat([mask, mask_b]), visible)  # one sequence of 2B
        return tuple(zip(*((None, None) if part is None else part.chunk(2) for part in both), strict=True))

    def forward(self, batch, mask, progress):
        """`prediction`: what `head` reads of what A and then B miss, (patches predicted, D), image by image."""
        ids = self.tokenizer(batch.images, self.encoder.grid)  # (B, N)
        if not self.split:
            return self.without_split(batch, mask, ids)
        branches = self.branches(batch.images, mask, batch.noise, batch.visible)
        loss, logs = torch.zeros((), device=mask.device), {}
        missed = torch.cat([hidden.flatten(0, 1) for _, hidden, _ in branches])
        if self.inpaint:
            parts = [
                token_loss(self.head, hidden.flatten(0, 1), ids.gather(1, where).flatten())
                for where, hidden, _ in branches
            ]
            inpaint = (parts[0][0] + parts[1][0]) / 2
            accuracy = sum(part[1] * len(hidden[0]) for part, (_, hidden, _) in zip(parts, branches, strict=True))
            loss = loss + inpaint
            logs |= self.inpaint_logs(ids, accuracy / sum(len(hidden[0]) for _, hidden, _ in branches), inpaint)
        if self.match:
            a, b = (torch.cat([shown, hidden], dim=1).mean(dim=1) for _, hidden, shown in branches)
            match, accuracy = info_nce(a, b, self.temperature, **self.pairs)
            loss = loss + self.match_weight * match
            chance = torch.full((), 1.0 / (len(a) * world()), device=a.device)
            logs |= {"loss_match": match.detach(), "match_accuracy": accuracy, "match_chance": chance}
        return Output(loss, logs, missed)

    def without_split(self, batch, mask, ids):
        """Table 8, first row: BEiT on the same backbone."""
        visible = int((~mask[0]).sum()) if batch.visible is None else batch.visible
        where = hidden_ids(mask, mask.shape[1] - visible)
        hidden = self.encoder(batch.images, mask, fill=self.fill, rows=where)[1].flatten(0, 1)
        loss, accuracy = token_loss(self.head, hidden, ids.gather(1, where).flatten())
        return Output(loss, self.inpaint_logs(ids, accuracy, loss), hidden)

    def inpaint_logs(self, ids, accuracy, loss):
        vocab = self.tokenizer.vocab
        uniform = torch.full((), math.log(vocab), device=loss.device)
        return {"loss_inpaint": loss.detach(), "loss_uniform": uniform} | token_logs(ids, accuracy, vocab)

    def predict(self, images, mask):
        """Logits of every position from branch A, and from B, each (B, N, vocabulary)."""
        visible = int((~mask[0]).sum())
        other = self.other(mask, torch.zeros(mask.shape), visible)
        return self.head(self.decode(images, mask, visible)), self.head(self.decode(images, *other))

    def first(self, images, mask):
        """Logits of every position from branch A alone, which does not see what `mask` hides: (B, N, vocabulary)."""
        if not self.split:
            return self.head(self.encoder(images, mask, fill=self.fill)[1])
        return self.head(self.decode(images, mask, int((~mask[0]).sum())))

    def judge(self, images, mask):
        if not self.inpaint:
            return None
        return judged(self.first(images, mask), self.tokenizer(images, self.encoder.grid))

    @property
    def predicts(self):
        if not self.inpaint:
            return ""
        by = f"a decoder of depth {len(self.decoder.blocks)}" if self.split else "one linear layer; there is no decoder"
        return f"{self.vocabulary}, by {by}"

    def reconstruct(self, images, mask):
        """What branch A fills in."""
        if not self.inpaint:
            return None
        return decoded(self.tokenizer, self.first(images, mask), images, self.encoder.grid)
