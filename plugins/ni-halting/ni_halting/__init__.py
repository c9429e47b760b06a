"""Halting for Neural Interpreters: each element learns how many iterations it gets."""
