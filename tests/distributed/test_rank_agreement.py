"""A rank that fails ends without waiting for the others; and all ranks use the checkpoint that rank 0 has found."""

from __future__ import annotations

from pathlib import Path

from ni_framework.testing.workers.pool import WorkerPool


def test_failing_evaluation_ends_other_ranks_at_once(two_ranks: WorkerPool) -> None:
    (_, _), (message, seconds) = two_ranks.call("tests.helpers.rank_functions.rank_agreement:fail_on_one_rank")
    assert message == "a disk is gone"
    assert seconds < 2


def test_all_ranks_init_from_checkpoint_found_by_rank_zero(two_ranks: WorkerPool, tmp_path: Path) -> None:
    """A run may save another checkpoint while the ranks look for one; mixed weights would be the result at stages 1 to 3."""
    assert two_ranks.call(
        "tests.helpers.rank_functions.rank_agreement:init_from_rank_dependent_checkpoint", str(tmp_path)
    ) == ["2", "2"]
