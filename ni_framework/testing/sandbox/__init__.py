"""Detects side effects of importing and calling plugins: printed text, files, random generators and other global state."""
