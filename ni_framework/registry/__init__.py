"""Installed components, and recipes checked against them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ni_framework.registry.catalog import installed_catalog as installed_catalog
    from ni_framework.registry.discover import Entry as Entry
    from ni_framework.registry.load import load_recipe as load_recipe
    from ni_framework.registry.load import load_recipe_text as load_recipe_text

# Imported on first use: commands that read no recipe start faster.
_REGISTRY_EXPORTS = {
    "Entry": "ni_framework.registry.discover",
    "installed_catalog": "ni_framework.registry.catalog",
    "load_recipe": "ni_framework.registry.load",
    "load_recipe_text": "ni_framework.registry.load",
}
__all__ = list(_REGISTRY_EXPORTS)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _REGISTRY_EXPORTS:
        return getattr(import_module(_REGISTRY_EXPORTS[name]), name)
    raise AttributeError(f"module 'ni_framework.registry' has no attribute {name!r}")
