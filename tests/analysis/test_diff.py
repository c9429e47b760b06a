"""What a difference is made of: keys, tensors that belong to functions, and moves of elements that are masked."""

from __future__ import annotations

import torch
from torch import Tensor

from ni_framework.analysis.diff import Change, changed
from ni_framework.analysis.routing_diff import count_moves
from ni_framework.contracts import Batch
from ni_framework.model.trace import trace
from tests.helpers.models import inputs_of, model_of


def test_keys_are_compared_by_value_and_type() -> None:
    """Lists of mappings by their items, other lists whole; null is a value."""
    a = {"same": 1, "number": 1, "scripts": [{"u": 3, "v": 4}], "list": [1, 2], "gone": None, "in": {"x": None}}
    b = {"same": 1, "number": 1.0, "scripts": [{"u": 5, "v": 4}, {"u": 3}], "list": [1], "in": {"x": 0}, "new": {}}
    assert changed(a, b) == [
        Change("number", 1, 1.0, None),
        Change("scripts.0.u", 3, 5, None),
        Change("list", [1, 2], [1], None),
        Change("gone", None, None, "A"),
        Change("in.x", None, 0, None),
        Change("scripts.1.u", None, 3, "B"),
        Change("new", None, {}, "B"),
    ]
    assert changed(a, a) == []


class Masked:
    """Samples of which some elements are masked."""

    def __init__(self) -> None:
        self.inputs = inputs_of(batch=7)
        self.mask_BN = torch.rand(7, 6, generator=torch.Generator().manual_seed(1)) < 0.7

    def __len__(self) -> int:
        return 7

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        return Batch(self.inputs[index_B], {}, self.mask_BN[index_B])


def test_moves_are_counted_element_by_element() -> None:
    """Against loops: iterations and functions differ, masked elements do not count."""
    split, one, other = Masked(), model_of("model.iterations=3"), model_of("model.functions=5", "seed=4")
    (found,) = count_moves(one, other, split)
    assert (one.training, other.training) == (True, True)
    seen = [trace(model.eval(), split.inputs, split.mask_BN).compatibility[0] for model in (one, other)]
    assert len(found) == 3
    kinds = set()
    for iteration, matrix in enumerate(found):
        expected = torch.zeros(5, 6, dtype=torch.int64)
        for sample in range(7):
            present = [True, True, *split.mask_BN[sample].tolist()]
            for element in (number for number in range(8) if present[number]):
                place = []
                for of_model in seen:
                    shares = of_model[iteration][sample, :, element].tolist()
                    place.append(shares.index(max(shares)) if max(shares) > 0 else len(shares))
                expected[tuple(place)] += 1
                kinds.add(tuple(place))
        assert torch.equal(matrix, expected)
        assert matrix.sum() == 2 * 7 + split.mask_BN.sum()
    assert len(kinds) > 4, "or a constant would do"
