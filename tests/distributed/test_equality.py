"""With DeepSpeed as without: the same numbers at any stage, in any number of processes."""

from __future__ import annotations

import pytest

from ni_framework.testing.processes import Processes


def test_all_processes_take_part(two: Processes, four: Processes) -> None:
    assert two.call("tests.distributed.work:team_size") == [2, 2]
    assert four.call("tests.distributed.work:team_size") == [4] * 4


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_stages(two: Processes, stage: int) -> None:
    for found in two.call("tests.distributed.work:compare_with_local", stage, ["model.scripts=2"]):
        assert found["loss"] < 1e-5
        assert found["weights"] < 1e-6
