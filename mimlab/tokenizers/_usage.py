"""How much of a vocabulary is in use."""

import math

import torch


def usage(ids, vocab):
    """How much of the vocabulary ids use: {"used", "entropy_bits", "top_share"}; 0 bits if one token is all."""
    counts = torch.bincount(ids.flatten().cpu(), minlength=vocab).double()  # not every device has float64
    share = counts[counts > 0] / counts.sum()
    entropy = -(share * share.log2()).sum().item()
    return {"used": len(share), "entropy_bits": max(0.0, entropy), "top_share": share.max().item()}


def collapsed(usage, vocab):
    """A warning if the tokens say next to nothing about the patches, else None.

    The most used token is left out: on drawings it is the flat background, and may be most patches. What
    counts is the entropy of the others, below 3 bits (8 tokens in even use) or half of what the vocabulary
    allows; from the entropy H of all and the top share p that is (H - H2(p)) / (1 - p), H2 in bits. Meant for
    some hundred patches or more.
    """
    p = usage["top_share"]
    if p < 1:
        top = -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
        rest = (usage["entropy_bits"] - top) / (1 - p)
        if rest >= min(3, math.log2(vocab - 1) / 2) - 1e-9:
            return None
    return (
        f"tokens have collapsed: {usage['used']} of {vocab} in use, {100 * p:.0f} % of the patches have the same, "
        f'{usage["entropy_bits"]:.1f} bits in all; try another tokenizer, or, where it has them, normalise = "imagenet" '
        f"or centre = True"
    )
