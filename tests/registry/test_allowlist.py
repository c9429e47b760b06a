"""Which entries are never used: not allowed by the environment, reserved, or badly named."""

from __future__ import annotations

from pathlib import Path

import pytest

from ni_framework.errors import PluginError
from ni_framework.registry.allowlist import Allowed
from ni_framework.registry.catalog import installed
from ni_framework.registry.discover import Entry
from ni_framework.registry.resolve import component, load
from ni_framework.testing import report
from tests.cli.conftest import Ni, ni, small  # noqa: F401  fixtures
from tests.helpers.distributions import Install

BODY = """
from ni_framework.contracts import Body, Router
class Odd(Body):
    '''Odd. In every way.'''
    def forward(self, *a): pass
"""
ENTRY = {"body": {"odd": "ni_odd:Odd"}}

# NI_PLUGINS, a distribution, and why it may not be used.
CASES = {
    (None, "ni-odd"): None,
    ("ni-odd", "ni-odd"): None,
    (" Ni_Odd , ni-even", "ni.odd"): None,
    ("-ni-even", "ni-odd"): None,
    ("", "ni-odd"): (
        "is not allowed: NI_PLUGINS is empty, by itself or by --no-plugins, so no plugin is used",
        "leave out --no-plugins and unset NI_PLUGINS, or set NI_PLUGINS=ni-odd",
    ),
    (" , ", "ni-odd"): (
        "is not allowed: NI_PLUGINS is empty, by itself or by --no-plugins, so no plugin is used",
        "leave out --no-plugins and unset NI_PLUGINS, or set NI_PLUGINS=ni-odd",
    ),
    ("ni-even", "NI_Odd"): (
        "is not allowed: NI_PLUGINS=ni-even does not name it",
        "add it: NI_PLUGINS=ni-even,ni-odd",
    ),
    ("-ni_odd", "ni-odd"): ("is not allowed: NI_PLUGINS=-ni_odd blocks it", "take -ni-odd out of NI_PLUGINS"),
    ("ni-odd,-ni-odd", "ni-odd"): (  # what is blocked is blocked
        "is not allowed: NI_PLUGINS=ni-odd,-ni-odd blocks it",
        "take -ni-odd out of NI_PLUGINS",
    ),
}


@pytest.fixture
def ours_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """By `ni ls --load`, which takes a minute for our own components; test_isolation.py has it try them all."""
    tried = report.report_on

    def report_on(entry: Entry) -> report.Report:
        return tried(entry) if entry.distribution == "ni-odd" else report.Report(entry, ())

    monkeypatch.setattr(report, "report_on", report_on)


@pytest.mark.parametrize(("text", "distribution"), CASES)
def test_allow_list(text: str | None, distribution: str) -> None:
    assert Allowed(text).refusal(distribution) == CASES[text, distribution]


