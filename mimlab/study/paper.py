"""What the SplitMask paper (arXiv 2112.10740v1) measured, beside which a study's own numbers stand.

Fine-tune top-1 in percent. Data, encoders and recipes are the paper's, so only the shape of a curve can be compared.
"""

# Table 1: iNaturalist 2019 after pre-training on a share of ImageNet, equal updates; the numbers are those of ViT-S.
SHARES = (0.01, 0.1, 1.0)
SHARE = {
    "supervised": (71.6, 75.0, 75.8),
    "dino": (70.1, 73.1, 78.4),
    "beit": (74.1, 74.5, 75.2),
    "splitmask": (74.8, 75.4, 75.4),
}
SCRATCH = 67.5  # Table 6, ViT-S on iNaturalist 2019, random initialisation
# Table 1: all of ImageNet (object-centric) against COCO (scenes).
SCENES = {"dino": (78.4, 71.9), "beit": (75.2, 74.4), "splitmask": (75.4, 76.3)}
# Table 2: BEiT's tokenizers, iNaturalist 2019.
TOKENIZERS = {"dalle": 75.2, "random_projection": 75.2, "random_patches": 75.3, "kmeans": 75.0}
# Table 8: ViT-B, 300 epochs of ImageNet: (fine-tune, linear).
STEPS = {
    "BEiT": (82.8, 41.0),
    "split, inpaint": (83.3, 46.4),
    "split, match": (79.3, 4.0),
    "split, inpaint, match": (83.6, 46.5),
}


def shares():
    """Table 1 for `figures.studies.against`: method -> (shares, top-1)."""
    return {name: (SHARES, values) for name, values in SHARE.items()}


def tables():
    """Table 1's two data sets, Table 2 and Table 8, each as rows: {"scenes": ..., "tokenizers": ..., "steps": ...}."""
    return {
        "scenes": [{"method": name, "ImageNet (%)": whole, "COCO (%)": part} for name, (whole, part) in SCENES.items()],
        "tokenizers": [{"tokenizer": name, "fine-tune (%)": value} for name, value in TOKENIZERS.items()],
        "steps": [
            {"steps": name, "fine-tune (%)": tuned, "linear (%)": linear} for name, (tuned, linear) in STEPS.items()
        ],
    }
