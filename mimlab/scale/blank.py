"""A source of any number of black images, to see how cost grows with their number: `growth.written` makes its cache, of
holes in a file, which takes no room on the disk."""

from mimlab.errors import Refused


def fingerprint(split, *, count, classes=100):
    return f"{count} of {classes}"


def load(split, *, count, classes=100):
    raise Refused("blank images are never decoded; mimlab.scale.growth writes their cache")
