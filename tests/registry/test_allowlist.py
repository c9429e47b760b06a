"""Entries that are never used: not allowed by the environment, reserved, or with an invalid name."""

from __future__ import annotations

from pathlib import Path

import pytest

from ni_framework.contracts import API_VERSION
from ni_framework.errors import PluginError
from ni_framework.registry.allowlist import Allowlist
from ni_framework.registry.catalog import installed_catalog
from ni_framework.registry.discover import Entry
from ni_framework.registry.resolve import load_entry, resolve_component
from ni_framework.testing import report
from tests.cli.conftest import RunNi, ni, small_recipe_dir  # noqa: F401  fixtures
from tests.helpers.distributions import InstallDistribution

ODD_BODY_SOURCE = """
from ni_framework.contracts import Body, Router
class Odd(Body):
    '''Odd. It does nothing.'''
    def forward(self, *a): pass
"""
ODD_BODY_ENTRY = {"body": {"odd": "ni_odd:Odd"}}

# NI_PLUGINS and a distribution -> why it may not be used, and the hint.
ALLOWLIST_CASES = {
    (None, "ni-odd"): None,
    ("ni-odd", "ni-odd"): None,
    (" Ni_Odd , ni-even", "ni.odd"): None,
    ("-ni-even", "ni-odd"): None,
    ("", "ni-odd"): (
        "is not allowed: NI_PLUGINS is empty, by itself or by --no-plugins, so no plugin is used",
        "remove --no-plugins and unset NI_PLUGINS, or set NI_PLUGINS=ni-odd",
    ),
    (" , ", "ni-odd"): (
        "is not allowed: NI_PLUGINS is empty, by itself or by --no-plugins, so no plugin is used",
        "remove --no-plugins and unset NI_PLUGINS, or set NI_PLUGINS=ni-odd",
    ),
    ("ni-even", "NI_Odd"): (
        "is not allowed: NI_PLUGINS=ni-even does not name it",
        "add it: NI_PLUGINS=ni-even,ni-odd",
    ),
    ("-ni_odd", "ni-odd"): ("is not allowed: NI_PLUGINS=-ni_odd blocks it", "remove -ni-odd from NI_PLUGINS"),
    ("ni-odd,-ni-odd", "ni-odd"): (  # Blocking wins.
        "is not allowed: NI_PLUGINS=ni-odd,-ni-odd blocks it",
        "remove -ni-odd from NI_PLUGINS",
    ),
}


