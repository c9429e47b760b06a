"""Runs functions and conformance checks in several processes."""
