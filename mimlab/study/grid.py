"""The combinations of a study."""

import itertools

from mimlab.errors import Refused, shown


def combinations(spec):
    """[(settings, varied)]: `settings` for the notebook, `varied` what sets this combination apart, in the file's order.

    A dotted name, such as encoder_args.dim, sets one option of a dict. Raises Refused where an exclusion excludes
    nothing, or everything is excluded.
    """
    groups = [[{name: value} for value in values] for name, values in spec.axes.items()]
    groups += [
        [dict(zip(group, values, strict=True)) for values in zip(*group.values(), strict=True)] for group in spec.zip
    ]
    groups += [[{"preset": path} for path in spec.presets]] if spec.presets else []
    groups += [[{"seed": seed} for seed in spec.seeds]] if spec.seeds else []
    found, hits = [], [0] * len(spec.exclude)
    for parts in itertools.product(*groups):
        varied = {name: value for part in parts for name, value in part.items()}
        out = [all(varied[name] == value for name, value in one.items()) for one in spec.exclude]
        hits = [hit + one for hit, one in zip(hits, out, strict=True)]
        if not any(out):
            found.append((merged(spec.base, varied), varied))
    for one, hit in zip(spec.exclude, hits, strict=True):
        if not hit:
            raise Refused(f"exclude = {shown(one)} fits no combination of {spec.name}")
    if not found:
        raise Refused(f"exclude leaves nothing of {spec.name}")
    return found


def merged(base, varied):
    """`base` with the varied values over it; a dotted name goes into a copy of its dict."""
    settings = dict(base)
    for name, value in varied.items():
        whole, _, option = name.partition(".")
        if option:
            inner = settings.get(whole, {})
            if not isinstance(inner, dict):
                raise Refused(f"{name}: {whole} = {shown(inner)} is no dict of options")
            settings[whole] = inner | {option: value}
        else:
            settings[name] = value
    return settings
