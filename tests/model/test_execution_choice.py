"""`execution: auto` packs an iteration if so few pairs are open that this is faster, and reports it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ni_framework import trace
from ni_framework.cli.progress import ProgressListener
from ni_framework.model.routing_metrics import routing_metrics
from ni_framework.nn.layouts import packed as packed_file
from ni_framework.training.train import train
from tests.helpers.models import build_tiny_model, first_script, tiny_inputs
from tests.helpers.small_recipe import load_small_recipe


@pytest.mark.parametrize(
    ("open_fraction", "packs"), [(0.0, True), (0.05, True), (0.7, True), (0.8, False), (1.0, False)]
)
def test_packing_is_faster_if_few_pairs_are_open(open_fraction: float, packs: bool) -> None:
    pairs_BUV = (torch.rand(64, 16, 64, generator=torch.Generator().manual_seed(0)) < open_fraction).float()
    assert packed_file.is_packing_faster(pairs_BUV) is packs


@pytest.mark.parametrize("bound", [0.0, 1.0])
def test_auto_chooses_and_reports(monkeypatch: pytest.MonkeyPatch, bound: float) -> None:
    """The numbers do not depend on the choice, and the trace contains the choice."""
    monkeypatch.setitem(packed_file.BREAK_EVEN, "cpu", bound)
    model = build_tiny_model("model.execution=auto", "model.router.truncation=0.8")
    traced = trace(model, tiny_inputs())
    assert traced.packed == [[bound == 1] * 3]
    assert routing_metrics(traced)["routing/packed"] == (bound == 1)
    dense = trace(build_tiny_model("model.router.truncation=0.8"), tiny_inputs())
    assert dense.packed == [[]]
    assert "routing/packed" not in routing_metrics(dense)
    torch.testing.assert_close(traced.logits["shape"], dense.logits["shape"], rtol=1e-10, atol=1e-11)


def test_closed_pairs_with_gradient_are_never_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packed_file.BREAK_EVEN, "cpu", 1.0)
    model = build_tiny_model("model.execution=auto", "model.router={use: straight_through_kernel, truncation: 0.8}")
    assert not any(trace(model, tiny_inputs()).packed[0])
    assert first_script(model).router.straight_through


@pytest.mark.parametrize(
    ("bound", "message"), [(1.0, "auto: all iterations packed"), (0.0, "auto: all iterations dense")]
)
def test_run_logs_the_choice(
    bound: float, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At step 0, and in every later line."""
    monkeypatch.setitem(packed_file.BREAK_EVEN, "cpu", bound)
    recipe = load_small_recipe(tmp_path, "model.execution=auto", "model.router.truncation=0.8", "train.steps=2")
    with ProgressListener() as progress:
        train(recipe, tmp_path / "run", listeners=[progress])
    lines = [line for line in capsys.readouterr().err.splitlines() if "routing at step 0" in line or " loss " in line]
    assert len(lines) == 2
    for line in lines:
        assert message in line
