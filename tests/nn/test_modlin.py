"""Linear maps modulated by a function's code."""

from __future__ import annotations

import torch

from ni_framework.nn.modlin import ModulatedMap, Modulation, code_scale, modlin

U, D, E, C, R = 3, 5, 4, 6, 7


def randn_modlin(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_scale_is_a_normalised_map_of_the_code() -> None:
    code_UC, weight_DC = randn_modlin(U, C, seed=0), randn_modlin(D, C, seed=1)
    scale_UD = code_scale(code_UC, weight_DC)
    for u in range(U):
        raw_D = torch.stack([(weight_DC[d] * code_UC[u]).sum() for d in range(D)])
        torch.testing.assert_close(scale_UD[u], (raw_D - raw_D.mean()) / (raw_D.var(correction=0) + 1e-5).sqrt())


def test_scale_belongs_to_the_input_of_the_map() -> None:
    """W (x * s) + b, not s * (W x) and not W x * s + b, which do not even have the width of s."""
    x_RD, scale_RD, weight_ED, bias_E = (
        randn_modlin(R, D, seed=0),
        randn_modlin(R, D, seed=1),
        randn_modlin(E, D, seed=2),
        randn_modlin(E, seed=3),
    )
    found = modlin(x_RD, scale_RD, weight_ED, bias_E)
    for r in range(R):
        for e in range(E):
            expected = sum(weight_ED[e, d] * scale_RD[r, d] * x_RD[r, d] for d in range(D)) + bias_E[e]
            torch.testing.assert_close(found[r, e], torch.as_tensor(expected))


def test_folded_weight_is_the_same_map() -> None:
    weight_ED, scale_UD, x_D = randn_modlin(E, D, seed=0), randn_modlin(U, D, seed=1), randn_modlin(D, seed=2)
    modulation = Modulation(ModulatedMap(weight_ED, scale_UD, None))
    assert modulation.folded_UED.shape == (U, E, D)
    for u in range(U):
        torch.testing.assert_close(modulation.folded_UED[u] @ x_D, modlin(x_D, scale_UD[u], weight_ED, None))
