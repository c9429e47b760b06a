"""What conformance checks are run on: a component, a call of it, a small model around it."""
