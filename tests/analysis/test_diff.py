"""The differences between checkpoints: keys of documents, and the routing of masked elements."""

from __future__ import annotations

import torch
from torch import Tensor

from ni_framework.analysis.diff import ValueChange, diff_values
from ni_framework.analysis.routing_diff import count_assignment_changes
from ni_framework.contracts import Batch
from ni_framework.model.trace import trace
from tests.helpers.models import build_base_model, random_inputs


def test_diff_values() -> None:
    """Values and their types are compared, lists of mappings item by item and other lists as a whole; null is a value."""
    a = {"same": 1, "number": 1, "scripts": [{"u": 3, "v": 4}], "list": [1, 2], "gone": None, "in": {"x": None}}
    b = {"same": 1, "number": 1.0, "scripts": [{"u": 5, "v": 4}, {"u": 3}], "list": [1], "in": {"x": 0}, "new": {}}
    assert diff_values(a, b) == [
        ValueChange("number", 1, 1.0, None),
        ValueChange("scripts.0.u", 3, 5, None),
        ValueChange("list", [1, 2], [1], None),
        ValueChange("gone", None, None, "A"),
        ValueChange("in.x", None, 0, None),
        ValueChange("scripts.1.u", None, 3, "B"),
        ValueChange("new", None, {}, "B"),
    ]
    assert diff_values(a, a) == []


class MaskedSplit:
    """Samples with some masked elements."""

    def __init__(self) -> None:
        self.inputs = random_inputs(batch=7)
        self.mask_BN = torch.rand(7, 6, generator=torch.Generator().manual_seed(1)) < 0.7

    def __len__(self) -> int:
        return 7

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        return Batch(self.inputs[index_B], {}, self.mask_BN[index_B])


def test_assignment_changes_are_counted_per_element() -> None:
    """The counts equal those of plain loops: iterations and functions differ, and masked elements do not count."""
    split = MaskedSplit()
    model_a, model_b = build_base_model("model.iterations=3"), build_base_model("model.functions=5", "seed=4")
    (matrices,) = count_assignment_changes(model_a, model_b, split)
    assert model_a.training, "the mode of the model must be restored"
    assert model_b.training, "the mode of the model must be restored"
    compatibilities = [
        trace(model.eval(), split.inputs, split.mask_BN).compatibility[0] for model in (model_a, model_b)
    ]
    assert len(matrices) == 3
    cells = set()
    for iteration, matrix in enumerate(matrices):
        expected = torch.zeros(5, 6, dtype=torch.int64)
        for sample in range(7):
            present = [True, True, *split.mask_BN[sample].tolist()]
            for element in (number for number in range(8) if present[number]):
                cell = []
                for compatibility in compatibilities:
                    shares = compatibility[iteration][sample, :, element].tolist()
                    cell.append(shares.index(max(shares)) if max(shares) > 0 else len(shares))
                expected[tuple(cell)] += 1
                cells.add(tuple(cell))
        assert torch.equal(matrix, expected)
        assert matrix.sum() == 2 * 7 + split.mask_BN.sum()
    assert len(cells) > 4, "the test needs different assignments"
