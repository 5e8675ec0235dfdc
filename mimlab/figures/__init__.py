"""Figures are values: pure functions of arrays and labels that return a `plotly.graph_objects.Figure`."""

from mimlab import light

light.nbformat()  # before plotly imports it for a first figure, which would take seconds
