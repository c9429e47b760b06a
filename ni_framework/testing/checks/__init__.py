"""The checks themselves, in the order in which they run; importing them fills `check.CHECKS`."""

from ni_framework.testing.checks import declared, values, symmetry, gradient, execution, own, together  # noqa: F401, I001  in this order
