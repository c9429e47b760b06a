"""Recipes for other tools: a JSON Schema, and a commented recipe to start from."""
