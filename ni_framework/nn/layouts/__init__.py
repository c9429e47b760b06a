"""Layouts of the pairs of function and element: all pairs (dense), or the open ones only (packed)."""
