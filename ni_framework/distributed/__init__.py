"""Runs with several ranks: starting, connecting, monitoring and ending their processes."""
