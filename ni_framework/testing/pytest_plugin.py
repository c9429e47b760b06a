"""The pytest plugin: `pytest --conformance swirl` checks an installed component or distribution.

pytest loads this module wherever the framework is installed, so it imports other modules only when they are needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option `--conformance`."""
    parser.addoption(
        "--conformance",
        action="append",
        default=[],
        metavar="NAME",
        help="run the conformance checks on an installed component (swirl, body/swirl) or distribution (ni-swirl)",
    )


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Adds a test for each check of the requested components."""
    for name in config.getoption("--conformance") or []:
        items += _conformance_items(session, name)


def _conformance_items(session: pytest.Session, name: str) -> Iterator[pytest.Item]:
    from ni_framework.errors import NIError
    from ni_framework.testing.checks import checks_for_kind
    from ni_framework.testing.selection import load_case, select_entries

    try:
        for entry in select_entries(name):
            case = load_case(entry)
            for check in checks_for_kind(entry.kind).values():
                item_name = f"{entry.kind}/{entry.name}[{check.name}]"
                yield ConformanceItem.from_parent(session, name=item_name, case=case, check=check)
    except NIError as error:
        raise pytest.UsageError(str(error)) from error


class ConformanceItem(pytest.Item):
    """One check of one component."""

    def __init__(self, *, case: Any, check: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.case, self.check = case, check

    def runtest(self) -> None:
        self.check.run_in_pytest(self.case)

    def reportinfo(self) -> tuple[Any, int | None, str]:
        return self.path, None, self.name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Reports a failed check by its message alone; a traceback through the checks would not help a plugin author."""
    report = yield
    if call.excinfo is not None and getattr(call.excinfo.value, "is_conformance_failure", False):
        report.longrepr = str(call.excinfo.value)
    return report
