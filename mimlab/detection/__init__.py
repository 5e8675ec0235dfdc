"""Detection and instance segmentation: Mask R-CNN on an encoder, as the transfer of the SplitMask paper (section 5.5)."""
