"""Parses YAML text into a tree of nodes, each with its place in the file."""
