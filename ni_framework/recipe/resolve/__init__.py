"""From the files and overrides of a recipe to one tree: `extends`, merging, scripts."""
