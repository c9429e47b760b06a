"""Routers by which every element goes to few functions, as components: they import only what any plugin may."""
