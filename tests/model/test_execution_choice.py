"""`execution: auto` packs an iteration where so few pairs are open that this is faster, and says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ni_framework import trace
from ni_framework.cli.progress import Progress
from ni_framework.model.routing_metrics import routing_figures
from ni_framework.nn.layouts import packed as packed_file
from ni_framework.training.train import train
from tests.helpers.models import script_of, tiny_inputs, tiny_of
from tests.helpers.small_recipe import small_recipe


@pytest.mark.parametrize(("share", "pays"), [(0.0, True), (0.05, True), (0.7, True), (0.8, False), (1.0, False)])
def test_packing_pays_where_few_pairs_are_open(share: float, pays: bool) -> None:
    pairs_BUV = (torch.rand(64, 16, 64, generator=torch.Generator().manual_seed(0)) < share).float()
    assert packed_file.packing_pays(pairs_BUV) is pays


@pytest.mark.parametrize("bound", [0.0, 1.0])
def test_auto_chooses_and_tells(monkeypatch: pytest.MonkeyPatch, bound: float) -> None:
    """The same numbers either way, and which it was."""
    monkeypatch.setitem(packed_file.BREAK_EVEN, "cpu", bound)
    model = tiny_of("model.execution=auto", "model.router.truncation=0.8")
    seen = trace(model, tiny_inputs())
    assert seen.packed == [[bound == 1] * 3]
    figures = routing_figures(seen)
    assert figures["routing/packed"] == (bound == 1)
    dense = trace(tiny_of("model.router.truncation=0.8"), tiny_inputs())
    assert dense.packed == [[]]
    assert "routing/packed" not in routing_figures(dense)
    torch.testing.assert_close(seen.logits["shape"], dense.logits["shape"], rtol=1e-10, atol=1e-11)


def test_closed_pairs_that_learn_are_never_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(packed_file.BREAK_EVEN, "cpu", 1.0)
    model = tiny_of("model.execution=auto", "model.router={use: straight_through_kernel, truncation: 0.8}")
    assert not any(trace(model, tiny_inputs()).packed[0])
    assert script_of(model).router.gradient_through_closed


@pytest.mark.parametrize(("bound", "said"), [(1.0, "auto: all iterations packed"), (0.0, "auto: all iterations dense")])
def test_a_run_says_what_it_chose(
    bound: float, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At step 0, and in every line after it."""
    monkeypatch.setitem(packed_file.BREAK_EVEN, "cpu", bound)
    recipe = small_recipe(tmp_path, "model.execution=auto", "model.router.truncation=0.8", "train.steps=2")
    with Progress() as progress:
        train(recipe, tmp_path / "run", listeners=[progress])
    lines = [line for line in capsys.readouterr().err.splitlines() if "routing at step 0" in line or " loss " in line]
    assert len(lines) == 2
    assert all(said in line for line in lines)
