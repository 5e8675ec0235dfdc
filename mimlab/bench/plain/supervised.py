"""Supervised: timm's ViT on the mean of its patches, with a linear layer and smoothed labels."""

from torch import nn
from torch.nn.functional import cross_entropy

from mimlab.bench.plain import vit


class Plain(nn.Module):
    def __init__(self, shape, options):
        super().__init__()
        self.encoder, self.head = vit(shape), nn.Linear(shape.dim, shape.classes)
        self.smoothing = options.get("label_smoothing", 0.1)

    def loss(self, ready):
        x = self.encoder.forward_features(ready.seen[0])[:, 1:].mean(dim=1)
        return cross_entropy(self.head(x), ready.labels, label_smoothing=self.smoothing)
