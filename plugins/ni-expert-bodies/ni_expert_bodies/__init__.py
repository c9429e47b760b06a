"""Bodies beside lines of code, as components: they import only what any plugin may."""
