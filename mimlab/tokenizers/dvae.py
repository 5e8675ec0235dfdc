"""A small discrete autoencoder, trained in the lab on the user's own images: convolutions around a vector quantiser.

VQ-VAE (van den Oord et al. 2017, arXiv 1711.00937), section 3: the encoder's output at a patch is replaced by the
nearest of K code vectors, the number of which is the token; the gradient passes straight through (section 3.1); the
encoder is held near its codes by a commitment term (equation 3). The codes are moving averages of what they stand
for (its appendix A.1; VQ-VAE-2, Razavi et al. 2019, arXiv 1906.00446). DALL-E's tokenizer (Ramesh et al. 2021, arXiv
2102.12092, section 2.1) relaxes the choice by Gumbel-softmax instead. Not done here: its temperature falls over
150,000 steps, beside a KL weight (appendix A.2), where this trains for some hundred on a CPU with neither.

How a few hundred steps are enough: the network is a linear autoencoder plus convolutions that begin at zero. It
starts as k-means on the principal components of patches, and what training adds is context: a code is chosen with,
and drawn into, its surroundings.

What it keeps, PSNR in dB of test images drawn from 512 tokens, after 11 to 15 s of training on two cores; each
beside `kmeans` with the same vocabulary: emoji at 64 px, P = 8: 20.4 (18.9), P = 4: 24.2 (21.8); 20 classes of
Caltech 101 at 64 px, P = 8: 19.5 (16.3), P = 4: 22.5 (17.6); Fashion-MNIST, P = 7: 19.6 (18.5), P = 4: 23.2 (20.7).

Differs from the papers: that start; no strided convolutions, all of them work on the token grid; plain squared
error of pixels; a code that is hardly used is put on an encoder output that its code serves badly. Letters: B batch,
h, w the token grid, K codes, D dimensions of a code, P patch side.
"""

from typing import Annotated

import torch
from torch import nn
from torch.nn.functional import pixel_shuffle

from mimlab.layers import check_images, exact, schedule
from mimlab.tokenizers import Base, chosen, distinct, highest, resize, scattered, whole
from mimlab.tokenizers._conv import Conv
from mimlab.tokenizers.kmeans import lloyd

TOKENS = 4096  # a training step sees about as many
RATE, WARMUP = 2e-3, 20
COMMIT = 0.3  # weight of the commitment beside 4 times the squared error of pixels in [0, 1]
KEPT = 0.95  # of a code's moving average, each step
RARE = 0.03  # a code used less than this share of even use is moved
SETTLED = 0.8  # share of training after which no code is moved any more


class Block(nn.Module):
    """Residual: ReLU, 3x3, ReLU, 1x1; `start` makes it the identity."""

    def __init__(self, width):
        super().__init__()
        self.first, self.second = Conv(width, width, 3), Conv(width, width, 1)

    def forward(self, x):
        return x + self.second(self.first(x.relu()).relu())


class Network(nn.Module):
    """Images (B, 3, h * P, w * P) in [0, 1] to vectors (B, D, h, w), and vectors to images.

    Each way is a linear map of single patches plus a stack of convolutions over the grid.
    """

    def __init__(self, patch, dim, width, blocks):
        super().__init__()
        self.patch = patch
        self.lift, self.look = Conv(3, dim, patch, patch), Conv(3, width, patch, patch)
        self.see = nn.Sequential(*[Block(width) for _ in range(blocks)])
        self.say = Conv(width, dim, 1)
        self.drop, self.hear = Conv(dim, 3 * patch * patch, 1), Conv(dim, width, 1)
        self.draw = nn.Sequential(*[Block(width) for _ in range(blocks)])
        self.paint = Conv(width, 3 * patch * patch, 1)

    def encode(self, images):
        return self.lift(images) + self.say(self.see(self.look(2 * images - 1)).relu())

    def decode(self, z):
        x = self.drop(z) + self.paint(self.draw(self.hear(z)).relu())  # (B, 3 * P * P, h, w)
        return pixel_shuffle(x, self.patch)

    def start(self, mean, axes, generator):
        """Begin as the linear autoencoder x -> axes (x - mean): mean (3 * P * P,), axes (D, 3 * P * P).

        Random weights (He et al. 2015) where a ReLU follows, zeros in the last layer of each path.
        """
        for module in self.modules():
            if isinstance(module, Conv):
                module.w.normal_(0, (2 / module.w[0].numel()) ** 0.5, generator=generator)
                module.b.zero_()
        for block in (*self.see, *self.draw):
            block.second.w.zero_()
        self.say.w.zero_()
        self.paint.w.zero_()
        self.lift.w.copy_(axes.view_as(self.lift.w))
        self.lift.b.copy_(-axes @ mean)
        self.drop.w.copy_(torch.linalg.pinv(axes)[:, :, None, None])
        self.drop.b.copy_(mean)


