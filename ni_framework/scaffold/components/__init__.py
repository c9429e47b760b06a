"""One component of each kind, called Example: a plugin begins with one of them under its own name."""
