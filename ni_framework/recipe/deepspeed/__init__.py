"""DeepSpeed settings that a recipe may hold: known, rejected, and checked against one another."""
