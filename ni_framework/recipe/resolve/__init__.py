"""Combines the files and overrides of a recipe into one tree: `extends`, merging, scripts."""
