"""JSON as every reader takes it: a number that is not finite is null, since JSON has neither NaN nor Infinity."""

import json
import math


def dumps(value, **options):
    """`json.dumps` of what is `finite`."""
    return json.dumps(finite(value), allow_nan=False, **options)


def finite(value):
    """The same value with None for each number in it that is not finite, as a key its name."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key) if isinstance(key, float) else key: finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(one) for one in value]
    return value
