"""Functions that minimise an energy: undirected neural networks for Neural Interpreters."""
