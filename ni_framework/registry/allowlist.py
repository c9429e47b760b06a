"""Which distributions may be used at all: the environment's allow-list, `NI_PLUGINS`."""

from __future__ import annotations

import os

from attrs import frozen

from ni_framework.registry.discover import normalised

VARIABLE = "NI_PLUGINS"


@frozen
class Allowed:
    """What `NI_PLUGINS` says: names of distributions, of which alone entries are used, and `-name` for those that never are.

    Unset: all are. Empty: none. With `-name`s only, all others are. What the framework itself brings is always used.
    """

    text: str | None = None

    def refusal(self, distribution: str) -> tuple[str, str] | None:
        """Why a distribution may not be used, and how to allow it; None if it may."""
        if self.text is None:
            return None
        items = [item.strip() for item in self.text.split(",") if item.strip()]
        blocked = {normalised(item[1:].strip()) for item in items if item.startswith("-")}
        only = {normalised(item) for item in items if not item.startswith("-")}
        name = normalised(distribution)
        here = f"{VARIABLE}={','.join(items)}"
        if name in blocked:
            return f"is not allowed: {here} blocks it", f"take -{name} out of {VARIABLE}"
        if not items:
            return (
                f"is not allowed: {VARIABLE} is empty, by itself or by --no-plugins, so no plugin is used",
                f"leave out --no-plugins and unset {VARIABLE}, or set {VARIABLE}={name}",
            )
        if only and name not in only:
            return f"is not allowed: {here} does not name it", f"add it: {here},{name}"
        return None


def allowed_here() -> Allowed:
    """What the environment of this process allows."""
    return Allowed(os.environ.get(VARIABLE))
