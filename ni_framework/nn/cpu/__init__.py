"""Kernels written for the CPU, used instead of plain PyTorch expressions where they are faster."""
