"""Which distributions may be used: the allow-list in the environment variable `NI_PLUGINS`."""

from __future__ import annotations

import os

from attrs import frozen

from ni_framework.registry.discover import normalize_distribution

ALLOWLIST_VARIABLE = "NI_PLUGINS"


@frozen
class Allowlist:
    """The value of `NI_PLUGINS`: the names of the only distributions that are used, and `-name` for blocked ones.

    If it is unset, all distributions are used; if it is empty, none; if it has only `-name`s, all others. The framework's own
    components are always used.
    """

    text: str | None = None

    def rejection_reason(self, distribution: str) -> tuple[str, str] | None:
        """Why a distribution may not be used, and how to allow it; None if it may be used."""
        if self.text is None:
            return None
        items = [item.strip() for item in self.text.split(",") if item.strip()]
        blocked = {normalize_distribution(item[1:].strip()) for item in items if item.startswith("-")}
        allowed = {normalize_distribution(item) for item in items if not item.startswith("-")}
        name = normalize_distribution(distribution)
        setting = f"{ALLOWLIST_VARIABLE}={','.join(items)}"
        if name in blocked:
            return f"is not allowed: {setting} blocks it", f"remove -{name} from {ALLOWLIST_VARIABLE}"
        if not items:
            return (
                f"is not allowed: {ALLOWLIST_VARIABLE} is empty, by itself or by --no-plugins, so no plugin is used",
                f"remove --no-plugins and unset {ALLOWLIST_VARIABLE}, or set {ALLOWLIST_VARIABLE}={name}",
            )
        if allowed and name not in allowed:
            return f"is not allowed: {setting} does not name it", f"add it: {setting},{name}"
        return None


def allowlist_from_env() -> Allowlist:
    """The allow-list in the environment of this process."""
    return Allowlist(os.environ.get(ALLOWLIST_VARIABLE))
