"""For pytest: `pytest --conformance swirl` tries an installed component or distribution, and failures are told in words.

Loaded by pytest wherever the framework is installed, so it imports nothing before it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option, beside pytest's own."""
    parser.addoption(
        "--conformance",
        action="append",
        default=[],
        metavar="NAME",
        help="try the checks of ni_framework on an installed component (swirl, body/swirl) or distribution (ni-swirl)",
    )


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Adds a test for each check of what was asked for."""
    for name in config.getoption("--conformance") or []:
        items += _items(session, name)


def _items(session: pytest.Session, name: str) -> Iterator[pytest.Item]:
    from ni_framework.errors import NIError
    from ni_framework.testing.checks import checks_of
    from ni_framework.testing.selection import case_of, selected

    try:
        for entry in selected(name):
            case = case_of(entry)
            for check in checks_of(entry.kind).values():
                item = f"{entry.kind}/{entry.name}[{check.name}]"
                yield Conformance.from_parent(session, name=item, case=case, check=check)
    except NIError as error:
        raise pytest.UsageError(str(error)) from error


class Conformance(pytest.Item):
    """One check of one component."""

    def __init__(self, *, case: Any, check: Any, **known: Any) -> None:
        super().__init__(**known)
        self.case, self.check = case, check

    def runtest(self) -> None:
        self.check.test(self.case)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        return self.path, None, self.name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A failed check is its text: where in the kit it was raised helps nobody."""
    report = yield
    if call.excinfo is not None and getattr(call.excinfo.value, "is_conformance_failure", False):
        report.longrepr = str(call.excinfo.value)
    return report
