"""Growth of trained models: adding and removing functions, tasks and iterations, and moving functions between models."""
