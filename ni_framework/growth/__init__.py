"""Trained models with more capacity, or less, and functions that move between models."""
