"""The components of the paper; they are registered by entry points and import only what any plugin may import."""
