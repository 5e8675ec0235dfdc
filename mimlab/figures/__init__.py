"""Figures are values: pure functions of arrays and labels that return a `plotly.graph_objects.Figure`."""
