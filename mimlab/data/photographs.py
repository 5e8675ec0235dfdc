"""Five colour photographs that lie in scikit-image's wheel, between 451 x 300 and 1411 x 1411 pixels, without labels.

Licences, as scikit-image states them (the docstrings of skimage/data/_fetchers.py):
  astronaut          Eileen Collins, NASA; public domain
  chelsea            a cat, Stefan van der Walt; CC0
  coffee             a cup, Rachel Michetti; CC0
  hubble_deep_field  NASA; public domain
  retina             a fundus photograph, Mikael Häggström; CC0

Left out: rocket (public domain according to scikit-image, CC BY-NC according to its page: scikit-image issue 5095, open),
motorcycle_left and motorcycle_right (no licence stated), ihc (a micrograph without one), and all that is grey.
Both splits are all of them: there is nothing to evaluate without labels. Nothing is downloaded.
"""

import hashlib
import importlib.util
from pathlib import Path

from mimlab.errors import Refused, shown

NAMES = ("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "retina.jpg")


def files():
    """The paths of the photographs; `Refused` where scikit-image or one of them is missing."""
    package = importlib.util.find_spec("skimage")  # does not import it
    if package is None:
        raise Refused("photographs lie in scikit-image, which is not installed; use pip install scikit-image")
    folder = Path(package.submodule_search_locations[0]) / "data"
    missing = [name for name in NAMES if not (folder / name).is_file()]
    if missing:
        raise Refused(f"photographs: {folder} has no {', '.join(missing)}; install scikit-image from its wheel on PyPI")
    return [folder / name for name in NAMES]


def fingerprint(split):
    """The checksum of the files, 2 MB."""
    digest = hashlib.sha256()
    for file in files():
        digest.update(file.read_bytes())
    return digest.hexdigest()


def load(split):
    """A `datasets.Dataset` with image, five rows; "train" and "test" are the same."""
    import datasets

    if split not in ("train", "test"):
        raise Refused(f"photographs has no split {shown(split)}; there are: train, test (both are all photographs)")
    features = datasets.Features(image=datasets.Image())
    return datasets.Dataset.from_dict({"image": [str(file) for file in files()]}, features=features)
