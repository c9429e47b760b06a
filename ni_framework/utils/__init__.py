"""Files, JSON and memory: what no other package owns."""
