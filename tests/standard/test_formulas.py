"""The data set `formulas`: values, moments and the list of formulas; and the head `regress`."""

from __future__ import annotations

import re
from itertools import combinations

import pytest
import torch
from ni_standard.data.formulas import (
    Formulas,
    FormulasSplit,
    Tree,
    draw_variables,
    list_formulas,
    quadrature_points,
    variance_shares,
)
from ni_standard.heads.classify import Classify
from ni_standard.heads.regress import Regress

from ni_framework.contracts import ComponentSpec
from ni_framework.errors import OptionError, RunError
from ni_framework.nn.random import rng_keys

X, Y = Tree(0, False), Tree(1, False)


def reject_component(kind: str, choice: ComponentSpec, *sizes: object) -> object:
    raise AssertionError(kind)


def open_formulas(**options: int) -> dict[str, FormulasSplit]:
    return Formulas(Formulas.Config(**options), reject_component).open()


def test_values_of_formulas() -> None:
    x_NX = torch.tensor([[0.5, 0.2, 0.0, 0.0, 0.0]])
    either = Tree((Tree(0, True), Tree(1, True)), True)
    assert str(either) == "not (not x0 and not x1)"
    assert either.value(x_NX).item() == pytest.approx(0.5 + 0.2 - 0.5 * 0.2)
    assert Tree((X, Y), False).value(x_NX).item() == pytest.approx(0.1)


def test_list_of_formulas_is_fixed() -> None:
    """New formulas are added at the end, so the formulas of a trained interpreter stay the same."""
    listed = list_formulas(4, 30)
    assert list_formulas(4, 20) == listed[:20]
    assert str(listed[0].tree) == "(not ((x2 and not x1) and not x3) and (not x0 and not x3))"
    assert str(listed[20].tree) == "not ((not x0 and not x4) and (not x2 and not (x0 and x0)))"
    assert all(str(formula.tree).count("and") == 4 for formula in listed)


def test_moments_are_exact() -> None:
    """Over many samples, values have zero mean and unit variance."""
    split = FormulasSplit(
        draw_variables(200_000, 9), {str(n): formula for n, formula in enumerate(list_formulas(4, 30))}
    )
    values = torch.stack(list(split.values.values()))
    assert values.mean(dim=1).abs().max() < 0.01
    assert (values.var(dim=1) - 1).abs().max() < 0.02


def test_variance_share_of_a_variable() -> None:
    """For x y, the share of each variable is E[y^2] Var(x) = 1/36 divided by the variance 1/9 - 1/16."""
    x_NX, _ = quadrature_points(4)
    value_N = (Tree((X, Y), False).value(x_NX) - 1 / 4) / (7 / 144) ** 0.5
    assert variance_shares(value_N, 4) == pytest.approx([4 / 7, 4 / 7, 0, 0, 0])


@pytest.mark.parametrize("operations", [2, 4, 6])
def test_formulas_differ_and_depend_on_several_variables(operations: int) -> None:
    """Measured by correlations, and by the changes of values when one variable is redrawn."""
    x_NX, other_NX = draw_variables(20_000, 9).double(), draw_variables(20_000, 10).double()
    formulas = list_formulas(operations, 30)
    value = torch.stack([(formula.tree.value(x_NX) - formula.mean) / formula.deviation for formula in formulas])
    assert max(abs(float((value[a] * value[b]).mean())) for a, b in combinations(range(30), 2)) < 0.92
    assert min(formula.deviation for formula in formulas) >= 0.1
    shares = []
    for variable in range(5):
        changed = x_NX.clone()
        changed[:, variable] = other_NX[:, variable]
        again = torch.stack([(formula.tree.value(changed) - formula.mean) / formula.deviation for formula in formulas])
        shares.append((again - value).square().mean(dim=1) / 2)
    assert bool((torch.stack(shares) > 0.045).sum(dim=0).ge(3).all())


def test_samples_have_targets_for_every_task() -> None:
    data = Formulas(Formulas.Config(first=20, count=10, samples=50), reject_component)
    assert data.tasks == {f"formula_{number}": 1 for number in range(20, 30)}
    splits = data.open()
    assert len(splits["train"]) == 50
    assert len(splits["test"]) == 1000
    index_B = torch.tensor([7, 0, 49])
    batch = splits["train"].batch(index_B, rng_keys(0, index_B))
    assert batch.inputs.shape == (3, *data.shape) == (3, 5, 1)
    assert batch.present == {}
    for task, formula in zip(data.tasks, list_formulas(4, 30)[20:], strict=True):
        plain = (formula.tree.value(batch.inputs[:, :, 0].double()) - formula.mean) / formula.deviation
        torch.testing.assert_close(batch.targets[task], plain.float())


def test_draws_have_different_training_samples() -> None:
    first, again, other = open_formulas(samples=100), open_formulas(samples=100), open_formulas(samples=100, draw=1)
    assert torch.equal(first["train"].x_NX, again["train"].x_NX)
    assert torch.equal(first["test"].x_NX, other["test"].x_NX)
    rows = torch.cat([first["train"].x_NX, other["train"].x_NX, first["test"].x_NX])
    assert len(rows.unique(dim=0)) == 1200
    assert torch.equal(open_formulas(samples=200)["train"].x_NX[:100], first["train"].x_NX)


@pytest.mark.slow
def test_too_few_formulas() -> None:
    message = "different formulas of 2 operations, not 1000; lower `first` or `count`, or raise `operations`"
    with pytest.raises(RunError, match=re.escape(message)):
        open_formulas(count=1000, operations=2)


def test_squared_error_of_each_sample() -> None:
    head = Regress(Regress.Config(), 5, {"a": 1, "b": 2})
    loss = head.loss(torch.tensor([[1.0], [-2.0]]), torch.tensor([0.5, 1.0]))
    assert loss.tolist() == [0.25, 9.0]
    metrics = head.metrics(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    assert {name: value.tolist() for name, value in metrics.items()} == {"loss": [2.5], "one_minus_mse": [-1.5]}


def test_each_task_reads_its_own_cls_element() -> None:
    head = Regress(Regress.Config(), 5, {"a": 1, "b": 2})
    cls_LD, multiplicity = head.cls_tokens(("b", "a"))
    assert multiplicity == 1
    assert torch.equal(cls_LD, head.cls[[1, 0]])
    outputs = head(cls_LD.unsqueeze(0), None, ("b", "a"))
    torch.testing.assert_close(outputs["a"], head.maps[0](head.cls[:1]))
    torch.testing.assert_close(outputs["b"], head.maps[1](head.cls[1:]))


def test_classify_rejects_tasks_with_one_class() -> None:
    with pytest.raises(OptionError, match="formula_0 has one class, so there is nothing to classify"):
        Classify(Classify.Config(), 5, {"formula_0": 1})
