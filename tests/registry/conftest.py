"""Fixtures of this folder."""

from tests.helpers.distributions import install

__all__ = ["install"]
