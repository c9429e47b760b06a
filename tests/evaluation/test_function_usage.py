"""The use of functions on a split, against plain loops over its samples."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from ni_framework import trace
from ni_framework.contracts import Batch
from ni_framework.evaluation import function_usage as module
from ni_framework.evaluation.function_usage import Chosen, used
from ni_framework.model.interpreter import Interpreter
from tests.helpers.models import TASKS, inputs_of, model_of

SAMPLES, ELEMENTS = 9, 6
SCRIPTS = "model.scripts=[{iterations: 2}, {iterations: 3, functions: 2}]"


class Mixed:
    """Samples with masks, of which some have an answer for one task, some for the other, one for both and one for none."""

    def __init__(self) -> None:
        self.inputs = inputs_of(batch=SAMPLES)
        self.mask_BN = torch.rand(SAMPLES, ELEMENTS, generator=torch.Generator().manual_seed(1)) < 0.7
        index_B = torch.arange(SAMPLES)
        self.present = {"shape": index_B < 5, "colour": (index_B > 3) & (index_B < SAMPLES - 1)}

    def __len__(self) -> int:
        return SAMPLES

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        targets = {task: torch.zeros(len(index_B), dtype=torch.long) for task in TASKS}
        present = {task: of[index_B] for task, of in self.present.items()}
        return Batch(self.inputs[index_B], targets, self.mask_BN[index_B], present)


class Numbers:
    """Samples that are their own indices."""

    def __len__(self) -> int:
        return 3000

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        return Batch(index_B, {})


def by_loops(model: Interpreter, split: Mixed) -> list[tuple[Tensor, Tensor]]:
    """Use and share of open pairs, [I, L, U] of each script, one sample and one element after the other."""
    alone = [trace(model, split.inputs[n : n + 1], split.mask_BN[n : n + 1]) for n in range(SAMPLES)]
    found = []
    for script, (iterations, functions) in enumerate(((2, 4), (3, 2))):
        use_ILU, open_ILU = torch.zeros(2, iterations, len(TASKS), functions, dtype=torch.float64)
        for place in product(range(iterations), range(len(TASKS)), range(functions)):
            iteration, task, function = place
            shares = []
            for number in split.present[list(TASKS)[task]].nonzero().flatten().tolist():
                c_V = alone[number].compatibility[script][iteration][0, function]
                counts = [True] * len(TASKS) + split.mask_BN[number].tolist()
                shares += [share for share, counted in zip(c_V.tolist(), counts, strict=True) if counted]
            use_ILU[place] = sum(shares) / len(shares)
            open_ILU[place] = sum(share > 0 for share in shares) / len(shares)
        found.append((use_ILU, open_ILU))
    return found


@pytest.mark.parametrize("largest", [1, 2**24])
def test_use_is_the_mean_share_of_an_element(largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """By iteration and task; masked elements and samples without an answer do not count, however the split is divided."""
    monkeypatch.setattr(module, "LARGEST", largest)
    split, model = Mixed(), model_of(SCRIPTS)
    found = used(model, split)
    assert model.training, "the model is left as it was"
    for of, expected in zip(found, by_loops(model.eval(), split), strict=True):
        assert torch.allclose(of.use_ILU, expected[0], rtol=0, atol=1e-9)
        assert torch.allclose(of.open_ILU, expected[1], rtol=0, atol=1e-9)
        assert len(of.use_ILU.unique()) > 5, "or a constant would do"


def test_a_task_without_samples_has_no_use() -> None:
    """NaN, and not 0: that nobody asked says nothing of a function."""
    split = Mixed()
    split.present["colour"][:] = False
    use_ILU = used(model_of(SCRIPTS), split)[0].use_ILU
    assert use_ILU[:, 1].isnan().all()
    assert use_ILU[:, 0].isfinite().all()


def test_chosen_samples_are_spread_and_always_the_same() -> None:
    """Without repetition, in order, from all over the split; more than there are, are all."""
    chosen = Chosen(Numbers(), 300)
    index_S = chosen.batch(torch.arange(300), None).inputs
    assert torch.equal(index_S, Chosen(Numbers(), 300).batch(torch.arange(300), None).inputs)
    assert (len(chosen), len(index_S.unique())) == (300, 300)
    assert torch.equal(index_S, index_S.sort().values)
    thirds = [int((index_S // 1000 == part).sum()) for part in range(3)]
    assert min(thirds) > 70, "of each task, where three lie one after the other"
    turns = [int((index_S % 3 == part).sum()) for part in range(3)]
    assert min(turns) > 70, "and where they take turns"
    assert len(Chosen(Numbers(), 10**6)) == 3000
