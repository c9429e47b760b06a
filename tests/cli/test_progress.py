"""What people are shown of a head's metrics."""

from __future__ import annotations

import pytest

from ni_framework.cli.progress import Progress


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (
            {"train/loss": 0.25, "train/accuracy": 0.875, "train/balance": 3.0},
            "loss 0.2500  accuracy 87.5%  - images/s",
        ),
        ({"train/loss": 0.25, "train/r2": 0.75}, "loss 0.2500  r2 0.750  - images/s"),
        ({"train/loss": 0.25}, "loss 0.2500  - images/s"),
        ({"lr": 0.1}, "no step was taken  - images/s"),
    ],
)
def test_a_line_tells_the_loss_and_what_is_measured(
    metrics: dict[str, float], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress() as progress:
        progress.batch = 1
        progress.run_log(3, metrics)
    assert capsys.readouterr().err.startswith(f"step 3/0  {said}  use ")