@pytest.fixture
def skip_own_components(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `ni ls --load` skip the built-in components, which take a minute; test_isolation.py checks all of them."""
    check_component = report.check_component

    def report_on(entry: Entry) -> report.ConformanceReport:
        return check_component(entry) if entry.distribution == "ni-odd" else report.ConformanceReport(entry, ())

    monkeypatch.setattr(report, "check_component", report_on)


@pytest.mark.parametrize(("text", "distribution"), ALLOWLIST_CASES)
def test_rejection_reason(text: str | None, distribution: str) -> None:
    assert Allowlist(text).rejection_reason(distribution) == ALLOWLIST_CASES[text, distribution]


@pytest.mark.slow
@pytest.mark.usefixtures("skip_own_components")
@pytest.mark.parametrize("text", ["", "ni-even", "ni-odd,-ni-odd"])
def test_what_is_not_allowed_is_not_imported(
    text: str,
    ni: RunNi,  # noqa: F811
    small_recipe_dir: Path,  # noqa: F811
    install: InstallDistribution,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A listing shows it as not allowed, and a recipe that names it gets the reason; its name is not offered."""
    install("ni_odd", f"open({str(small_recipe_dir / 'imported')!r}, 'w')\n{ODD_BODY_SOURCE}", ODD_BODY_ENTRY)
    monkeypatch.setenv("NI_PLUGINS", text)
    assert ["body", "odd", "ni-odd", "0.1", "not", "allowed"] in [line.split() for line in ni("ls").out.splitlines()]
    (row,) = [row for row in ni("ls", "--load", "--json").json if row["name"] == "odd"]
    reason, hint = Allowlist(text).rejection_reason("ni-odd") or ("", "")
    assert row["remark"] == "not allowed"
    assert row["status"] == reason
    message = f"body `odd` of ni-odd 0.1 (ni_odd:Odd) {reason}"
    for arguments, end in {
        (
            "check",
            "small.yaml",
            "model.body=odd",
        ): f"error: model.body: {message}\n    model.body=odd\n               ^\n",
        ("show", "odd"): f"error: {message}\n",
    }.items():
        done = ni(*arguments)
        assert done.code == 4
        assert done.err.endswith(f"{end}  help: {hint}\n")
    assert not (small_recipe_dir / "imported").exists()
    assert ni("check", "small.yaml").code == 0
    assert installed_catalog().names("body") == ["lines_of_code"]


def test_blocking_one_of_two_distributions_with_a_name(
    install: InstallDistribution, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other distribution is then used."""
    monkeypatch.setenv("NI_PLUGINS", "-ni-even")
    install("ni_odd", ODD_BODY_SOURCE, ODD_BODY_ENTRY)
    install("ni_even", "", {"body": {"odd": "ni_even:Even"}})
    assert resolve_component("body", "odd").__name__ == "Odd"


INVALID_NAME = "has a name with other characters than lower-case letters, digits and _, so no recipe can name it"
# A name -> why it is rejected, and the remark in a listing.
UNAVAILABLE_NAMES = {
    "kernel": (
        "is never used: ni-framework itself provides router `kernel`, and its names are reserved",
        "reserved",
    ),
    "yes": ("has a name that YAML reads as a value, so no recipe should name it", "invalid name"),
    "null": ("has a name that YAML reads as a value, so no recipe should name it", "invalid name"),
    "Odd": (INVALID_NAME, "invalid name"),
    "os.system": (INVALID_NAME, "invalid name"),
    "2d": (INVALID_NAME, "invalid name"),
}


@pytest.mark.parametrize("name", UNAVAILABLE_NAMES)
def test_unavailable_names_are_rejected(name: str, install: InstallDistribution) -> None:
    """By loading the entry and in a listing; the framework's own component stays in use."""
    install("ni_odd", "raise SystemExit", {"router": {name: "ni_odd:Odd"}})
    (entry,) = [entry for entry in installed_catalog().entries if entry.distribution == "ni-odd"]
    message, remark = UNAVAILABLE_NAMES[name]
    assert installed_catalog().remark(entry) == remark
    with pytest.raises(PluginError) as caught:
        load_entry(entry)
    assert str(caught.value) == (
        f"error: router `{name}` of ni-odd 0.1 (ni_odd:Odd) {message}\n  help: ask the authors of ni-odd to rename it"
    )
    assert resolve_component("router", "kernel").__module__ == "ni_standard.routers.kernels"
    assert name == "kernel" or name not in installed_catalog().names("router")


def test_a_listing_names_the_other_provider_of_a_name(install: InstallDistribution) -> None:
    install("ni_odd", ODD_BODY_SOURCE, ODD_BODY_ENTRY)
    install("ni_even", "1 / 0", {"body": {"odd": "ni_even:Even"}})
    remarks = {
        entry.distribution: installed_catalog().remark(entry)
        for entry in installed_catalog().entries
        if entry.name == "odd"
    }
    assert remarks == {"ni-odd": "also provided by ni-even 0.1", "ni-even": "also provided by ni-odd 0.1"}


@pytest.mark.slow
@pytest.mark.usefixtures("skip_own_components")
def test_ls_load_shows_the_status_of_each_entry(ni: RunNi, install: InstallDistribution) -> None:  # noqa: F811
    """A broken entry shows the reason, and the others are listed too."""
    install(
        "ni_odd",
        ODD_BODY_SOURCE,
        {"body": {"odd": "ni_odd:Odd", "odder": "ni_odd:Odder"}, "hooks": {"odd": "ni_odd:Odd"}},
    )
    rows = {(row["kind"], row["name"]): row for row in ni("ls", "--load", "--json").json}
    odd, odder, hooks = rows["body", "odd"], rows["body", "odder"], rows["hooks", "odd"]
    assert odd["api"] == API_VERSION
    assert odd["status"] == "ok"
    assert odd["summary"] == "Odd."
    assert odd["options"] == []
    assert odd["remark"] == ""
    assert odd["file"].endswith("ni_odd.py")
    assert odder["status"] == "broken: cannot be imported: AttributeError: module 'ni_odd' has no attribute 'Odder'"
    assert hooks["status"] == "broken: is a class; name an instance of it"
    kernel = rows["router", "kernel"]
    assert kernel["status"] == "ok"
    assert kernel["options"][0]["name"] == "truncation"
    assert len({tuple(sorted(row)) for row in rows.values()}) == 1
    lines = ni("ls", "--load").out.splitlines()
    assert lines[0].split() == ["kind", "name", "distribution", "version", "api", "status", "conformance", "summary"]
    assert ni("show", "odder").code == 4
