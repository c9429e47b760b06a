"""Checkpoints and run folders: written, read, resumed from and verified."""
