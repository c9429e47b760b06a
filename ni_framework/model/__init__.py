"""Interpreters: scripts, whole models, how a recipe becomes one, and what one does with a batch."""
