"""Which tests run beside which, under pytest-xdist."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

# Tests that start several processes which wait for each other, or that measure time: run in parallel, they would starve.
# They have the mark `distributed`.
DISTRIBUTED_PATHS = (
    "tests/cli/test_durable.py",
    "tests/cli/test_errors.py",
    "tests/cli/test_processes.py",
    "tests/distributed/",
    "tests/fault_injection/",
)


def is_distributed(nodeid: str) -> bool:
    """Whether a test must not run at the same time as others of which this is true."""
    return nodeid.startswith(DISTRIBUTED_PATHS)


class Scheduling(LoadFileScheduling):
    """Assigns whole files to workers, so that fixtures are made once; all of `DISTRIBUTED_PATHS` go to one worker."""

    def _split_scope(self, nodeid: str) -> str:
        return "distributed" if is_distributed(nodeid) else super()._split_scope(nodeid)
