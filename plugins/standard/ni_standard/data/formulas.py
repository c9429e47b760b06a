"""Random formulas of fuzzy logic: a list of many small tasks over the same five variables."""

from __future__ import annotations

from functools import cache
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ni_framework.contracts import Batch, ComponentFactory, Data
from ni_framework.errors import RunError
from ni_framework.nn.random import rng_keys, uniform
from ni_framework.options import config, option

VARIABLES = 5
# The number of held-out samples.
NUM_TEST_SAMPLES = 1000
# The seed of the list of formulas.
_FORMULA_SEED = 0x10C1C
# After this number of rejected candidates in a row, the list is considered complete.
_MAX_REJECTED = 300
# A formula depends on at least this number of variables, each with at least this share of the formula's variance.
_MIN_VARIABLES = 3
_MIN_VARIANCE_SHARE = 0.05
# The least standard deviation of a formula's values.
_MIN_DEVIATION = 0.1
# Two formulas count as equal if the absolute value of their correlation is larger than this.
_MAX_CORRELATION = 0.9


class Formulas(Data):
    """Truth values of formulas with `and = x y` and `not = 1 - x` over five variables, uniform in [0, 1]: a task for each.

    A sample consists of the five variables. It has a target for every task: the value of the formula, standardised to zero mean
    and unit variance by its exact moments. The list of formulas is always the same for a number of operations, so `first: 20`
    continues after the first twenty. Each formula depends on three variables or more, and no two formulas are equal or each
    other's `not`.
    """

    @config
    class Config:
        count: int = option(default=20, ge=1, le=1000, help="number of formulas")
        first: int = option(default=0, ge=0, le=1000, help="position of the first formula in the list of all formulas")
        operations: int = option(default=4, ge=2, le=8, help="number of times that a formula contains `and`")
        samples: int = option(default=2000, ge=1, le=1_000_000, help="training samples")
        draw: int = option(default=0, ge=0, le=1_000_000, help="number of the random draw of the training samples")

    shape = (VARIABLES, 1)

    def __init__(self, config: Config, build: ComponentFactory) -> None:
        self.config = config
        self.tasks = {f"formula_{config.first + number}": 1 for number in range(config.count)}

    def open(self) -> dict[str, FormulasSplit]:
        config = self.config
        candidates = list_formulas(config.operations, config.first + config.count)[config.first :]
        chosen = dict(zip(self.tasks, candidates, strict=True))
        return {
            "train": FormulasSplit(draw_variables(config.samples, 1 + config.draw), chosen),
            "test": FormulasSplit(draw_variables(NUM_TEST_SAMPLES, 0), chosen),
        }


class FormulasSplit:
    """Variables [n, 5] and the standardised values of each formula [n]; samples are not augmented."""

    def __init__(self, x_NX: Tensor, chosen: dict[str, Formula]) -> None:
        self.x_NX = x_NX
        self.values = {
            task: ((formula.tree.value(x_NX.double()) - formula.mean) / formula.deviation).float()
            for task, formula in chosen.items()
        }

    def __len__(self) -> int:
        return len(self.x_NX)

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        targets = {task: value[index_B] for task, value in self.values.items()}
        return Batch(self.x_NX[index_B].unsqueeze(-1), targets)


def draw_variables(samples: int, stream: int) -> Tensor:
    """Returns the variables [samples, 5] of a split; each stream has its own samples."""
    return uniform(rng_keys(1, (stream << 32) + torch.arange(samples)), VARIABLES)


class Tree(NamedTuple):
    """A formula as a tree: the number of a variable, or the `and` of two trees; with `negated`, `not` is before it."""

    operand: int | tuple[Tree, Tree]
    negated: bool

    def value(self, x_NX: Tensor) -> Tensor:
        """Returns the values of the formula: [n, 5] -> [n]."""
        if isinstance(self.operand, int):
            value = x_NX[:, self.operand]
        else:
            left, right = self.operand
            value = left.value(x_NX) * right.value(x_NX)
        return 1 - value if self.negated else value

    def __str__(self) -> str:
        inside = f"x{self.operand}" if isinstance(self.operand, int) else f"({self.operand[0]} and {self.operand[1]})"
        return f"not {inside}" if self.negated else inside


