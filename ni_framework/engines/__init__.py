"""Engines carry out training steps: the local one in plain PyTorch, and `deepspeed`."""
