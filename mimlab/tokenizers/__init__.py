"""Discrete targets: a number below the size of a vocabulary for each patch. Each file is one way to get them.

`PatchTokenizer` is that of SplitMask, section 3.3 and 5.5 (arXiv 2112.10740), in pixel space: a vocabulary of unit
vectors e_i, and the token of a patch x is arg max_i x . e_i, the highest cosine similarity. `dvae` and `dalle` are
networks. A tokenizer is frozen: buffers, no parameters. Letters: B batch, N patches, K vocabulary, P patch side in
pixels, D = 3 * P * P in the order channel, row, column.
"""

from mimlab.tokenizers._base import Base, resize, whole
from mimlab.tokenizers._codebook import PatchTokenizer, chosen, distinct, flat, highest, nearest
from mimlab.tokenizers._fitting import drawn_images, drawn_patches, fitted, scattered
from mimlab.tokenizers._usage import collapsed, usage

__all__ = [
    "Base", "PatchTokenizer", "chosen", "collapsed", "distinct", "drawn_images", "drawn_patches", "fitted", "flat", "highest",
    "nearest", "resize", "scattered", "usage", "whole",
]  # fmt: skip
