"""Which tests run beside which, under pytest-xdist."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

# What starts several processes that wait for one another, or looks at time: beside one another they would be starved.
ALONE = (
    "tests/cli/test_durable.py",
    "tests/cli/test_errors.py",
    "tests/cli/test_processes.py",
    "tests/distributed/",
    "tests/fault_injection/",
)


def alone(nodeid: str) -> bool:
    """Whether a test runs beside none of the others of which this is true."""
    return nodeid.startswith(ALONE)


class Scheduling(LoadFileScheduling):
    """Files, so that fixtures are made once; those of `ALONE` are taken for one file, by one worker."""

    def _split_scope(self, nodeid: str) -> str:
        return "alone" if alone(nodeid) else super()._split_scope(nodeid)
