"""The progress of a run on stderr: the metrics in a line."""

from __future__ import annotations

import pytest

from ni_framework.cli.progress import ProgressListener


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        (
            {"train/loss": 0.25, "train/accuracy": 0.875, "train/balance": 3.0},
            "loss 0.2500  accuracy 87.5%  - images/s",
        ),
        ({"train/loss": 0.25, "train/one_minus_mse": 0.75}, "loss 0.2500  one_minus_mse 0.750  - images/s"),
        ({"train/loss": 0.25}, "loss 0.2500  - images/s"),
        ({"lr": 0.1}, "all steps were skipped  - images/s"),
    ],
)
def test_line_has_loss_and_summary_metrics(
    metrics: dict[str, float], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressListener() as progress:
        progress.batch_size = 1
        progress.run_log(3, metrics)
    assert capsys.readouterr().err.startswith(f"step 3/0  {expected}  use ")
