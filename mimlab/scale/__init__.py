"""How cost grows: a training step against tokens, mask ratio, batch and processes; a data set against its images; memory
against the batch; and, on paper, communication against the number of GPUs."""

import math


def power(sizes, costs):
    """cost = factor * size ** exponent, by least squares on logarithms: (factor, exponent). Two or more different sizes."""
    xs, ys = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    exponent = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)
    return math.exp(y - exponent * x), exponent


def line(sizes, costs):
    """cost = fixed + each * size, by least squares: (fixed, each). Two or more different sizes."""
    x, y = sum(sizes) / len(sizes), sum(costs) / len(costs)
    each = sum((a - x) * (b - y) for a, b in zip(sizes, costs, strict=True)) / sum((a - x) ** 2 for a in sizes)
    return y - each * x, each
