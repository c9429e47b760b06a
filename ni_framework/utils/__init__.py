"""Files, JSON and memory: helpers that belong to no other package."""
