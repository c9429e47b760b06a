"""One process that fails ends by itself: it asks nothing of the others, which know nothing of it yet."""

from __future__ import annotations

from pathlib import Path

from ni_framework.testing.workers.pool import Processes


def test_a_failing_evaluation_is_told_at_once(two: Processes) -> None:
    (_, _), (said, seconds) = two.call("tests.helpers.rank_functions.rank_agreement:evaluation_fails")
    assert said == "a disk is gone"
    assert seconds < 2


def test_all_begin_with_the_checkpoint_that_the_first_finds(two: Processes, tmp_path: Path) -> None:
    """Between two looks at a run folder it may have saved another; at stages 1 to 3 that would mix their weights."""
    assert two.call("tests.helpers.rank_functions.rank_agreement:begins", str(tmp_path)) == ["2", "2"]
