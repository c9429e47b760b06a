"""Bodies from plain functions."""

from __future__ import annotations

from typing import Annotated, Any

import attrs
import pytest
import torch
from torch import Tensor

from ni_framework.elementwise import elementwise
from ni_framework.nn.layouts.dense import DensePairs
from ni_framework.registry.resolve import contract_fault
from ni_framework.testing import conformance
from ni_framework.testing.harness.case import Case
from ni_framework.testing.harness.invocation import call, trial


@elementwise
def film(
    x: Tensor,
    mean: Tensor,
    scale: Tensor,
    shift: Tensor,
    *,
    strength: Annotated[float, "size of the step"] = 0.5,
    twice: bool = False,
) -> Tensor:
    """Scales and moves each element, and their mean: [..., D] -> [..., D]."""
    return x + strength * (1 + twice) * (scale * x + shift * mean)


@elementwise
def shift(x: Tensor, step: Tensor) -> Tensor:
    """Moves each element: [..., D] -> [..., D]."""
    return x + torch.tanh(step)


test_film = conformance(film, strength=2.0)
test_shift = conformance(shift)


def test_is_what_it_says() -> None:
    """Against loops over functions, samples and elements."""
    case = Case(film, {"twice": True})
    module, of = case.built(), trial(case)
    outcome_BUVD = call(module, of).results["outcome"]
    x_BVD, code_UC, c_BUV = (of.inputs[name] for name in ("x", "code", "compatibility"))
    scale_UD, shift_UD = module.say(code_UC).chunk(2, dim=-1)
    for sample in range(len(x_BVD)):
        for function in range(len(code_UC)):
            c_V1 = c_BUV[sample, function].unsqueeze(-1)
            mean_D = (c_V1 * x_BVD[sample]).sum(dim=0) / c_V1.sum()
            for element in range(x_BVD.shape[1]):
                x_D = x_BVD[sample, element]
                expected_D = x_D + (scale_UD[function] * x_D + shift_UD[function] * mean_D)
                expected_D = expected_D * (c_BUV[sample, function, element] > 0)
                torch.testing.assert_close(outcome_BUVD[sample, function, element], expected_D)


def test_options_and_names_are_the_functions() -> None:
    assert film.__name__ == "film"
    assert film.__doc__ == "Scales and moves each element, and their mean: [..., D] -> [..., D]."
    assert film.__module__ == __name__
    assert contract_fault("body", film) is None
    fields = attrs.fields(film.Config)
    assert [(field.name, field.default, field.metadata["help"]) for field in fields] == [
        ("strength", 0.5, "size of the step"),
        ("twice", False, "twice"),
    ]
    plain: Any = film
    assert plain.function(torch.ones(2), torch.ones(2), torch.ones(2), torch.ones(2)).tolist() == [2.0, 2.0]


def test_without_mixing_an_element_sees_itself_alone() -> None:
    case = Case(shift)
    module, of = case.built(), trial(case)
    pairs = DensePairs(of.inputs["compatibility"])
    prepared = module.prepare(of.inputs["code"], 7)
    x_BVD = of.inputs["x"]
    other_BVD = torch.cat([x_BVD[:, :1], 5 * x_BVD[:, 1:]], dim=1)
    first, second = (module(x, prepared, pairs)[:, :, 0] for x in (x_BVD, other_BVD))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


def no_vector(x: Tensor) -> Tensor:
    return x


def only_mean(x: Tensor, mean: Tensor) -> Tensor:
    return x


def untyped(x: Tensor, step: Tensor, *, size=1.0) -> Tensor:  # type: ignore[no-untyped-def]
    return x


def required(x: Tensor, step: Tensor, *, size: float) -> Tensor:
    return x


def many(x: Tensor, *steps: Tensor) -> Tensor:
    return x


REFUSED = {
    no_vector: "no_vector: takes an element and at least one vector that its function's code says, as in "
    "`def no_vector(x, shift)`",
    only_mean: "only_mean: takes an element and at least one vector that its function's code says, as in "
    "`def only_mean(x, shift)`",
    untyped: "untyped: the option `size` needs a type and a default, as in `strength: float = 1.0`",
    required: "required: the option `size` needs a type and a default, as in `strength: float = 1.0`",
    many: "many: say what it takes by name, without `*steps` and without `/`",
}


@pytest.mark.parametrize("function", REFUSED, ids=lambda function: function.__name__)
def test_what_is_no_such_function(function: Any) -> None:
    with pytest.raises(TypeError) as caught:
        elementwise(function)
    assert str(caught.value) == REFUSED[function]
