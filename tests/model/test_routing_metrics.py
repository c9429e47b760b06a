"""The routing figures and their warnings: on built cases, and against what was measured on random routings."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ni_framework.model.routing_metrics import routing_figures, warnings
from ni_framework.model.trace import Trace, trace
from ni_framework.nn.kernel import distance, truncated_kernel, unit
from tests.helpers.models import build, recipe_of, tiny_inputs, tiny_of

B, U, V, D, N = 4, 3, 6, 5, 5  # one CLS element


def built(
    c_BUV: Tensor | None = None, norms: tuple[float, ...] = (1.0, 1.2), logits: Tensor | None = None, scripts: int = 1
) -> Trace:
    """A trace with these compatibilities in every iteration and states of these norms; healthy where nothing is given."""
    if c_BUV is None:
        c_BUV = torch.ones(B, U, V) / U
    states = [torch.full((B, V, D), norm / math.sqrt(D)) for norm in norms]
    return Trace(
        compatibility=[[c_BUV] * len(norms)] * scripts,
        states=[states] * scripts,
        outputs=[states[-1]] * scripts,
        logits={"task": torch.randn(B, 7, generator=torch.Generator().manual_seed(0)) if logits is None else logits},
    )


def opened(share: float) -> Tensor:
    """Compatibilities of which about this share is open, for every function and element alike."""
    return (torch.rand(B, U, V, generator=torch.Generator().manual_seed(1)) < share).float()


def warned(of: Trace) -> list[str]:
    return warnings(routing_figures(of))


def test_figures_count_pairs_and_elements() -> None:
    c_BUV = torch.zeros(B, U, V)
    c_BUV[:, 0, :3] = 0.25
    c_BUV[:, 1, :2] = 0.75
    figures = routing_figures(built(c_BUV, norms=(1.0, 3.0), logits=torch.tensor([[0.0, 1], [2, 1], [0, 1], [2, 1]])))
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
    assert figures.keys() == expected.keys()
    assert all(math.isclose(figures[name], expected[name], abs_tol=1e-6) for name in expected)


def test_masked_elements_do_not_count() -> None:
    """Whatever stands at a masked element, the figures are those of the others."""
    mask_BN = torch.ones(B, N, dtype=torch.bool)
    mask_BN[:, 3:] = False
    c_BUV = opened(0.6)
    spoilt = c_BUV.clone()
    spoilt[:, :, 4:] = 0
    found = built(spoilt)
    found.states[0][0][:, 4:] = 1e6
    alone = built(c_BUV[:, :, :4])
    expected = routing_figures(alone)
    masked, unmasked = routing_figures(found, mask_BN), routing_figures(found)
    assert masked.keys() == expected.keys()
    assert all(math.isclose(masked[name], expected[name], rel_tol=1e-5) for name in expected)
    assert unmasked["routing/open"] < masked["routing/open"]
    assert unmasked["routing/state_norm/script0/iteration0"] > 1e5


def test_masked_elements_of_a_model_do_not_count() -> None:
    model = tiny_of("model.router.truncation=2")
    mask = torch.tensor([[True] * 2 + [False] * 4] * 2)
    found = trace(model, tiny_inputs(), mask)
    assert routing_figures(found, mask)["routing/open"] == 1
    assert routing_figures(found)["routing/open"] == 0.5  # 2 CLS and 2 elements of 8


def test_a_healthy_model_has_no_warnings() -> None:
    assert warned(built()) == []
    assert warned(built(scripts=3)) == []
    model = tiny_of("model.router.truncation=1.42")
    assert warned(trace(model, tiny_inputs(8))) == []


def idle(share: float) -> Tensor:
    """Function 1 has this part of an even share."""
    c_BUV = torch.ones(B, U, V)
    c_BUV[:, 1] = share * (U - 1) / (U - share)
    return c_BUV / c_BUV.sum(dim=1, keepdim=True)


def orphaned(number: int) -> Tensor:
    """This many of six elements are taken by nobody."""
    c_BUV = torch.ones(B, U, V) / U
    c_BUV[:, :, :number] = 0
    return c_BUV


def sparse(every: int) -> Tensor:
    """One pair in so many is open; each element counts as taken as far as that allows."""
    c_BUV = torch.zeros(B, U * V)
    c_BUV[:, ::every] = 1
    return c_BUV.view(B, U, V)


def single(function: int) -> Tensor:
    """One function takes everything."""
    c_BUV = torch.zeros(B, U, V)
    c_BUV[:, function] = 1
    return c_BUV


SAME = torch.ones(B, 7)
# What a warning says: its number and its words; the case that triggers it, and the one just on the healthy side.
WARNINGS: list[tuple[str, str, Trace, Trace]] = [
    ("only 5.6%", " of the pairs are open", built(sparse(18)), built(sparse(6))),
    ("33%", " of the elements are taken by no function", built(orphaned(2)), built(orphaned(1))),
    ("", "the logits are the same for every sample", built(logits=SAME), built(logits=SAME + torch.arange(B)[:, None])),
    ("the states of script0", " grow from 1 to 11 over", built(norms=(1.0, 5.0, 11.0)), built(norms=(1.0, 30.0, 9.0))),
    ("the states of script0", " shrink from 1 to 0.05 over", built(norms=(1.0, 0.05)), built(norms=(1.0, 0.01, 0.2))),
    ("the states of script0", " shrink from 0 to 0 over", built(norms=(0.0, 0.0)), built(norms=(0.1, 0.1))),
    ("f1 of script0", " is hardly used", built(idle(0.01)), built(idle(0.03))),
    ("f0, f2 of script0", " are hardly used", built(single(1)), built()),
]


@pytest.mark.parametrize(("which", "words", "sick", "healthy"), WARNINGS, ids=[case[1] for case in WARNINGS])
def test_each_warning_has_its_case(which: str, words: str, sick: Trace, healthy: Trace) -> None:
    assert sum(message.startswith(which + words) for message in warned(sick)) == 1
    kind = words.partition(" from")[0]
    assert not any(kind in message for message in warned(healthy))


def test_each_warning_names_a_remedy() -> None:
    for _, _, sick, _ in WARNINGS:
        for message in warned(sick):
            assert any(remedy in message for remedy in ("truncation", "pooling: delta", "check that the inputs differ"))


def test_warnings_name_the_script() -> None:
    healthy, sick = built(), built(norms=(1.0, 20.0))
    both = Trace(
        healthy.compatibility + sick.compatibility,
        healthy.states + sick.states,
        healthy.outputs + sick.outputs,
        healthy.logits,
    )
    assert [message[:26] for message in warned(both)] == ["the states of script1 grow"]


# Truncation, open pairs and elements without a function, measured on random directions in 24 dimensions.
MEASURED = [(0.6, 0.02, 0.89), (0.9, 0.32, 0.16), (1.0, 0.50, 0.03), (1.42, 0.98, 0.0)]


@pytest.mark.parametrize(("truncation", "open_pairs", "orphans"), MEASURED)
def test_truncations_open_as_much_as_measured(truncation: float, open_pairs: float, orphans: float) -> None:
    generator = torch.Generator().manual_seed(0)
    type_BVT = unit(torch.randn(200, 20, 24, generator=generator))
    found = []
    for _ in range(40):  # other signatures each time: with five functions they differ much
        signature_UT = unit(torch.randn(5, 24, generator=generator))
        c_BUV = truncated_kernel(distance(type_BVT, signature_UT), torch.tensor(1.0), truncation)
        traced = Trace([[c_BUV]], [[]], [type_BVT], {"task": torch.zeros(2, 3)})
        figures = routing_figures(traced)
        found.append((figures["routing/open"], figures["routing/orphans"]))
    means = torch.tensor(found).mean(dim=0)
    torch.testing.assert_close(means, torch.tensor([open_pairs, orphans]), atol=0.025, rtol=0)


def test_an_author_truncation_opens_nearly_all_of_a_model_at_its_start() -> None:
    model = build(recipe_of("model.router.truncation=1.42", "model.type=24", "model.width=60"))
    figures = routing_figures(trace(model, torch.randn(8, 2, 9, 6, generator=torch.Generator().manual_seed(0))))
    assert figures["routing/open"] > 0.8
    assert figures["routing/orphans"] < 0.02
