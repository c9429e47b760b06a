"""What the schema of recipes is written to: a JSON Schema for other tools, and a commented starter recipe."""
