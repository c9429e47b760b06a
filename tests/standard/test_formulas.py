"""Formulas of fuzzy logic: their values, their moments, which there are; and the head that answers them."""

from __future__ import annotations

import re
from itertools import combinations

import pytest
import torch
from ni_standard.data.formulas import Formulas, FormulasSplit, Tree, formulas, shares, standard_points, variables
from ni_standard.heads.classify import Classify
from ni_standard.heads.regress import Regress

from ni_framework.contracts import Choice
from ni_framework.errors import OptionError, RunError
from ni_framework.nn.random import keys

X, Y = Tree(0, False), Tree(1, False)


def build(kind: str, choice: Choice, *sizes: object) -> object:
    raise AssertionError(kind)


def opened(**options: int) -> dict[str, FormulasSplit]:
    return Formulas(Formulas.Config(**options), build).open()


def test_values_are_those_of_fuzzy_logic() -> None:
    x_NX = torch.tensor([[0.5, 0.2, 0.0, 0.0, 0.0]])
    either = Tree((Tree(0, True), Tree(1, True)), True)
    assert str(either) == "not (not x0 and not x1)"
    assert either.value(x_NX).item() == pytest.approx(0.5 + 0.2 - 0.5 * 0.2)
    assert Tree((X, Y), False).value(x_NX).item() == pytest.approx(0.1)


def test_the_list_is_always_the_same() -> None:
    """A trained interpreter's formulas stay what they were; new ones come after them."""
    listed = formulas(4, 30)
    assert formulas(4, 20) == listed[:20]
    assert str(listed[0].tree) == "(not ((x2 and not x1) and not x3) and (not x0 and not x3))"
    assert str(listed[20].tree) == "not ((not x0 and not x4) and (not x2 and not (x0 and x0)))"
    assert all(str(formula.tree).count("and") == 4 for formula in listed)


def test_moments_are_exact() -> None:
    """Of as many samples as one likes, values have zero mean and unit variance."""
    split = FormulasSplit(variables(200_000, 9), {str(n): formula for n, formula in enumerate(formulas(4, 30))})
    values = torch.stack(list(split.values.values()))
    assert values.mean(dim=1).abs().max() < 0.01
    assert (values.var(dim=1) - 1).abs().max() < 0.02


def test_share_of_a_variable_by_hand() -> None:
    """Of x y: E[y^2] Var(x) = 1/36 of 1/9 - 1/16."""
    x_NX, _ = standard_points(4)
    value_N = (Tree((X, Y), False).value(x_NX) - 1 / 4) / (7 / 144) ** 0.5
    assert shares(value_N, 4) == pytest.approx([4 / 7, 4 / 7, 0, 0, 0])


@pytest.mark.parametrize("operations", [2, 4, 6])
def test_formulas_differ_and_none_is_trivial(operations: int) -> None:
    """By correlation, and by what becomes of the values when one variable is drawn anew."""
    x_NX, other_NX = variables(20_000, 9).double(), variables(20_000, 10).double()
    found = formulas(operations, 30)
    value = torch.stack([(of.tree.value(x_NX) - of.mean) / of.deviation for of in found])
    assert max(abs(float((value[a] * value[b]).mean())) for a, b in combinations(range(30), 2)) < 0.92
    assert min(of.deviation for of in found) >= 0.1
    moved = []
    for variable in range(5):
        changed = x_NX.clone()
        changed[:, variable] = other_NX[:, variable]
        again = torch.stack([(of.tree.value(changed) - of.mean) / of.deviation for of in found])
        moved.append((again - value).square().mean(dim=1) / 2)
    assert bool((torch.stack(moved) > 0.045).sum(dim=0).ge(3).all())


def test_a_sample_has_an_answer_for_every_task() -> None:
    data = Formulas(Formulas.Config(first=20, count=10, samples=50), build)
    assert data.tasks == {f"formula_{number}": 1 for number in range(20, 30)}
    splits = data.open()
    assert (len(splits["train"]), len(splits["test"])) == (50, 1000)
    index_B = torch.tensor([7, 0, 49])
    batch = splits["train"].batch(index_B, keys(0, index_B))
    assert batch.inputs.shape == (3, *data.shape) == (3, 5, 1)
    assert batch.present == {}
    for task, formula in zip(data.tasks, formulas(4, 30)[20:], strict=True):
        plain = (formula.tree.value(batch.inputs[:, :, 0].double()) - formula.mean) / formula.deviation
        torch.testing.assert_close(batch.targets[task], plain.float())


def test_draws_are_other_samples_of_the_same_formulas() -> None:
    first, again, other = opened(samples=100), opened(samples=100), opened(samples=100, draw=1)
    assert torch.equal(first["train"].x_NX, again["train"].x_NX)
    assert torch.equal(first["test"].x_NX, other["test"].x_NX)
    rows = torch.cat([first["train"].x_NX, other["train"].x_NX, first["test"].x_NX])
    assert len(rows.unique(dim=0)) == 1200
    assert torch.equal(opened(samples=200)["train"].x_NX[:100], first["train"].x_NX)


def test_a_list_that_ends() -> None:
    said = "formulas of 2 operations that differ, not 1000; lower `first` or `count`, or raise `operations`"
    with pytest.raises(RunError, match=re.escape(said)):
        opened(count=1000, operations=2)


def test_squared_error_of_each_sample() -> None:
    head = Regress(Regress.Config(), 5, {"a": 1, "b": 2})
    loss = head.loss(torch.tensor([[1.0], [-2.0]]), torch.tensor([0.5, 1.0]))
    assert loss.tolist() == [0.25, 9.0]
    metrics = head.metrics(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    assert {name: value.tolist() for name, value in metrics.items()} == {"loss": [2.5], "r2": [-1.5]}


def test_each_task_reads_its_own_element() -> None:
    head = Regress(Regress.Config(), 5, {"a": 1, "b": 2})
    cls_LD, multiplicity = head.start(("b", "a"))
    assert multiplicity == 1
    assert torch.equal(cls_LD, head.cls[[1, 0]])
    answers = head(cls_LD.unsqueeze(0), None, ("b", "a"))
    torch.testing.assert_close(answers["a"], head.maps[0](head.cls[:1]))
    torch.testing.assert_close(answers["b"], head.maps[1](head.cls[1:]))


def test_numbers_are_no_classes() -> None:
    with pytest.raises(OptionError, match="formula_0 has one class, so that nothing is told apart"):
        Classify(Classify.Config(), 5, {"formula_0": 1})
