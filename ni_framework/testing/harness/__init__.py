"""What conformance checks run: a component, a call of the component, and a small model that contains it."""
