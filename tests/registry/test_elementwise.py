"""Bodies made from plain functions with `elementwise`."""

from __future__ import annotations

from typing import Annotated, Any

import attrs
import pytest
import torch
from torch import Tensor

from ni_framework.elementwise import elementwise
from ni_framework.nn.layouts.dense import DensePairs
from ni_framework.registry.resolve import find_contract_violation
from ni_framework.testing import conformance
from ni_framework.testing.harness.case import Case
from ni_framework.testing.harness.invocation import call_component, make_invocation


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


def test_function_computes_its_formula() -> None:
    """Compared with loops over functions, samples and elements."""
    case = Case(film, {"twice": True})
    module, invocation = case.build_perturbed(), make_invocation(case)
    outcome_BUVD = call_component(module, invocation).results["output"]
    x_BVD, code_UC, c_BUV = (invocation.inputs[name] for name in ("x", "code", "compatibility"))
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


def test_options_and_names_come_from_the_function() -> None:
    assert film.__name__ == "film"
    assert film.__doc__ == "Scales and moves each element, and their mean: [..., D] -> [..., D]."
    assert film.__module__ == __name__
    assert find_contract_violation("body", film) is None
    fields = attrs.fields(film.Config)
    assert [(field.name, field.default, field.metadata["help"]) for field in fields] == [
        ("strength", 0.5, "size of the step"),
        ("twice", False, "twice"),
    ]
    plain: Any = film
    assert plain.function(torch.ones(2), torch.ones(2), torch.ones(2), torch.ones(2)).tolist() == [2.0, 2.0]


def test_without_mean_an_element_does_not_depend_on_others() -> None:
    case = Case(shift)
    module, invocation = case.build_perturbed(), make_invocation(case)
    pairs = DensePairs(invocation.inputs["compatibility"])
    prepared = module.prepare(invocation.inputs["code"], 7)
    x_BVD = invocation.inputs["x"]
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


INVALID_FUNCTIONS = {
    no_vector: "no_vector: needs an element and at least one vector that is made of the code, as in "
    "`def no_vector(x, shift)`",
    only_mean: "only_mean: needs an element and at least one vector that is made of the code, as in "
    "`def only_mean(x, shift)`",
    untyped: "untyped: the option `size` needs a type and a default, as in `strength: float = 1.0`",
    required: "required: the option `size` needs a type and a default, as in `strength: float = 1.0`",
    many: "many: name every argument, without `*steps` and without `/`",
}


@pytest.mark.parametrize("function", INVALID_FUNCTIONS, ids=lambda function: function.__name__)
def test_unsuitable_function_is_rejected(function: Any) -> None:
    with pytest.raises(TypeError) as caught:
        elementwise(function)
    assert str(caught.value) == INVALID_FUNCTIONS[function]