@pytest.mark.usefixtures("ours_are_not_tried")
@pytest.mark.parametrize("text", ["", "ni-even", "ni-odd,-ni-odd"])
def test_what_is_not_allowed_is_not_imported(
    text: str,
    ni: Ni,  # noqa: F811
    small: Path,  # noqa: F811
    install: Install,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is listed so, and a recipe that names it stops with the reason; its name is not among those to choose from."""
    install("ni_odd", f"open({str(small / 'imported')!r}, 'w')\n{BODY}", ENTRY)
    monkeypatch.setenv("NI_PLUGINS", text)
    assert ["body", "odd", "ni-odd", "0.1", "not", "allowed"] in [line.split() for line in ni("ls").out.splitlines()]
    (row,) = [row for row in ni("ls", "--load", "--json").json if row["name"] == "odd"]
    reason, hint = Allowed(text).refusal("ni-odd") or ("", "")
    assert (row["remark"], row["status"]) == ("not allowed", reason)
    said = f"body `odd` of ni-odd 0.1 (ni_odd:Odd) {reason}"
    for arguments, end in {
        ("check", "small.yaml", "model.body=odd"): f"error: model.body: {said}\n    model.body=odd\n               ^\n",
        ("show", "odd"): f"error: {said}\n",
    }.items():
        done = ni(*arguments)
        assert done.code == 4
        assert done.err.endswith(f"{end}  help: {hint}\n")
    assert not (small / "imported").exists()
    assert ni("check", "small.yaml").code == 0
    assert installed().names("body") == ["lines_of_code"]


def test_one_of_two_with_a_name_may_be_left_out(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the other one is meant."""
    monkeypatch.setenv("NI_PLUGINS", "-ni-even")
    install("ni_odd", BODY, ENTRY)
    install("ni_even", "", {"body": {"odd": "ni_even:Even"}})
    assert component("body", "odd").__name__ == "Odd"


NAMES = {
    "kernel": (
        "is never used: ni-framework itself provides router `kernel`, and its names are reserved",
        "reserved",
    ),
    "yes": ("has a name that YAML reads as a value, so no recipe should name it", "no name"),
    "null": ("has a name that YAML reads as a value, so no recipe should name it", "no name"),
    "Odd": ("has no name of lower-case letters, digits and _, so no recipe can name it", "no name"),
    "os.system": ("has no name of lower-case letters, digits and _, so no recipe can name it", "no name"),
    "2d": ("has no name of lower-case letters, digits and _, so no recipe can name it", "no name"),
}


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_not_to_be_had(name: str, install: Install) -> None:
    """Loading the entry says so, and a listing does; the framework's own stays in use."""
    install("ni_odd", "raise SystemExit", {"router": {name: "ni_odd:Odd"}})
    (entry,) = [entry for entry in installed().entries if entry.distribution == "ni-odd"]
    message, remark = NAMES[name]
    assert installed().remark(entry) == remark
    with pytest.raises(PluginError) as caught:
        load(entry)
    assert str(caught.value) == (
        f"error: router `{name}` of ni-odd 0.1 (ni_odd:Odd) {message}\n  help: ask ni-odd for another name"
    )
    assert component("router", "kernel").__module__ == "ni_standard.routers.kernels"
    assert name == "kernel" or name not in installed().names("router")


def test_a_listing_says_who_else_provides_a_name(install: Install) -> None:
    """And with --load what is in order."""
    install("ni_odd", BODY, ENTRY)
    install("ni_even", "1 / 0", {"body": {"odd": "ni_even:Even"}})
    remarks = {entry.distribution: installed().remark(entry) for entry in installed().entries if entry.name == "odd"}
    assert remarks == {"ni-odd": "also provided by ni-even 0.1", "ni-even": "also provided by ni-odd 0.1"}


@pytest.mark.usefixtures("ours_are_not_tried")
def test_load_says_what_is_in_order(ni: Ni, install: Install) -> None:  # noqa: F811
    """Each by itself; a broken one says why, and keeps nobody from being listed."""
    install("ni_odd", BODY, {"body": {"odd": "ni_odd:Odd", "odder": "ni_odd:Odder"}, "hooks": {"odd": "ni_odd:Odd"}})
    rows = {(row["kind"], row["name"]): row for row in ni("ls", "--load", "--json").json}
    odd, odder, hooks = rows["body", "odd"], rows["body", "odder"], rows["hooks", "odd"]
    assert (odd["api"], odd["status"], odd["summary"], odd["options"], odd["remark"]) == (1, "ok", "Odd.", [], "")
    assert odd["file"].endswith("ni_odd.py")
    assert odder["status"] == "broken: cannot be imported: AttributeError: module 'ni_odd' has no attribute 'Odder'"
    assert hooks["status"] == "broken: is a class; name an object made of it"
    kernel = rows["router", "kernel"]
    assert (kernel["status"], kernel["options"][0]["name"]) == ("ok", "truncation")
    assert len({tuple(sorted(row)) for row in rows.values()}) == 1
    lines = ni("ls", "--load").out.splitlines()
    assert lines[0].split() == ["kind", "name", "distribution", "version", "api", "status", "conformance", "summary"]
    assert ni("show", "odder").code == 4
