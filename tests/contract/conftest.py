"""Fixtures of this folder."""

from .installing import install

__all__ = ["install"]
