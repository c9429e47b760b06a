"""Routers: kernels between types and signatures, and wrappers that change the result of another router."""
