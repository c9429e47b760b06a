"""The usage of functions on a split, compared with plain loops over its samples."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from ni_framework import trace
from ni_framework.contracts import Batch
from ni_framework.evaluation import function_usage as module
from ni_framework.evaluation.function_usage import SampledSplit, measure_function_usage
from ni_framework.model.interpreter import Interpreter
from tests.helpers.models import TASKS, build_base_model, random_inputs

SAMPLES, ELEMENTS = 9, 6
TWO_SCRIPTS = "model.scripts=[{iterations: 2}, {iterations: 3, functions: 2}]"


class MixedTaskSplit:
    """Samples with masks; some have a target for one task, some for the other, one for both and one for none."""

    def __init__(self) -> None:
        self.inputs = random_inputs(batch=SAMPLES)
        self.mask_BN = torch.rand(SAMPLES, ELEMENTS, generator=torch.Generator().manual_seed(1)) < 0.7
        index_B = torch.arange(SAMPLES)
        self.present = {"shape": index_B < 5, "colour": (index_B > 3) & (index_B < SAMPLES - 1)}

    def __len__(self) -> int:
        return SAMPLES

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        targets = {task: torch.zeros(len(index_B), dtype=torch.long) for task in TASKS}
        present = {task: present_S[index_B] for task, present_S in self.present.items()}
        return Batch(self.inputs[index_B], targets, self.mask_BN[index_B], present)


class SampleIndexSplit:
    """A split whose inputs are the indices of the samples."""

    def __len__(self) -> int:
        return 3000

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        return Batch(index_B, {})


def usage_by_loops(model: Interpreter, split: MixedTaskSplit) -> list[tuple[Tensor, Tensor]]:
    """Returns usage and fraction of open pairs, both [I, L, U], of each script, with loops over samples and elements."""
    traces = [trace(model, split.inputs[n : n + 1], split.mask_BN[n : n + 1]) for n in range(SAMPLES)]
    usage = []
    for script, (iterations, functions) in enumerate(((2, 4), (3, 2))):
        use_ILU, open_ILU = torch.zeros(2, iterations, len(TASKS), functions, dtype=torch.float64)
        for index in product(range(iterations), range(len(TASKS)), range(functions)):
            iteration, task, function = index
            compatibilities = []
            for number in split.present[list(TASKS)[task]].nonzero().flatten().tolist():
                c_V = traces[number].compatibility[script][iteration][0, function]
                is_present = [True] * len(TASKS) + split.mask_BN[number].tolist()
                compatibilities += [c for c, present in zip(c_V.tolist(), is_present, strict=True) if present]
            use_ILU[index] = sum(compatibilities) / len(compatibilities)
            open_ILU[index] = sum(c > 0 for c in compatibilities) / len(compatibilities)
        usage.append((use_ILU, open_ILU))
    return usage


@pytest.mark.slow
@pytest.mark.parametrize("max_compatibilities", [1, 2**24])
def test_usage_equals_the_loops(max_compatibilities: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masked elements and samples without a target do not count, whatever the size of the batches."""
    monkeypatch.setattr(module, "MAX_TRACED_COMPATIBILITIES", max_compatibilities)
    split, model = MixedTaskSplit(), build_base_model(TWO_SCRIPTS)
    usage = measure_function_usage(model, split)
    assert model.training, "the model is in the mode it was in before"
    for script_usage, (use_ILU, open_ILU) in zip(usage, usage_by_loops(model.eval(), split), strict=True):
        assert torch.allclose(script_usage.use_ILU, use_ILU, rtol=0, atol=1e-9), "mean compatibility"
        assert torch.allclose(script_usage.open_ILU, open_ILU, rtol=0, atol=1e-9), "fraction of open pairs"
        assert len(script_usage.use_ILU.unique()) > 5, "the values differ, so that a constant would fail"


def test_a_task_without_samples_has_usage_nan() -> None:
    """NaN and not 0: without samples nothing is known about a function."""
    split = MixedTaskSplit()
    split.present["colour"][:] = False
    use_ILU = measure_function_usage(build_base_model(TWO_SCRIPTS), split)[0].use_ILU
    assert use_ILU[:, 1].isnan().all()
    assert use_ILU[:, 0].isfinite().all()


def test_sampled_split_is_spread_and_reproducible() -> None:
    """The samples are distinct, in order, and from the whole split; if too many are requested, it has all of them."""
    sampled = SampledSplit(SampleIndexSplit(), 300)
    index_S = sampled.batch(torch.arange(300), None).inputs
    assert torch.equal(index_S, SampledSplit(SampleIndexSplit(), 300).batch(torch.arange(300), None).inputs)
    assert len(sampled) == 300, "length"
    assert len(index_S.unique()) == 300, "samples are distinct"
    assert torch.equal(index_S, index_S.sort().values), "samples are in order"
    thirds = [int((index_S // 1000 == part).sum()) for part in range(3)]
    assert min(thirds) > 70, "samples of each task, if three tasks follow one another in the split"
    interleaved = [int((index_S % 3 == part).sum()) for part in range(3)]
    assert min(interleaved) > 70, "samples of each task, if three tasks alternate in the split"
    assert len(SampledSplit(SampleIndexSplit(), 10**6)) == 3000
