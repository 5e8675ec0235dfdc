"""OpenAI's discrete autoencoder of DALL-E, from its published files: BEiT's tokenizer, 8,192 tokens of 8 pixels.

Zero-Shot Text-to-Image Generation (Ramesh et al. 2021, arXiv 2102.12092), section 2.1 and appendix A. Official files:
openai/DALL-E, dall_e/encoder.py, decoder.py, utils.py, and the weights encoder.pkl and decoder.pkl, which
`checkpoints.dalle` reads without running anything in them. The networks are trained elsewhere; `fit` loads them.

Encoder: pixels to 0.8 x + 0.1; a 7x7 convolution; four groups of residual blocks of widths 1, 2, 4, 8 times `width`,
with 2x2 max-pooling after the first three; ReLU and a 1x1 convolution to one logit a token, of which the highest is
taken. Decoder: the reverse, with nearest-neighbour doubling; of its six channels the sigmoid of the first three is
the picture, mapped back. The image is resized to 8 pixels a patch (112 for 14 x 14 patches, as BEiT does).

Differs from the official code: all convolutions are float32 in full, also on a GPU, where theirs are float16 but for the
encoder's last and the decoder's first; tokens with close logits may differ there.
"""

from typing import Annotated

import torch
from torch import nn
from torch.nn.functional import interpolate, max_pool2d, one_hot

from mimlab.checkpoints import dalle as files
from mimlab.errors import Refused, shown
from mimlab.layers import check_images, exact
from mimlab.tokenizers import Base, resize, whole
from mimlab.tokenizers._conv import Conv

GROUPS, STRIDE = 4, 8
EDGE = 0.1  # pixels are mapped into [EDGE, 1 - EDGE], where the paper's logit-Laplace likelihood is defined


def map_pixels(images):
    return (1 - 2 * EDGE) * images + EDGE


def unmap_pixels(images):
    return ((images - EDGE) / (1 - 2 * EDGE)).clamp(0, 1)


