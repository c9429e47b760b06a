"""One component of each kind, called Example. A new plugin starts with one of them under its own name."""
