"""Conformance checks in several processes."""
