"""Heads: `classify` returns logits of classes, `regress` returns real numbers."""
