"""Random formulas of fuzzy logic: many small tasks over the same five variables, and ever more of them."""

from __future__ import annotations

from functools import cache
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ni_framework.contracts import Batch, Build, Data
from ni_framework.errors import RunError
from ni_framework.nn.random import keys, uniform
from ni_framework.options import config, option

VARIABLES = 5
TESTED = 1000  # held-out samples
_SEED = 0x10C1C  # of the list of formulas
_TRIED = 300  # candidates in a row that are refused before the list is thought to be at its end
_NEEDED = 3  # variables that a formula depends on at least, each of them
_SHARE = 0.05  # with at least so much of its variance
_DEVIATION = 0.1  # at least of a formula's values
_ALIKE = 0.9  # correlation, of either sign, from which on two formulas count as one


class Formulas(Data):
    """Truth values of formulas with `and = x y` and `not = 1 - x` over five variables, uniform in [0, 1]: a task for each.

    A sample is the five variables and has an answer for every task: the formula's value, brought to zero mean and unit
    variance by its exact moments. Formulas are a list without end, always the same for as many operations: `first: 20` are
    others than the first twenty. Each depends on three variables or more, and no two are alike or each other's `not`.
    """

    @config
    class Config:
        count: int = option(default=20, ge=1, le=1000, help="number of formulas")
        first: int = option(default=0, ge=0, le=1000, help="place of the first one in the list of all formulas")
        operations: int = option(default=4, ge=2, le=8, help="how often a formula says `and`")
        samples: int = option(default=2000, ge=1, le=1_000_000, help="training samples")
        draw: int = option(default=0, ge=0, le=1_000_000, help="which of the many sets of so many training samples")

    shape = (VARIABLES, 1)

    def __init__(self, config: Config, build: Build) -> None:
        self.config = config
        self.tasks = {f"formula_{config.first + number}": 1 for number in range(config.count)}

    def open(self) -> dict[str, FormulasSplit]:
        config = self.config
        listed = formulas(config.operations, config.first + config.count)[config.first :]
        chosen = dict(zip(self.tasks, listed, strict=True))
        return {
            "train": FormulasSplit(variables(config.samples, 1 + config.draw), chosen),
            "test": FormulasSplit(variables(TESTED, 0), chosen),
        }


class FormulasSplit:
    """Variables [n, 5] and the standardised values of each formula [n]; nothing about a sample is random."""

    def __init__(self, x_NX: Tensor, chosen: dict[str, Formula]) -> None:
        self.x_NX = x_NX
        self.values = {
            task: ((of.tree.value(x_NX.double()) - of.mean) / of.deviation).float() for task, of in chosen.items()
        }

    def __len__(self) -> int:
        return len(self.x_NX)

    def batch(self, index_B: Tensor, key_B: Tensor | None) -> Batch:
        targets = {task: value[index_B] for task, value in self.values.items()}
        return Batch(self.x_NX[index_B].unsqueeze(-1), targets)


def variables(samples: int, part: int) -> Tensor:
    """The variables [samples, 5] of a part; no two parts share a sample."""
    return uniform(keys(1, (part << 32) + torch.arange(samples)), VARIABLES)


class Tree(NamedTuple):
    """A variable by its number, or the `and` of two trees; `negated` puts `not` before it."""

    of: int | tuple[Tree, Tree]
    negated: bool

    def value(self, x_NX: Tensor) -> Tensor:
        """[n, 5] -> [n]"""
        if isinstance(self.of, int):
            value = x_NX[:, self.of]
        else:
            left, right = self.of
            value = left.value(x_NX) * right.value(x_NX)
        return 1 - value if self.negated else value

    def __str__(self) -> str:
        inside = f"x{self.of}" if isinstance(self.of, int) else f"({self.of[0]} and {self.of[1]})"
        return f"not {inside}" if self.negated else inside


class Formula(NamedTuple):
    """A formula, with the mean and the standard deviation of its values over the cube of the variables."""

    tree: Tree
    mean: float
    deviation: float


@cache
def formulas(operations: int, number: int) -> tuple[Formula, ...]:
    """So many formulas of the list; raises `RunError` where there are fewer that differ."""
    x_NX, weight_N = standard_points(operations + 2)
    found: list[Formula] = []
    seen = torch.empty(0, len(x_NX), dtype=torch.float64)  # standardised values of those that were found
    refused = 0
    for place in count():
        if len(found) == number:
            break
        if refused == _TRIED:
            raise RunError(
                f"formulas: there are only {len(found)} formulas of {operations} operations that differ, not {number}; "
                f"lower `first` or `count`, or raise `operations`"
            )
        refused += 1
        tree = _tree(operations, place)
        value_N = tree.value(x_NX)
        mean = float(weight_N @ value_N)
        deviation = float(weight_N @ (value_N - mean).square()) ** 0.5
        if deviation < _DEVIATION:
            continue
        standard_N = (value_N - mean) / deviation
        if (seen @ (weight_N * standard_N)).abs().amax() > _ALIKE if len(seen) else False:
            continue
        if sum(share > _SHARE for share in shares(standard_N, operations + 2)) < _NEEDED:
            continue
        refused = 0
        found.append(Formula(tree, mean, deviation))
        seen = torch.cat([seen, standard_N.unsqueeze(0)])
    return tuple(found)


def shares(standard_N: Tensor, points: int) -> list[float]:
    """Which share of its variance a formula loses if a variable is known no more, for each variable."""
    _, weight = _line(points)
    value = standard_N.view([points] * VARIABLES)
    shares = []
    for variable in range(VARIABLES):
        along = value.movedim(variable, -1)
        spread = (along.square() @ weight) - (along @ weight).square()  # variance along the variable, others held
        for _ in range(VARIABLES - 1):
            spread = spread @ weight
        shares.append(float(spread))
    return shares


def _tree(operations: int, place: int) -> Tree:
    """A candidate: leaves that are joined two by two, in an order of their own."""
    draw = iter(uniform(keys(_SEED, torch.tensor([place])), 4 * operations + 2)[0].tolist())
    trees = [Tree(int(next(draw) * VARIABLES), next(draw) < 0.5) for _ in range(operations + 1)]
    while len(trees) > 1:
        left = trees.pop(int(next(draw) * len(trees)))
        right = trees.pop()
        trees.insert(0, Tree((left, right), next(draw) < 0.5))
    return trees[0]


def _line(points: int) -> tuple[Tensor, Tensor]:
    """Places in [0, 1] and weights of Gauss and Legendre: exact for polynomials of a degree below 2 `points`."""
    place, weight = np.polynomial.legendre.leggauss(points)
    return torch.from_numpy((place + 1) / 2), torch.from_numpy(weight / 2)


def standard_points(points: int) -> tuple[Tensor, Tensor]:
    """The same for all variables at once, [n, 5] and [n]: a formula is a polynomial in each variable."""
    place, weight = _line(points)
    return torch.cartesian_prod(*[place] * VARIABLES), torch.cartesian_prod(*[weight] * VARIABLES).prod(dim=1)
