"""Routing metrics and their warnings: on constructed cases, and against measurements on random routings."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ni_framework.model.routing_metrics import routing_metrics, routing_warnings
from ni_framework.model.trace import Trace, trace
from ni_framework.nn.kernel import cosine_distance, to_unit_length, truncated_kernel
from tests.helpers.models import build_tiny_model, build_with_tasks, load_base_recipe, tiny_inputs

# There is one CLS element.
B, U, V, D, N = 4, 3, 6, 5, 5


def build_trace(
    c_BUV: Tensor | None = None, norms: tuple[float, ...] = (1.0, 1.2), logits: Tensor | None = None, scripts: int = 1
) -> Trace:
    """A trace with these compatibilities in every iteration and states of these norms; the defaults are healthy."""
    if c_BUV is None:
        c_BUV = torch.ones(B, U, V) / U
    states = [torch.full((B, V, D), norm / math.sqrt(D)) for norm in norms]
    return Trace(
        compatibility=[[c_BUV] * len(norms)] * scripts,
        states=[states] * scripts,
        outputs=[states[-1]] * scripts,
        logits={"task": torch.randn(B, 7, generator=torch.Generator().manual_seed(0)) if logits is None else logits},
    )


def random_open(share: float) -> Tensor:
    """Compatibilities of which about this fraction is open, the same for every function and element."""
    return (torch.rand(B, U, V, generator=torch.Generator().manual_seed(1)) < share).float()


def warnings_of_trace(traced: Trace) -> list[str]:
    return routing_warnings(routing_metrics(traced))


def test_metrics_count_pairs_and_elements() -> None:
    c_BUV = torch.zeros(B, U, V)
    c_BUV[:, 0, :3] = 0.25
    c_BUV[:, 1, :2] = 0.75
    metrics = routing_metrics(
        build_trace(c_BUV, norms=(1.0, 3.0), logits=torch.tensor([[0.0, 1], [2, 1], [0, 1], [2, 1]]))
    )
    expected = {
        "routing/open": 5 / (U * V),
        "routing/orphans": 3 / V,
        "routing/use/script0/f0": 0.75 / 2.25,
        "routing/use/script0/f1": 1.5 / 2.25,
        "routing/use/script0/f2": 0.0,
        "routing/state_norm/script0/iteration0": 1.0,
        "routing/state_norm/script0/iteration1": 3.0,
        "routing/logit_variance": 0.5,
    }
    assert metrics.keys() == expected.keys()
    assert all(math.isclose(metrics[name], expected[name], abs_tol=1e-6) for name in expected)


def test_masked_elements_do_not_count() -> None:
    """The metrics are those of the other elements, whatever a masked element holds."""
    mask_BN = torch.ones(B, N, dtype=torch.bool)
    mask_BN[:, 3:] = False
    c_BUV = random_open(0.6)
    masked_c_BUV = c_BUV.clone()
    masked_c_BUV[:, :, 4:] = 0
    traced = build_trace(masked_c_BUV)
    traced.states[0][0][:, 4:] = 1e6
    expected = routing_metrics(build_trace(c_BUV[:, :, :4]))
    masked, unmasked = routing_metrics(traced, mask_BN), routing_metrics(traced)
    assert masked.keys() == expected.keys()
    assert all(math.isclose(masked[name], expected[name], rel_tol=1e-5) for name in expected)
    assert unmasked["routing/open"] < masked["routing/open"]
    assert unmasked["routing/state_norm/script0/iteration0"] > 1e5


def test_masked_elements_of_a_model_do_not_count() -> None:
    model = build_tiny_model("model.router.truncation=2")
    mask = torch.tensor([[True] * 2 + [False] * 4] * 2)
    traced = trace(model, tiny_inputs(), mask)
    assert routing_metrics(traced, mask)["routing/open"] == 1
    # 2 CLS elements and 2 of the input, of 8.
    assert routing_metrics(traced)["routing/open"] == 0.5


def test_a_healthy_model_has_no_warnings() -> None:
    assert warnings_of_trace(build_trace()) == []
    assert warnings_of_trace(build_trace(scripts=3)) == []
    model = build_tiny_model("model.router.truncation=1.42")
    assert warnings_of_trace(trace(model, tiny_inputs(8))) == []


def idle_function(share: float) -> Tensor:
    """Compatibilities in which function 1 has this fraction of an even share."""
    c_BUV = torch.ones(B, U, V)
    c_BUV[:, 1] = share * (U - 1) / (U - share)
    return c_BUV / c_BUV.sum(dim=1, keepdim=True)


def unassigned_elements(number: int) -> Tensor:
    """Compatibilities in which no function takes this many of six elements."""
    c_BUV = torch.ones(B, U, V) / U
    c_BUV[:, :, :number] = 0
    return c_BUV


def one_open_pair_in(every: int) -> Tensor:
    """Compatibilities of which every n-th pair is open."""
    c_BUV = torch.zeros(B, U * V)
    c_BUV[:, ::every] = 1
    return c_BUV.view(B, U, V)


def one_function_takes_all(function: int) -> Tensor:
    """Compatibilities in which one function takes every element."""
    c_BUV = torch.zeros(B, U, V)
    c_BUV[:, function] = 1
    return c_BUV


SAME_LOGITS = torch.ones(B, 7)
# The numbers and the text of a warning; a case that triggers it, and a case that is just healthy.
WARNINGS: list[tuple[str, str, Trace, Trace]] = [
    ("only 5.6%", " of the pairs are open", build_trace(one_open_pair_in(18)), build_trace(one_open_pair_in(6))),
    (
        "33%",
        " of the elements are taken by no function",
        build_trace(unassigned_elements(2)),
        build_trace(unassigned_elements(1)),
    ),
    (
        "",
        "the logits are the same for every sample",
        build_trace(logits=SAME_LOGITS),
        build_trace(logits=SAME_LOGITS + torch.arange(B)[:, None]),
    ),
    (
        "the states of script0",
        " grow from 1 to 11 over",
        build_trace(norms=(1.0, 5.0, 11.0)),
        build_trace(norms=(1.0, 30.0, 9.0)),
    ),
    (
        "the states of script0",
        " shrink from 1 to 0.05 over",
        build_trace(norms=(1.0, 0.05)),
        build_trace(norms=(1.0, 0.01, 0.2)),
    ),
    ("the states of script0", " shrink from 0 to 0 over", build_trace(norms=(0.0, 0.0)), build_trace(norms=(0.1, 0.1))),
    ("f1 of script0", " is hardly used", build_trace(idle_function(0.01)), build_trace(idle_function(0.03))),
    ("f0, f2 of script0", " are hardly used", build_trace(one_function_takes_all(1)), build_trace()),
]


@pytest.mark.parametrize(("start", "text", "degenerate", "healthy"), WARNINGS, ids=[case[1] for case in WARNINGS])
def test_each_warning_has_its_case(start: str, text: str, degenerate: Trace, healthy: Trace) -> None:
    assert sum(message.startswith(start + text) for message in warnings_of_trace(degenerate)) == 1
    kind = text.partition(" from")[0]
    assert not any(kind in message for message in warnings_of_trace(healthy))


def test_each_warning_names_a_remedy() -> None:
    for _, _, degenerate, _ in WARNINGS:
        for message in warnings_of_trace(degenerate):
            assert any(remedy in message for remedy in ("truncation", "pooling: delta", "check that the inputs differ"))


def test_warnings_name_the_script() -> None:
    healthy, degenerate = build_trace(), build_trace(norms=(1.0, 20.0))
    both = Trace(
        healthy.compatibility + degenerate.compatibility,
        healthy.states + degenerate.states,
        healthy.outputs + degenerate.outputs,
        healthy.logits,
    )
    assert [message[:26] for message in warnings_of_trace(both)] == ["the states of script1 grow"]


# Truncation, open pairs and elements without a function, measured on random directions in 24 dimensions.
MEASURED_OPEN_SHARES = [(0.6, 0.02, 0.89), (0.9, 0.32, 0.16), (1.0, 0.50, 0.03), (1.42, 0.98, 0.0)]


@pytest.mark.parametrize(("truncation", "open_pairs", "orphans"), MEASURED_OPEN_SHARES)
def test_truncations_open_as_much_as_measured(truncation: float, open_pairs: float, orphans: float) -> None:
    generator = torch.Generator().manual_seed(0)
    type_BVT = to_unit_length(torch.randn(200, 20, 24, generator=generator))
    measured = []
    # Different signatures each time, because the result varies a lot with only five functions.
    for _ in range(40):
        signature_UT = to_unit_length(torch.randn(5, 24, generator=generator))
        c_BUV = truncated_kernel(cosine_distance(type_BVT, signature_UT), torch.tensor(1.0), truncation)
        traced = Trace([[c_BUV]], [[]], [type_BVT], {"task": torch.zeros(2, 3)})
        metrics = routing_metrics(traced)
        measured.append((metrics["routing/open"], metrics["routing/orphans"]))
    means = torch.tensor(measured).mean(dim=0)
    torch.testing.assert_close(means, torch.tensor([open_pairs, orphans]), atol=0.025, rtol=0)


def test_truncation_of_the_preset_opens_nearly_all_pairs_at_the_start() -> None:
    model = build_with_tasks(load_base_recipe("model.router.truncation=1.42", "model.type=24", "model.width=60"))
    metrics = routing_metrics(trace(model, torch.randn(8, 2, 9, 6, generator=torch.Generator().manual_seed(0))))
    assert metrics["routing/open"] > 0.8
    assert metrics["routing/orphans"] < 0.02