class Block(nn.Module):
    """identity + gain * four times (ReLU, convolution), a quarter as wide inside; the identity is 1x1 where widths differ."""

    def __init__(self, n_in, n_out, sizes, gain):
        super().__init__()
        self.gain, inside = gain, n_out // 4
        self.id_path = Conv(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        widths = [n_in, inside, inside, inside, n_out]
        self.res_path = nn.ModuleDict(
            {f"conv_{i + 1}": Conv(widths[i], widths[i + 1], size) for i, size in enumerate(sizes)}
        )

    def forward(self, x):
        y = x
        for conv in self.res_path.values():
            y = conv(y.relu())
        return self.id_path(x) + self.gain * y


class Stack(nn.Module):
    """Input convolution, four groups of blocks of the given widths with `between` after the first three, output."""

    def __init__(self, first, widths, blocks, sizes, last):
        super().__init__()
        gain = 1 / (GROUPS * blocks) ** 2
        parts, n_in = {"input": first}, first.w.shape[0]
        for group, width in enumerate(widths, 1):
            chain = [Block(n_in if i == 0 else width, width, sizes, gain) for i in range(blocks)]
            parts[f"group_{group}"] = nn.ModuleDict({f"block_{i + 1}": block for i, block in enumerate(chain)})
            n_in = width
        parts["output"] = nn.ModuleDict({"conv": Conv(n_in, last, 1)})
        self.blocks = nn.ModuleDict(parts)

    def forward(self, x):
        x = self.blocks["input"](x)
        for group in range(1, GROUPS + 1):
            for block in self.blocks[f"group_{group}"].values():
                x = block(x)
            if group < GROUPS:
                x = self.between(x)
        return self.blocks["output"]["conv"](x.relu())


class Encoder(Stack):
    """Mapped pixels (B, 3, H, W) -> logits (B, K, H / 8, W / 8)."""

    def __init__(self, vocab=8192, width=256, blocks=2):
        super().__init__(Conv(3, width, 7), [width, 2 * width, 4 * width, 8 * width], blocks, (3, 3, 3, 1), vocab)

    def between(self, x):
        return max_pool2d(x, 2)


class Decoder(Stack):
    """Probabilities or one-hot tokens (B, K, h, w) -> six channels of statistics (B, 6, 8 h, 8 w)."""

    def __init__(self, vocab=8192, width=256, blocks=2, first=128):
        super().__init__(Conv(vocab, first, 1), [8 * width, 4 * width, 2 * width, width], blocks, (1, 3, 3, 3), 6)

    def between(self, x):
        return interpolate(x, scale_factor=2, mode="nearest")


class Tokenizer(Base):
    """Tokens of DALL-E's encoder; with a `decoder` they can be drawn.

    `encoder`, `decoder`: paths of encoder.pkl and decoder.pkl, or of state dicts with the same names (.pt, .pth,
    .safetensors). `width`, `blocks` and `first` are the networks' n_hid, n_blk_per_group and n_init, where they are
    not OpenAI's. Whatever the model's patches are, a token has 8 pixels of an image resized for it. The weights
    are part of a run's, which grow by 215 MB, and 175 MB with a decoder.
    """

    wants = "files"
    costly = True

    def __init__(
        self,
        vocab=8192,
        patch=STRIDE,
        *,
        encoder: str | None = None,
        decoder: str | None = None,
        width: Annotated[int, (4, 4096)] = 256,
        blocks: Annotated[int, (1, 16)] = 2,
        first: Annotated[int, (1, 4096)] = 128,
    ):
        super().__init__(vocab, patch)
        for name, value in {"width": width, "blocks": blocks, "first": first}.items():
            whole(name, value, 1)
        if not encoder:
            raise Refused(
                f'tokenizer_args: encoder = {shown(encoder)}: dalle needs a file, such as {{"encoder": "encoder.pkl"}}'
            )
        self.patch, self.can_decode = STRIDE, bool(decoder)
        self.sizes = {"vocab": vocab, "width": width, "blocks": blocks, "first": first}
        self.sources = {"encoder": encoder, "decoder": decoder} if decoder else {"encoder": encoder}
        self.encoder = Encoder(vocab, width, blocks)
        if decoder:
            self.decoder = Decoder(vocab, width, blocks, first)

    def ready(self):
        """Refuse files that are missing, damaged or of other sizes, without reading their numbers."""
        for name, path in self.sources.items():
            try:
                self.compare(name, files.shapes(path))
            except Refused as error:
                raise Refused(f"tokenizer_args: {name} = {shown(path)}: {error}") from None

    def wanted(self):
        return 0

    def fit(self, data, generator):
        """Load the files; neither `data` nor `generator` is looked at."""
        for name, path in self.sources.items():
            state = files.read(path)
            self.compare(name, {key: tuple(value.shape) for key, value in state.items()})
            files.load_network(getattr(self, name), state)

    def compare(self, name, shapes):
        """Refuse another vocabulary or other sizes than those set, with what the file has."""
        there = sizes(shapes, name)
        if there is None:
            raise Refused(f"{name} = '{self.sources[name]}' holds no {name} of DALL-E's (names such as blocks.input.w)")
        wrong = {key: value for key, value in there.items() if value != self.sizes[key]}
        if wrong:
            said = ", ".join(f"{key} = {self.sizes[key]}" for key in wrong)
            use = ", ".join(f"{key} = {value}" for key, value in wrong.items())
            raise Refused(f"{said}: the {name} in '{self.sources[name]}' has {use}; use these")

    @torch.no_grad()
    def forward(self, images, grid):
        with exact(images.device):  # half precision would change tokens
            logits = self.encoder(map_pixels(resize(check_images(images).float(), grid, STRIDE)))  # (B, K, h, w)
            return logits.argmax(1).flatten(1)

    def decode(self, ids, grid):
        return self.picture(one_hot(ids, self.vocab), grid)

    def expected(self, logits, grid):
        """What the decoder draws for the probabilities themselves in place of one-hot tokens."""
        return self.picture(logits.float().softmax(dim=2), grid)

    def picture(self, tokens, grid):
        """The mean picture of the decoder for tokens (B, N, K), one-hot or probabilities: (B, 3, 8 h, 8 w)."""
        if not self.can_decode:
            raise Refused("dalle was made without a decoder; give tokenizer_args its file, such as decoder.pkl")
        with exact(tokens.device):
            statistics = self.decoder(tokens.float().transpose(1, 2).unflatten(2, grid))
            return unmap_pixels(statistics[:, :3].sigmoid())


def sizes(shapes, name):
    """Vocabulary, width and so on of an encoder or decoder with these shapes (name -> tuple), or None if it is none."""
    ends = [shapes.get(f"blocks.{end}.w", ()) for end in ("input", "output.conv")]
    if any(len(shape) != 4 for shape in ends):
        return None
    (first, seen), (said, last) = (shape[:2] for shape in ends)  # channels out and in, of both ends
    blocks = sum(key.startswith("blocks.group_1.") and key.endswith(".res_path.conv_1.w") for key in shapes)
    if name == "encoder":
        return {"vocab": said, "width": first, "blocks": blocks} if seen == 3 else None
    return {"vocab": seen, "width": last, "blocks": blocks, "first": first} if said == 6 else None
