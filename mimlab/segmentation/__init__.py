"""Semantic segmentation on an encoder: a linear head, or UperNet's, as the transfer of the SplitMask paper (section 5.5)."""
