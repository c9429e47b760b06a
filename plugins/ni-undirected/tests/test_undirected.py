"""The body: comparison with coordinate descent in loops, whose updates are compared with the energy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ni_undirected.undirected import UPDATE_ORDERS, Undirected
from torch import Tensor
from torch.nn import functional as F

from ni_framework.contracts import Sizes
from ni_framework.nn.layouts.dense import DensePairs
from ni_framework.nn.layouts.packed import PackedPairs

B, U, V, D, C, H, K = 2, 3, 5, 6, 4, 2, 7
# The number of hidden units.
X = 8
FEEDBACK = 0.7
LAYOUTS = pytest.mark.parametrize("layout", [DensePairs, PackedPairs])


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build_body(order: str, sweeps: int) -> Undirected:
    torch.manual_seed(0)
    config: Any = Undirected.Config(order=order, sweeps=sweeps, heads=H, key=K, hidden=X, feedback=FEEDBACK)  # pyright: ignore[reportArgumentType]
    body = Undirected(config, Sizes(D, U, C, 3, None), None).double()  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for parameter in body.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, dtype=torch.float64)
    return body


def compatibilities() -> Tensor:
    """Returns random compatibilities, a third of them closed; function 1 takes no element of sample 0."""
    c_BUV = randn(B, U, V, seed=5).abs()
    c_BUV[randn(B, U, V, seed=6) < -0.4] = 0
    c_BUV[0, 1] = 0
    return c_BUV


class Element:
    """One element of one function, with its energy; the units w [H, J], h and y are arguments."""

    def __init__(self, body: Undirected, code_C: Tensor, x_JD: Tensor, c_J: Tensor, place: int) -> None:
        def matrix(tied_map: Any) -> Tensor:
            return tied_map.weight * F.layer_norm(tied_map.code_weight @ code_C, tied_map.weight.shape[1:])

        maps: list[Any] = list(body.observed)
        query, key, value, drive = maps
        z_JD = F.layer_norm(x_JD, (D,), body.norm.weight, body.norm.bias)
        query_HK = (matrix(query) @ z_JD[place]).view(H, K)
        key_JHK = (z_JD @ matrix(key).T).view(-1, H, K)
        self.logit_HJ = torch.einsum("hk,jhk->hj", query_HK, key_JHK) / K**0.5
        self.value_JHE = (z_JD @ matrix(value).T + value.bias).view(-1, H, D // H)
        self.drive = matrix(drive) @ z_JD[place] + drive.bias
        self.a, self.g, self.p = map(matrix, (body.attended_hidden, body.hidden_output, body.attended_output))
        self.d: Any = body.attended_output.bias
        self.c_J = c_J

    def read(self, w_HJ: Tensor) -> Tensor:
        return torch.einsum("hj,jhe->he", w_HJ, self.value_JHE).flatten()

    def energy(self, w_HJ: Tensor, h: Tensor, y: Tensor) -> Tensor:
        """Returns the energy of the docstring of `Undirected`, computed term by term."""
        a, psi = self.read(w_HJ), (torch.xlogy(1 + h, 1 + h) + torch.xlogy(1 - h, 1 - h)).sum() / 2
        attention_energy = (w_HJ * (w_HJ / self.c_J).log()).sum() - (w_HJ * self.logit_HJ).sum()
        hidden_energy = psi - h @ (self.drive + self.a @ a)
        output_energy = y @ y / 2 - y @ (self.g @ h + self.p @ a + self.d)
        return attention_energy + FEEDBACK * hidden_energy + FEEDBACK**2 * output_energy

    def start(self) -> dict[str, Tensor]:
        w_HJ = (self.c_J / self.c_J.sum()).expand(H, -1)
        return {"attention": w_HJ, "hidden": torch.zeros(X).double(), "output": torch.zeros(D).double()}

    def update_unit(self, unit: str, units: dict[str, Tensor]) -> dict[str, Tensor]:
        w_HJ, h, y = units.values()
        if unit == "attention":
            field_HE = (FEEDBACK * self.a.T @ h + FEEDBACK**2 * self.p.T @ y).view(H, -1)
            logit_HJ = self.c_J.log() + self.logit_HJ + torch.einsum("jhe,he->hj", self.value_JHE, field_HE)
            return units | {unit: torch.softmax(logit_HJ, dim=-1)}
        if unit == "hidden":
            return units | {unit: torch.tanh(self.drive + self.a @ self.read(w_HJ) + FEEDBACK * self.g.T @ y)}
        return units | {unit: self.g @ h + self.p @ self.read(w_HJ) + self.d}


def reference_loop(body: Undirected, x_BVD: Tensor, code_UC: Tensor, c_BUV: Tensor, order: str, sweeps: int) -> Tensor:
    y_BUVD = torch.zeros(B, U, V, D, dtype=torch.float64)
    for b, u, i in c_BUV.nonzero().tolist():
        open_elements = c_BUV[b, u].nonzero().squeeze(1)
        element = Element(
            body, code_UC[u], x_BVD[b, open_elements], c_BUV[b, u, open_elements], open_elements.tolist().index(i)
        )
        units = element.start()
        for unit in UPDATE_ORDERS[order] * sweeps:
            units = element.update_unit(unit, units)
        y_BUVD[b, u, i] = x_BVD[b, i] + c_BUV[b, u, i] * units["output"]
    return y_BUVD


@LAYOUTS
@pytest.mark.parametrize(
    ("order", "sweeps"),
    [("forward", 1), ("forward", 2), ("forward", 3), ("hidden_first", 1), ("hidden_first", 2), ("backward", 3)],
)
def test_reference(layout: Any, order: str, sweeps: int) -> None:
    """Results and gradients are equal, with closed pairs and a function that takes no element of a sample."""
    body, c_BUV, results = build_body(order, sweeps), compatibilities(), []
    for plain in (True, False):
        x_BVD, code_UC = (randn(*shape, seed=3).requires_grad_() for shape in ((B, V, D), (U, C)))
        if plain:
            y_BUVD = reference_loop(body, x_BVD, code_UC, c_BUV, order, sweeps)
        else:
            pairs = layout(c_BUV)
            y_BUVD = pairs.to_dense(body(x_BVD, body.prepare(code_UC, V), pairs))
        total = (y_BUVD * randn(B, U, V, D, seed=9)).sum()
        results.append((y_BUVD, *torch.autograd.grad(total, [x_BVD, code_UC, *body.parameters()])))
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("order", UPDATE_ORDERS)
def test_every_update_is_the_exact_minimiser_of_its_unit(order: str) -> None:
    """The energy never increases, its gradient in the updated unit is 0 (for attention: constant along j), sweeps converge."""
    body, c_J = build_body(order, 2), torch.tensor([0.3, 0.9, 0.2, 0.5]).double()
    element = Element(body, randn(C, seed=1), randn(4, D, seed=2), c_J, 1)
    units, energies = element.start(), []
    energies.append(element.energy(*units.values()).item())
    for unit in UPDATE_ORDERS[order] * 100:
        units = {name: state.detach().requires_grad_() for name, state in element.update_unit(unit, units).items()}
        energy = element.energy(*units.values())
        (slope,) = torch.autograd.grad(energy, units[unit])
        slope = slope - slope.mean(dim=-1, keepdim=True) if unit == "attention" else slope
        torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-9)
        energies.append(energy.item())
        assert energies[-1] <= energies[-2] + 1e-12
    assert energies[0] - energies[-1] > 0.1
    assert energies[-4] - energies[-1] < 1e-10
    for slope in torch.autograd.grad(element.energy(*units.values()), list(units.values())):
        assert (slope - slope.mean(dim=-1, keepdim=True) * (slope.ndim > 1)).abs().max() < 1e-4
