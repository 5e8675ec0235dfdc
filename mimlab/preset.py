"""Presets: a masking setting in a small YAML file, saved by the explorer, read by notebooks, runs and studies."""

from pathlib import Path

from mimlab import remote, trusted, yaml_text
from mimlab.errors import Refused, shown
from mimlab.settings import place

FIELDS = ("mask", "mask_ratio", "mask_args")


def text(mask, mask_ratio, mask_args):
    """A preset as YAML."""
    return yaml_text.dump({"mask": mask, "mask_ratio": mask_ratio, "mask_args": mask_args})


def save(path, mask, mask_ratio, mask_args):
    """Write a preset; a file that is already there with other content is kept and `Refused`."""
    from mimlab.run import write

    path, content = place(path), text(mask, mask_ratio, mask_args)
    if path.suffix not in (".yaml", ".yml"):
        raise Refused(f"preset = '{path}' should end in .yaml")
    if path.exists() and path.read_text() != content:
        raise Refused(f"preset = '{path}' exists with another setting; choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, content)
    return path


def read(path):
    """The settings of a preset: {"mask", "mask_ratio", "mask_args"}, checked for names and types only."""
    if not remote.away(path):
        path = Path(path) if Path(path).is_file() else place(path)
    found = yaml_text.read(path, "preset")
    if not isinstance(found, dict) or "mask" not in found or set(found) - set(FIELDS):
        names = ", ".join(map(str, list(found)[:20])) if isinstance(found, dict) else type(found).__name__
        raise Refused(f"preset = '{path}' has {names}; expected {', '.join(FIELDS)}")
    if not isinstance(found["mask"], str):  # a ratio may be text, as everywhere
        raise Refused(f"preset = '{path}': mask = {shown(found['mask'])} is not text")
    if remote.away(path):
        trusted.check("mask", found["mask"], f"the preset '{path}'")
    return found


def apply(settings):
    """Settings with the preset's mask, ratio and options filled in, and no preset any more.

    Refuses values that were given beside it, since one of the two would be ignored.
    """
    found = read(settings.preset)
    default = type(settings)()
    given = [name for name in found if getattr(settings, name) != getattr(default, name)]
    if given:
        raise Refused(
            f"preset = '{settings.preset}' sets {', '.join(found)}, but {', '.join(given)} was given too; use one of them"
        )
    return type(settings).read(vars(settings) | found | {"preset": None})
