"""One process that fails ends by itself: it asks nothing of the others, which know nothing of it yet."""

from __future__ import annotations

from ni_framework.testing.processes import Processes


def test_a_failing_evaluation_is_told_at_once(two: Processes) -> None:
    (_, _), (said, seconds) = two.call("tests.distributed.work_review:evaluation_fails")
    assert said == "a disk is gone"
    assert seconds < 2
