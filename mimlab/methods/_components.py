"""The principal components of patches, a target of MAE (He et al. 2021, arXiv 2111.06377, table 1d, "PCA")."""

import torch
from torch import nn

from mimlab.layers import exact


class Components(nn.Module):
    """The `count` largest principal components of vectors of `size` values, all zero until `fit`.

    Buffers, since they are never trained: `mean` (size,), `basis` (count, size) with orthonormal rows, the largest
    component first.
    """

    def __init__(self, size, count):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("basis", torch.zeros(count, size))

    @torch.no_grad()
    def fit(self, vectors):
        """Take mean and basis from `vectors` (M, size): eigenvectors of their covariance, in double precision."""
        vectors = vectors.double()
        mean = vectors.mean(dim=0)
        _, rows = torch.linalg.eigh((vectors - mean).T @ (vectors - mean))  # columns, the smallest first
        rows = rows.flip(1).T[: len(self.basis)]
        place = rows.abs().argmax(dim=1, keepdim=True)
        self.mean.copy_(mean)
        self.basis.copy_(rows * rows.gather(1, place).sign())  # the sign is free: the largest value is positive

    def forward(self, vectors):
        """Coefficients of vectors (..., size): (..., count), in float32 whatever autocast says."""
        with exact(vectors.device):
            return (vectors.float() - self.mean) @ self.basis.T

    def back(self, coefficients):
        """The vectors (..., size) of coefficients (..., count): what other components had is their mean."""
        with exact(coefficients.device):
            return coefficients.float() @ self.basis + self.mean