class Tokenizer(Base):
    """Tokens of a VQ-VAE with `vocab` codes of `dim` numbers, fitted to at most `samples` images in `steps` steps.

    `width` channels and `blocks` residual blocks each way; a token sees, and draws into, `blocks` tokens around it.
    `expected` draws the mean code under the probabilities. Buffers: the network's, and `codebook` (K, D).
    """

    wants = "images"

    def __init__(
        self,
        vocab=8192,
        patch=8,
        *,
        dim: Annotated[int, (1, 1024)] = 16,
        width: Annotated[int, (1, 2048)] = 64,
        blocks: Annotated[int, (1, 32)] = 2,
        steps: Annotated[int, (1, 1_000_000)] = 300,
        samples: Annotated[int, (1, 10_000_000)] = 5000,
    ):
        super().__init__(vocab, patch)
        for name, value in {"dim": dim, "width": width, "blocks": blocks, "steps": steps, "samples": samples}.items():
            whole(name, value, 1)
        self.steps, self.samples = steps, samples
        self.network = Network(patch, min(dim, 3 * patch * patch), width, blocks)
        self.register_buffer("codebook", torch.zeros(vocab, min(dim, 3 * patch * patch)))

    def wanted(self):
        return self.samples

    @torch.no_grad()
    def forward(self, images, grid):
        with exact(images.device):  # half precision would change tokens
            x = vectors(self.network.encode(resize(check_images(images).float(), grid, self.patch)))
            return nearest(x, self.codebook).view(len(images), -1)

    def decode(self, ids, grid):
        return self.picture(self.codebook[ids], grid)

    def expected(self, logits, grid):
        return self.picture(logits.float().softmax(dim=2) @ self.codebook, grid)

    def picture(self, codes, grid):
        """What the decoder draws for code vectors (B, N, D): (B, 3, h * P, w * P) in [0, 1]."""
        z = codes.transpose(1, 2).unflatten(2, grid)
        with exact(z.device):
            return self.network.decode(z).clamp(0, 1)

    def fit(self, images, generator):
        """Train on images (M, 3, h * P, w * P), uint8. Refuses fewer distinct patches than `vocab`."""
        codes = self.begin(images, generator)
        weights = [weight.requires_grad_() for weight in self.network.buffers()]
        optimiser = torch.optim.AdamW(weights, lr=RATE, betas=(0.9, 0.99), weight_decay=1e-4)
        tokens = images.shape[2] * images.shape[3] // self.patch**2  # an image
        batch = max(1, round(TOKENS / tokens))
        for step in range(self.steps):
            for group in optimiser.param_groups:
                group["lr"] = schedule(step + 1, self.steps + 1, min(WARMUP, self.steps), RATE)
            rows = torch.randint(len(images), (batch,), generator=generator)
            x = images[rows].float() / 255
            x = torch.where(torch.rand(batch, 1, 1, 1, generator=generator) < 0.5, x, x.flip(3))
            z = self.network.encode(x)
            flat = vectors(z)
            code = codes.follow(flat.detach(), step < SETTLED * self.steps, generator)
            commit = (flat - code).square().mean()
            code = code.view(z.shape[0], *z.shape[2:], -1).permute(0, 3, 1, 2)  # (B, D, h, w)
            drawn = self.network.decode(z + (code - z).detach())
            loss = 4 * (drawn - x).square().mean() + COMMIT * commit
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        for weight in weights:
            weight.requires_grad_(False).grad = None
        self.codebook.copy_(codes.means)

    def begin(self, images, generator):
        """The start: principal components of random patches, scaled to unit variance in the mean, and k-means."""
        each = -(-max(20_000, 8 * self.vocab) // len(images))
        patches = [scattered(some.float() / 255, self.patch, each, generator) for some in images.split(256)]
        patches = torch.cat(patches)  # (M, 3 * P * P)
        rows = chosen(distinct(patches), self.vocab, len(patches), generator)
        mean = patches.mean(0)
        values, axes = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))  # ascending
        dim = self.codebook.shape[1]
        axes = axes[:, -dim:].T / values[-dim:].clamp(min=0).mean().sqrt()
        self.network.start(mean, axes, generator)
        points = (patches - mean) @ axes.T  # (M, D)
        centres, labels, _ = lloyd(points, points[rows], 10)
        return Codes(centres, torch.bincount(labels, minlength=self.vocab) / len(labels))


class Codes:
    """Code vectors as moving averages: `means` (K, D), and the `share` (K,) of vectors that each stands for."""

    def __init__(self, means, share):
        self.means, self.share = means, share.clamp(min=1e-6)
        self.sums = means * self.share[:, None]

    def follow(self, x, move, generator):
        """Give every vector (M, D) its nearest code, move the codes there: the codes given, (M, D).

        With `move`, codes that are hardly used go to vectors drawn in proportion to their squared distance.
        """
        ids = nearest(x, self.means)
        count = torch.bincount(ids, minlength=len(self.means))
        sums = torch.zeros_like(self.sums).index_add_(0, ids, x)
        self.share = KEPT * self.share + (1 - KEPT) * count / len(x)
        self.sums = KEPT * self.sums + (1 - KEPT) * sums / len(x)
        distance = (x - self.means[ids]).square().sum(1)
        rare = (self.share < RARE / len(self.share)).nonzero()[:, 0][: int((distance > 0).sum())] if move else ()
        if len(rare):
            self.share[rare] = 1 / len(self.share)
            self.sums[rare] = x[torch.multinomial(distance, len(rare), generator=generator)] / len(self.share)
        self.means = self.sums / self.share[:, None]
        return self.means[ids]


def vectors(z):
    """(B, D, h, w) -> (B * h * w, D), raster order."""
    return z.flatten(2).transpose(1, 2).flatten(0, 1)


def nearest(x, codes):
    """The number of the nearest code: (M, D), (K, D) -> (M,) int64."""
    return highest(x, codes, codes.square().sum(1) / 2)
