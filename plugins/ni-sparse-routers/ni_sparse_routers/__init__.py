"""Routers that open only a few of the pairs of function and element."""
