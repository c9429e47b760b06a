"""Batches: which samples a step sees, and how they are loaded."""
