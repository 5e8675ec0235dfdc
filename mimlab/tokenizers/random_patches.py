"""Random patches: the vocabulary is a random set of patches of the training images.

SplitMask, sections 3.3 and 5.5 (arXiv 2112.10740): 8,192 patches "from different images", each scaled to a unit vector.
"""

from mimlab.tokenizers import PatchTokenizer


class Tokenizer(PatchTokenizer):
    """Unit vectors along random distinct patches; a token decodes to its patch."""

    def wanted(self):
        return 4 * self.vocab  # backgrounds repeat, and equal patches count once

    def fit(self, patches, generator):
        """Choose `vocab` distinct patches of (M, D) [0, 1] pixels; refuses fewer."""
        chosen = patches[self.different(patches, generator)]
        self.set_codebook(self.vectors(chosen), chosen)
