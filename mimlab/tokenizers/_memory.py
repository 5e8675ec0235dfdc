"""Tokens of images that come again, for tokenizers that cost more than the model."""

from hashlib import blake2b

import torch


class Memory:
    """`forward` of a tokenizer that computes the tokens of an image once: images (B, 3, H, W), grid -> ids (B, N).

    An image is known by its pixels, so any view may come again. At most `most` are kept, the first ones: 2 bytes a
    patch for a vocabulary of up to 32,768.
    """

    def __init__(self, forward, most, vocab):
        self.forward, self.most = forward, most
        self.kept, self.type = {}, torch.int16 if vocab <= 1 << 15 else torch.int32

    def __call__(self, images, grid):
        names = [
            (grid, blake2b(image.numpy(), digest_size=16).digest()) for image in images.detach().cpu().contiguous()
        ]
        new = {name: row for row, name in enumerate(names) if name not in self.kept}
        made = {}
        if new:
            ids = self.forward(images[list(new.values())], grid)
            made = dict(zip(new, ids.to(self.type).cpu(), strict=True))
            self.kept |= dict(list(made.items())[: max(0, self.most - len(self.kept))])
        return (
            torch.stack([self.kept[name] if name in self.kept else made[name] for name in names])
            .long()
            .to(images.device)
        )