class Formula(NamedTuple):
    """A formula, with the mean and the standard deviation of its values over the cube of the variables."""

    tree: Tree
    mean: float
    deviation: float


@cache
def list_formulas(operations: int, number: int) -> tuple[Formula, ...]:
    """Returns the first formulas of the list.

    Args:
        operations: The number of `and` in each formula.
        number: The number of formulas.

    Raises:
        RunError: There are fewer different formulas with this number of operations.
    """
    x_NX, weight_N = quadrature_points(operations + 2)
    accepted: list[Formula] = []
    # The standardised values of the accepted formulas.
    accepted_values = torch.empty(0, len(x_NX), dtype=torch.float64)
    rejected = 0
    for place in count():
        if len(accepted) == number:
            break
        if rejected == _MAX_REJECTED:
            raise RunError(
                f"formulas: there are only {len(accepted)} different formulas of {operations} operations, not {number}; "
                f"lower `first` or `count`, or raise `operations`"
            )
        rejected += 1
        tree = _draw_tree(operations, place)
        value_N = tree.value(x_NX)
        mean = float(weight_N @ value_N)
        deviation = float(weight_N @ (value_N - mean).square()) ** 0.5
        if deviation < _MIN_DEVIATION:
            continue
        standard_N = (value_N - mean) / deviation
        correlation = accepted_values @ (weight_N * standard_N)
        if len(accepted) and correlation.abs().amax() > _MAX_CORRELATION:
            continue
        if sum(share > _MIN_VARIANCE_SHARE for share in variance_shares(standard_N, operations + 2)) < _MIN_VARIABLES:
            continue
        rejected = 0
        accepted.append(Formula(tree, mean, deviation))
        accepted_values = torch.cat([accepted_values, standard_N.unsqueeze(0)])
    return tuple(accepted)


def variance_shares(standard_N: Tensor, points: int) -> list[float]:
    """Returns, for each variable, the share of a formula's variance that is lost when the variable is unknown."""
    _, weight = _gauss_legendre(points)
    value = standard_N.view([points] * VARIABLES)
    shares = []
    for variable in range(VARIABLES):
        # The variance along this variable, for fixed values of the others, and then its mean over the others.
        values = value.movedim(variable, -1)
        variance = (values.square() @ weight) - (values @ weight).square()
        for _ in range(VARIABLES - 1):
            variance = variance @ weight
        shares.append(float(variance))
    return shares


def _draw_tree(operations: int, place: int) -> Tree:
    """Draws a candidate: leaves that are joined in pairs, in a random order."""
    draw = iter(uniform(rng_keys(_FORMULA_SEED, torch.tensor([place])), 4 * operations + 2)[0].tolist())
    trees = [Tree(int(next(draw) * VARIABLES), next(draw) < 0.5) for _ in range(operations + 1)]
    while len(trees) > 1:
        left = trees.pop(int(next(draw) * len(trees)))
        right = trees.pop()
        trees.insert(0, Tree((left, right), next(draw) < 0.5))
    return trees[0]


def _gauss_legendre(points: int) -> tuple[Tensor, Tensor]:
    """Returns points in [0, 1] and weights of Gauss-Legendre quadrature: exact for polynomials of a degree below 2 `points`."""
    place, weight = np.polynomial.legendre.leggauss(points)
    return torch.from_numpy((place + 1) / 2), torch.from_numpy(weight / 2)


def quadrature_points(points: int) -> tuple[Tensor, Tensor]:
    """Returns points [n, 5] and weights [n] over all variables; exact, because a formula is a polynomial in each variable."""
    place, weight = _gauss_legendre(points)
    return torch.cartesian_prod(*[place] * VARIABLES), torch.cartesian_prod(*[weight] * VARIABLES).prod(dim=1)
