"""Layouts of the pairs of function and element: all pairs (dense), or open pairs only (packed)."""
