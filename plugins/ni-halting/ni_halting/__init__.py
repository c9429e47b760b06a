"""Halting for Neural Interpreters: the number of iterations of each element is learned."""
